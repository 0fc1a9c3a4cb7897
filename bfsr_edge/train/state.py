"""The resume state: everything the next iteration depends on, in one safetensors file beside the checkpoint.

Written whole or not at all, so after a kill or a full disk the last state is still good. Batches hold no state of their
own (see `pairs`), so this is all: weights, averaged weights, the optimizer's moments, the same of the discriminator,
torch's random state, iteration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bfsr_edge.errors import TrainingError
from bfsr_edge.models import Network, write_tensors
from bfsr_edge.train.recipe import Recipe

if TYPE_CHECKING:
    from bfsr_edge.train.adversarial import Adversary

# these may differ between a run and its continuation: where things lie, how fast they go, how often they are written,
# and how long the run is (a flat-cosine run may be shortened or extended before its last part)
FREE = (
    *("iterations", "validate_every", "checkpoint_every", "log_every", "precision", "compile", "summary", "challenge"),
    *("data.faces", "data.val_lq", "data.val_gt", "data.pipeline", "data.workers", "adversarial.perceptual_file"),
)


@dataclass
class Training:
    """What changes from step to step."""

    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Of fp16; disabled in the other precisions."""
    iteration: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent training, over all parts of the run."""
    best: float = 0.0
    """Best validation PSNR so far, in dB."""
    validated_on: str = ""
    """Hash of the pictures that ``best`` was reached on; empty: not known."""
    adversary: Adversary | None = None
    """Losses beyond the pixel loss, and the discriminator if there is one."""
    parallel: nn.Module | None = None
    """The network as the step calls it, where that averages gradients over processes."""


def fingerprint(recipe: Recipe, faces: int) -> dict[str, Any]:
    """What must not change between a run and its continuation: dotted key to value, as JSON holds it."""
    values = {**_flat(dataclasses.asdict(recipe)), "faces": faces}
    kept: dict[str, Any] = json.loads(json.dumps({key: value for key, value in values.items() if key not in FREE}))
    return kept


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict) and not key.endswith("settings"):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def random_state(device: torch.device) -> Tensor:
    """torch's random state of this process: that of the CPU and, on a GPU, the GPU's behind it, as bytes."""
    parts = [torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def set_random_state(values: Tensor, device: torch.device) -> None:
    """Put `random_state` back. A GPU that the state knows nothing of keeps its own."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(values[:size].clone())
    if device.type == "cuda" and values.numel() > size:
        torch.cuda.set_rng_state(values[size:].clone(), device)


def save_state(path: Path, training: Training, recipe: Recipe, faces: int, random: Sequence[Tensor]) -> None:
    """Write the resume state to ``path``; ``random`` holds `random_state` of every process."""
    tensors: dict[str, Tensor] = {f"random/{rank}": state for rank, state in enumerate(random)}
    tensors |= {f"network/{name}": tensor for name, tensor in training.network.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in training.average.state_dict().items()}
    tensors |= _slots("optimizer/", training.optimizer)
    for prefix, discriminator, optimizer in _adversaries(training):
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in discriminator.state_dict().items()}
        tensors |= _slots(f"{prefix}-optimizer/", optimizer)
    header = {
        "format": "bfsr-edge-state",
        "fingerprint": json.dumps(fingerprint(recipe, faces)),
        "iteration": str(training.iteration),
        "seconds": repr(training.seconds),
        "best": repr(training.best),
        "validated_on": training.validated_on,
        "scaler": json.dumps(training.scaler.state_dict()),
    }
    write_tensors(path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)


def load_state(path: Path, training: Training, recipe: Recipe, faces: int, device: torch.device, rank: int = 0) -> None:
    """Continue from ``path``: fills ``training`` and torch's random state in place.

    A process of a number that the run did not have before gets a random state of its own.

    Raises
    ------
    TrainingError
        The file is damaged or belongs to another run; what differs is named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be read", why=(str(error),), fix="start again with another --out, or --restart"
        ) from error
    _check_same_run(path, header, fingerprint(recipe, faces))
    training.network.load_state_dict(_below("network/", tensors))
    training.average.load_state_dict(_below("average/", tensors))
    _fill(training.optimizer, _below("optimizer/", tensors))
    for prefix, discriminator, optimizer in _adversaries(training):
        discriminator.load_state_dict(_below(f"{prefix}/", tensors))
        _fill(optimizer, _below(f"{prefix}-optimizer/", tensors))
    random = tensors.get(f"random/{rank}", tensors.get("random"))  # older states hold that of one process
    if random is not None and (rank == 0 or f"random/{rank}" in tensors):
        set_random_state(random, device)
    else:
        torch.manual_seed(process_seed(recipe, rank, int(header["iteration"])))
    scale = json.loads(header.get("scaler", "{}"))
    if scale and training.scaler.is_enabled():
        training.scaler.load_state_dict(scale)
    training.iteration = int(header["iteration"])
    training.seconds = float(header["seconds"])
    training.best = float(header["best"])
    training.validated_on = header.get("validated_on", "")


LARGEST_SEED = 1 << 63
"""What torch's generators take."""


def process_seed(recipe: Recipe, rank: int, iteration: int) -> int:
    """A seed of its own for each process, from which ``rank`` goes on at ``iteration``."""
    return ((recipe.seed * 1_000_003 + iteration) * 1_009 + rank) % LARGEST_SEED


def _adversaries(training: Training) -> list[tuple[str, nn.Module, torch.optim.Optimizer]]:
    """The discriminator with its optimizer, if there is one, without what wraps it."""
    adversary = training.adversary
    if adversary is None or adversary.discriminator is None or adversary.optimizer is None:
        return []
    discriminator = adversary.discriminator
    plain = discriminator.module if isinstance(discriminator, DistributedDataParallel) else discriminator
    return [("discriminator", plain, adversary.optimizer)]


def _slots(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, by the parameter's place."""
    return {
        f"{prefix}{index}/{slot}": torch.as_tensor(value)
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def _fill(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split("/")
        weight = weights[int(index)]
        if tensor.shape == weight.shape:
            # files hold tensors row by row; fused optimizers take moments in the weights' own layout alone
            tensor = torch.empty_like(weight, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_same_run(path: Path, header: dict[str, str], mine: dict[str, Any]) -> None:
    theirs = _flat(json.loads(header.get("fingerprint", "{}")))
    # a setting that the older file does not know had no effect yet: what it does now by default
    defaults = fingerprint(Recipe(), mine["faces"])
    differing = [key for key in mine if theirs.get(key, defaults[key]) != mine[key]]
    if differing:
        raise TrainingError(
            f"{path} belongs to another run: {', '.join(differing)} differ",
            why=("the recipe was changed", "the faces are not the same ones"),
            fix="give another --out for the new run, or --restart to throw the old one away",
        )
