"""What stands before the first step of a run: its folder, faces, weights, batches, and a few lines that say so."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bfsr_edge import degrade, files
from bfsr_edge.errors import BfsrError, TrainingError, UsageError
from bfsr_edge.faceset import Face, find_faces
from bfsr_edge.models import Network, create, load_checkpoint, parameter_count
from bfsr_edge.models.blocks import ResidualBlock, residual_blocks
from bfsr_edge.train import disk
from bfsr_edge.train.devices import choose_precision
from bfsr_edge.train.distributed import Processes
from bfsr_edge.train.headers import Bad, find_bad, refuse
from bfsr_edge.train.optimizer import make_optimizer
from bfsr_edge.train.pairs import ALONE, Share, cpu_batches, worker_count
from bfsr_edge.train.recipe import CHALLENGE_PARAMETERS, Recipe
from bfsr_edge.train.state import Training, load_state, process_seed
from bfsr_edge.train.validate import Pairs, given_pairs, made_pairs
from bfsr_edge.weights import resolve

FREE = ("blocks", "encoder", "decoder", "slope")
"""Settings in which a network may differ from the one whose weights it begins from: its depth and its activation."""


def begin_folder(out: Path, state: Path, *, restart: bool) -> None:
    """The run's folder, without the leftovers of a killed run and, on ``restart``, without its state."""
    with disk.writing(out, 0):
        out.mkdir(parents=True, exist_ok=True)
        disk.sweep(out)
        if restart:
            state.unlink(missing_ok=True)


def begin(recipe: Recipe, state: Path, faces: int, processes: Processes) -> Training:
    """The training as the state left it, or from the beginning."""
    rank = processes.place.rank
    if not state.is_file():
        training = new_training(recipe, processes.device)
        if rank:  # the same weights everywhere, but each its own dropout; the first one as if it were alone
            torch.manual_seed(process_seed(recipe, rank, 0))
        return training
    # the first weights are in the state: where they came from may be gone
    training = new_training(without_weights(recipe), processes.device)
    load_state(state, training, recipe, faces, processes.device, rank)
    return training


def check_same_state(training: Training, state: Path, processes: Processes) -> None:
    """TrainingError unless all processes go on from the same iteration; PeerFailed behind the first. Collective."""
    same = processes.agree(training.iteration)
    with processes.together():
        if processes.first and not same:
            raise TrainingError(
                f"the processes do not go on from the same iteration: {state} is not the same file for all of them",
                why=("the machines do not share a disk",),
                fix="--out must be one folder that all machines see",
            )


def forget_other_scores(training: Training, pairs: Pairs) -> bool:
    """Begin the best score anew where it was reached on other pictures; whether that is so."""
    now = pairs.sha256()
    other = training.validated_on not in ("", now)  # older states do not say
    training.validated_on = now
    if other:
        training.best = 0.0
    return other


def without_weights(recipe: Recipe) -> Recipe:
    """The same recipe from random weights."""
    return dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, weights=""))


def new_training(recipe: Recipe, device: torch.device) -> Training:
    """Fresh weights from the recipe's seed, on ``device``.

    Raises
    ------
    UsageError
        The network breaks the challenge's rules or does not take pictures of this size.
    """
    torch.manual_seed(recipe.seed)
    network = create(recipe.network.architecture, **recipe.network.settings)
    size = parameter_count(network)
    if recipe.challenge and size >= CHALLENGE_PARAMETERS:
        raise UsageError(
            f"recipe {recipe.name!r} keeps the challenge's rules, and its network has {size:,} parameters",
            why=(f"the rules allow fewer than {CHALLENGE_PARAMETERS:,}",),
            fix="make the network smaller, or take challenge = true out of the recipe",
        )
    side = recipe.picture_side // degrade.SCALE
    if side % network.stride:
        raise UsageError(
            f"the network cannot take inputs of {side} pixels",
            why=(f"their side must be a multiple of its stride, {network.stride}",),
            fix=f"make data.crop and data.size multiples of {network.stride * degrade.SCALE}",
        )
    if recipe.network.weights:
        begin_from(recipe, network)
    freeze(recipe, network)
    # the layout that convolutions want on GPUs and CPUs alike: a tenth of the step on AVX-512
    network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # not typed
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = make_optimizer(recipe.optimizer, network, device)
    precision = choose_precision(recipe, device)
    torch.backends.cudnn.benchmark = True  # shapes never change in a run, so the fastest kernels are looked for once
    torch.backends.cudnn.allow_tf32 = precision != "fp32"  # whoever asks for fp32 means it
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    training = Training(network, average, optimizer, scaler)
    if recipe.adversarial.used:
        from bfsr_edge.train.adversarial import Adversary

        training.adversary = Adversary(recipe, device)
    return training


def begin_from(recipe: Recipe, network: Network) -> None:
    """Fill ``network`` from the recipe's checkpoint; UsageError where the rules or the shapes forbid it."""
    path = recipe.network.weights
    if recipe.challenge:
        raise UsageError(
            f"recipe {recipe.name!r} keeps the challenge's rules, which forbid to begin from {path}",
            fix="take challenge = true out of the recipe, or network.weights",
        )
    given = load_checkpoint(resolve(path, kind="checkpoint").path)
    added = new_blocks(given, network)
    if added is None:
        raise UsageError(
            f"{path} holds {given.architecture} with {given.settings}, not the recipe's network",
            why=("a network may begin from one of the same widths with as many residual blocks, or fewer",),
            fix=f"train that first, or make the recipe's network {network.architecture} with {network.settings} fit",
        )
    network.load_state_dict(given.state_dict(), strict=False)
    for block in added:
        nn.init.zeros_(block.conv2.weight)


def freeze(recipe: Recipe, network: Network) -> None:
    """Keep the weights as they are in the parts that the recipe's ``optimizer.frozen`` names.

    Raises
    ------
    UsageError
        There is no such part, or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for start in recipe.optimizer.frozen:
        if not any(_below(name, start) for name in names):
            raise UsageError(
                f"recipe {recipe.name!r} freezes {start!r}, and no weights of the network are called so",
                fix=f"the network consists of {', '.join(dict.fromkeys(name.split('.')[0] for name in names))}",
            )
    for name, weight in network.named_parameters():
        weight.requires_grad_(not any(_below(name, start) for start in recipe.optimizer.frozen))
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UsageError(
            f"recipe {recipe.name!r} freezes the whole network", fix="leave something out of optimizer.frozen"
        )


def _below(name: str, start: str) -> bool:
    return f"{name}.".startswith(f"{start}.")


def new_blocks(given: Network, network: Network) -> list[ResidualBlock] | None:
    """The residual blocks of ``network`` that ``given`` lacks; None where anything else differs.

    With the second convolution of each at zero, and the same slope, the deeper network begins as the same function
    (Net2Net, Chen et al. 2016, arXiv 1511.05641), so what the smaller one learnt is kept.
    """
    kinds = [(one.architecture, {k: v for k, v in one.settings.items() if k not in FREE}) for one in (given, network)]
    if kinds[0] != kinds[1]:
        return None
    blocks = residual_blocks(network)
    have = {key: weight.shape for key, weight in given.state_dict().items()}
    want = {key: weight.shape for key, weight in network.state_dict().items()}
    added = {name: block for name, block in blocks.items() if f"{name}.conv1.weight" not in have}
    rest = {key: shape for key, shape in want.items() if not key.startswith(tuple(f"{name}." for name in added))}
    return list(added.values()) if rest == have else None


def split_faces(recipe: Recipe, *, skip_bad: bool = False) -> tuple[list[Face], Pairs, list[Bad]]:
    """Training faces, validation pairs that share no face with them, and the faces that were left out.

    Every header is read, so that a face of a wrong shape is found now and not in the middle of the night.

    Raises
    ------
    TrainingError
        Faces cannot be trained on, unless ``skip_bad`` leaves them out; or there are too few.
    """
    faces = find_faces(recipe.data.faces)
    bad = find_bad(faces, recipe.data.size)
    if not skip_bad:
        refuse(bad, len(faces), recipe.data.size)
    left_out = {one.face for one in bad}
    faces = [face for face in faces if face not in left_out]
    given = bool(recipe.data.val_lq or recipe.data.val_gt)
    if given and not (recipe.data.val_lq and recipe.data.val_gt):
        raise UsageError(
            "validation pairs are two folders, degraded pictures and true ones, and one of them is missing",
            fix="give both --val-lq and --val-gt, or neither",
        )
    kept = 0 if given else recipe.data.holdout
    if len(faces) <= kept:
        raise TrainingError(
            f"{len(faces)} faces are too few" + (f": {kept} are held out for validation" if kept else ""),
            fix="give more faces" + ("" if given else ", or pairs with --val-lq and --val-gt"),
        )
    if given:
        return faces, given_pairs(Path(recipe.data.val_lq), Path(recipe.data.val_gt)), bad
    return faces[kept:], made_pairs(recipe, faces[:kept]), bad


def make_batches(
    recipe: Recipe, faces: list[Face], start: int, device: torch.device, share: Share = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on ``device`` from iteration ``start`` on: (low quality, truth), both float32 in [0, 1].

    The pipeline is the recipe's; ``auto`` is the batched one on a GPU and OpenCV on a CPU.

    Raises
    ------
    TrainingError
        A face is damaged; it is named.
    """
    if recipe.data.pipeline == "device" or (recipe.data.pipeline == "auto" and device.type == "cuda"):
        from bfsr_edge.train.device.pairs import device_batches

        yield from device_batches(recipe, faces, start, device, share)
        return
    for low, truth in _plain_errors(cpu_batches(recipe, faces, start, share)):
        yield (
            low.to(device, non_blocking=True).float().div_(255),
            truth.to(device, non_blocking=True).float().div_(255),
        )


def _plain_errors(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; an error of ours from a worker comes without the traceback that the loader puts around it."""
    try:
        yield from batches
    except BfsrError as error:
        kind = type(error)
        _, marked, text = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
        if not marked:
            raise
        raise kind(text.strip()) from None


def own_workers(recipe: Recipe, processes: Processes) -> Recipe:
    """The recipe with this process's share of the machine's loader workers, where their number is ours to choose."""
    if recipe.data.workers >= 0:
        return recipe
    workers = max(1, worker_count(recipe) // processes.place.local_world)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, workers=workers))


def say_what_begins(
    announce: Callable[[str], None], recipe: Recipe, training: Training, faces: list[Face], pairs: Pairs, where: str
) -> None:
    """Two or three lines: how much there is to do, on what, and where."""
    if training.iteration:
        announce(f"going on at iteration {training.iteration} of {recipe.iterations}")
    announce(f"{len(faces):,} faces; validation on {pairs.source}; {where}")
    announce(
        f"{recipe.iterations:,} iterations of {recipe.batch} faces = {_epochs(recipe, faces)} epochs; "
        f"how long it takes is shown from iteration {training.iteration + min(recipe.log_every, recipe.iterations)} on"
    )


def _epochs(recipe: Recipe, faces: list[Face]) -> str:
    number = recipe.iterations * recipe.batch / len(faces)
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def say_left_out(out: Path, bad: list[Bad]) -> str:
    """Writes the whole list to ``skipped.txt``; returns a line that counts it."""
    files.replace(out / "skipped.txt", "".join(f"{one}\n" for one in bad).encode())
    return f"{len(bad)} faces are left out, {bad[0]}" + (
        f" and so on: {out / 'skipped.txt'} lists them" if len(bad) > 1 else ""
    )
