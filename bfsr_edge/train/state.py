"""The resume state: everything the next iteration depends on, in one safetensors file beside the checkpoint.

Written whole or not at all, so after a kill or a full disk the last state is still good. Batches hold no state of their
own (see `pairs`), so this is all: weights, averaged weights, the optimizer's moments, torch's random state, iteration.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfsr_edge.errors import TrainingError
from bfsr_edge.models import Network, write_tensors
from bfsr_edge.train.recipe import Recipe

# these may differ between a run and its continuation: where things lie, how fast they go, how often they are written,
# and how long the run is (a flat-cosine run may be shortened or extended before its last part)
FREE = (
    *("iterations", "validate_every", "checkpoint_every", "log_every", "precision", "compile", "summary", "challenge"),
    *("data.faces", "data.val_lq", "data.val_gt", "data.pipeline", "data.workers"),
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


def save_state(path: Path, training: Training, recipe: Recipe, faces: int) -> None:
    """Write the resume state to ``path``."""
    tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
    tensors |= {f"network/{name}": tensor for name, tensor in training.network.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in training.average.state_dict().items()}
    for index, slots in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    header = {
        "format": "bfsr-edge-state",
        "fingerprint": json.dumps(fingerprint(recipe, faces)),
        "iteration": str(training.iteration),
        "seconds": repr(training.seconds),
        "best": repr(training.best),
        "scaler": json.dumps(training.scaler.state_dict()),
    }
    write_tensors(path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)


def load_state(path: Path, training: Training, recipe: Recipe, faces: int) -> None:
    """Continue from ``path``: fills ``training`` in place, all or nothing.

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
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = tensor
    training.network.load_state_dict(_below("network/", tensors))
    training.average.load_state_dict(_below("average/", tensors))
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": slots})
    torch.set_rng_state(tensors["random"])
    scale = json.loads(header.get("scaler", "{}"))
    if scale and training.scaler.is_enabled():
        training.scaler.load_state_dict(scale)
    training.iteration = int(header["iteration"])
    training.seconds = float(header["seconds"])
    training.best = float(header["best"])


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
