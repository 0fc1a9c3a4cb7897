"""The training loop."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.models import Network, create, load_checkpoint, parameter_count, save_checkpoint
from bfsr_edge.train import schedule
from bfsr_edge.train.devices import DTYPES, checked_device, choose_precision
from bfsr_edge.train.faces import Face, find_faces
from bfsr_edge.train.interrupt import Interrupt
from bfsr_edge.train.log import Log
from bfsr_edge.train.losses import LOSSES
from bfsr_edge.train.pairs import ALONE, Share, cpu_batches
from bfsr_edge.train.recipe import CHALLENGE_PARAMETERS, Recipe
from bfsr_edge.train.state import Training, load_state, save_state
from bfsr_edge.train.validate import Pairs, given_pairs, made_pairs, score
from bfsr_edge.weights import resolve


@dataclass(frozen=True)
class Outcome:
    """How a run, or a part of it, ended."""

    iteration: int
    finished: bool
    best: float
    """Best validation PSNR, in dB."""
    checkpoint: Path


class Stopwatch:
    """Seconds of training since the last lap, pauses left out."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap; starts the next."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        return passed

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin


def new_training(recipe: Recipe, device: torch.device) -> Training:
    """Fresh weights from the recipe's seed, on ``device``; UsageError where they break the challenge's rules."""
    torch.manual_seed(recipe.seed)
    network = create(recipe.network.architecture, **recipe.network.settings)
    size = parameter_count(network)
    if recipe.challenge and size >= CHALLENGE_PARAMETERS:
        raise UsageError(
            f"recipe {recipe.name!r} keeps the challenge's rules, and its network has {size:,} parameters",
            why=(f"the rules allow fewer than {CHALLENGE_PARAMETERS:,}",),
            fix="make the network smaller, or take challenge = true out of the recipe",
        )
    if recipe.network.weights:
        begin_from(recipe, network)
    # the layout that convolutions want on GPUs and CPUs alike: a tenth of the step on AVX-512
    network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # not typed
    average = copy.deepcopy(network).eval().requires_grad_(False)
    plan = recipe.optimizer
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.name]
    optimizer = kind(network.parameters(), lr=plan.rate, betas=plan.betas, weight_decay=plan.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=choose_precision(recipe, device) == "fp16")
    return Training(network, average, optimizer, scaler)


def begin_from(recipe: Recipe, network: Network) -> None:
    """Fill ``network`` from the recipe's checkpoint; UsageError where the rules or the shapes forbid it."""
    path = recipe.network.weights
    if recipe.challenge:
        raise UsageError(
            f"recipe {recipe.name!r} keeps the challenge's rules, which forbid to begin from {path}",
            fix="take challenge = true out of the recipe, or network.weights",
        )
    given = load_checkpoint(resolve(path, kind="checkpoint").path)
    if (given.architecture, given.settings) != (network.architecture, network.settings):
        raise UsageError(
            f"{path} is a {given.architecture} with {given.settings}, not the recipe's network",
            fix=f"train that first, or make the recipe's network {network.architecture} with {network.settings} fit",
        )
    network.load_state_dict(given.state_dict())


def split_faces(recipe: Recipe) -> tuple[list[Face], Pairs]:
    """Training faces, and validation pairs that share no face with them."""
    faces = find_faces(recipe.data.faces)
    if recipe.data.val_lq or recipe.data.val_gt:
        return faces, given_pairs(Path(recipe.data.val_lq), Path(recipe.data.val_gt))
    kept = recipe.data.holdout
    if len(faces) <= kept:
        raise TrainingError(
            f"{len(faces)} faces are too few: {kept} are held out for validation",
            fix="give more faces, or pairs with --val-lq and --val-gt",
        )
    return faces[kept:], made_pairs(recipe, faces[:kept])


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    max_minutes: float = math.inf,
    report: Callable[[Training, dict[str, float]], None] = lambda training, row: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run ``recipe`` in the folder ``out``, from its resume state if there is one.

    Writes ``state.safetensors`` (to resume), ``last.safetensors`` and ``best.safetensors`` (averaged weights),
    ``log.csv``, ``curves.png`` and TensorBoard's events.

    Parameters
    ----------
    recipe
        What to run.
    out
        Its folder.
    device
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
    max_minutes
        Stop after this long with everything saved; the same call goes on.
    report
        Called after every step with the training and what was measured.
    announce
        Called with lines for the user.

    Raises
    ------
    TrainingError, UsageError
        Faces are missing or damaged, the resume state is another run's, or the loss is not a number any more.
    """
    start = time.monotonic()
    place = checked_device(device)
    faces, pairs = split_faces(recipe)
    training = new_training(recipe, place)
    state = out / "state.safetensors"
    if state.is_file():
        load_state(state, training, recipe, len(faces))
        announce(f"going on at iteration {training.iteration} of {recipe.iterations}")
    else:
        out.mkdir(parents=True, exist_ok=True)
    precision = choose_precision(recipe, place)
    announce(f"{len(faces)} faces; validation on {pairs.source}; {place} in {precision}")
    spent_before = training.seconds
    batches = make_batches(recipe, faces, training.iteration, place)

    def seconds() -> float:
        return spent_before + time.monotonic() - start

    def save(total: Tensor) -> None:
        _check_finite(total, training, state)
        training.seconds = seconds()
        save_state(state, training, recipe, len(faces))
        save_checkpoint(out / "last.safetensors", training.average, provenance(recipe, training))

    with Interrupt() as interrupt, contextlib.closing(Log(out, training.iteration)) as log:
        total, logged, timer = torch.zeros((), device=place), training.iteration, Stopwatch()
        while training.iteration < recipe.iterations:
            low, truth = next(batches)
            total += step(training, recipe, low, truth, precision)
            training.iteration += 1
            done = training.iteration
            row: dict[str, float] = {}
            if done % recipe.log_every == 0:
                _check_finite(total, training, state)
                row["rate"] = schedule.rate(recipe, done - 1)
                steps = done - logged  # fewer than log_every behind a run that was stopped in between
                row["loss"] = float(total) / steps
                row["faces_per_second"] = steps * recipe.batch / timer.lap()
                logged = done
                total.zero_()
            last = done == recipe.iterations
            if done % recipe.validate_every == 0 or last:
                with timer.paused():
                    row["val_psnr"] = score(training.average, pairs, place)
                if row["val_psnr"] > training.best:
                    training.best = row["val_psnr"]
                    training.seconds = seconds()
                    save_checkpoint(out / "best.safetensors", training.average, provenance(recipe, training))
            if row:
                log.write(done, seconds(), row)
            report(training, row)
            stop = interrupt.asked or time.monotonic() - start > max_minutes * 60
            if done % recipe.checkpoint_every == 0 or last or stop:
                save(total)
            if stop:
                break
    finished = training.iteration >= recipe.iterations
    return Outcome(training.iteration, finished, training.best, out / "last.safetensors")


def make_batches(
    recipe: Recipe, faces: list[Face], start: int, device: torch.device, share: Share = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on ``device`` from iteration ``start`` on: (low quality, truth), both float32 in [0, 1].

    The pipeline is the recipe's; ``auto`` is the batched one on a GPU and OpenCV on a CPU.
    """
    if recipe.data.pipeline == "device" or (recipe.data.pipeline == "auto" and device.type == "cuda"):
        from bfsr_edge.train.device_pairs import device_batches

        yield from device_batches(recipe, faces, start, device, share)
        return
    for low, truth in cpu_batches(recipe, faces, start, share):
        yield (
            low.to(device, non_blocking=True).float().div_(255),
            truth.to(device, non_blocking=True).float().div_(255),
        )


def step(training: Training, recipe: Recipe, low: Tensor, truth: Tensor, precision: str) -> Tensor:
    """One optimizer step; returns the loss, still on the device, so that nothing waits for it."""
    for group in training.optimizer.param_groups:
        group["lr"] = schedule.rate(recipe, training.iteration)
    with torch.autocast(low.device.type, DTYPES[precision], enabled=precision != "fp32"):
        prediction = training.network(low.contiguous(memory_format=torch.channels_last))
    loss = LOSSES[schedule.loss_name(recipe, training.iteration)](prediction.float(), truth)
    training.optimizer.zero_grad(set_to_none=True)
    scaler = training.scaler
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.optimizer.clip:
        scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.network.parameters(), recipe.optimizer.clip)
    scaler.step(training.optimizer)
    scaler.update()
    move_average(training, recipe)
    return loss.detach()


def move_average(training: Training, recipe: Recipe) -> None:
    """Exponential moving average of the weights; quicker at the start, so that the first weights are forgotten."""
    decay = min(recipe.ema, (1 + training.iteration) / (10 + training.iteration))
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own, one fused call on a GPU
    update(tuple(training.average.parameters()), tuple(training.network.parameters()), training.iteration)


def provenance(recipe: Recipe, training: Training) -> dict[str, str]:
    """What a checkpoint's header says about where it comes from."""
    return {
        "recipe": recipe.name,
        "iteration": str(training.iteration),
        "faces_seen": str(training.iteration * recipe.batch),
        "hours": f"{training.seconds / 3600:.2f}",
        "val_psnr": f"{training.best:.3f}",
    }


def _check_finite(loss: Tensor, training: Training, state: Path) -> None:
    if not bool(torch.isfinite(loss)):
        raise TrainingError(
            f"the loss stopped being a number before iteration {training.iteration}",
            why=("the learning rate is too high", "fp16 overflowed"),
            fix=f"lower optimizer.rate or set precision = 'bf16'; the last good state is {state}",
        )
