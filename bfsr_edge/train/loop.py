"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bfsr_edge.errors import TrainingError
from bfsr_edge.models import save_checkpoint
from bfsr_edge.train import disk, schedule
from bfsr_edge.train.begin import (
    begin,
    begin_folder,
    check_same_state,
    forget_other_scores,
    make_batches,
    own_workers,
    say_left_out,
    say_what_begins,
    split_faces,
)
from bfsr_edge.train.compile import choose_compile, compile_in_place, explained
from bfsr_edge.train.devices import DTYPES, choose_precision
from bfsr_edge.train.distributed import Processes, check_batch, joined, launched
from bfsr_edge.train.interrupt import Interrupt
from bfsr_edge.train.log import BOARD_PICTURES, Log
from bfsr_edge.train.losses import LOSSES
from bfsr_edge.train.measure import Means, Stopwatch
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import Training, random_state, save_state
from bfsr_edge.train.validate import draw_faces, score


@dataclass(frozen=True)
class Outcome:
    """How a run, or a part of it, ended."""

    iteration: int
    finished: bool
    best: float
    """Best validation PSNR, in dB."""
    checkpoint: Path
    """The last weights."""
    best_checkpoint: Path | None
    """Those of the best PSNR. None in adversarial training, which makes pictures sharper and their PSNR worse: what is
    best there is for the eye to say, and only the last weights are kept."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    max_minutes: float = math.inf,
    report: Callable[[Training, dict[str, float]], None] = lambda training, row: None,
    announce: Callable[[str], None] = lambda line: None,
    skip_bad: bool = False,
    restart: bool = False,
) -> Outcome:
    """Run ``recipe`` in the folder ``out``, from its resume state if there is one.

    Writes ``state.safetensors`` (to resume), ``last.safetensors`` and ``best.safetensors`` (averaged weights),
    ``log.csv``, ``curves.png``, ``faces.png`` and TensorBoard's events. A recipe with adversarial terms has no
    ``best.safetensors``: they make pictures sharper and PSNR worse, so PSNR must not choose; it is recorded all the
    same. Started by torchrun, this is one of several processes, and the first of them alone writes, reports and
    announces.

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
    skip_bad
        Leave out faces that are no squares of the recipe's size, or have no readable header, instead of refusing them.
    restart
        Throw an earlier state away.

    Raises
    ------
    TrainingError, UsageError
        Faces are missing or damaged, the resume state is another run's, the disk is full, or the loss is not a number
        any more.
    """
    start = time.monotonic()
    check_batch(recipe, launched())
    with joined(device) as processes:
        place, state = processes.device, out / "state.safetensors"
        with processes.together():
            if processes.first:
                begin_folder(out, state, restart=restart)
        with processes.together():
            faces, pairs, bad = split_faces(recipe, skip_bad=skip_bad)
            training = begin(recipe, state, len(faces), processes)
            compiled, how = choose_compile(recipe, place)
        check_same_state(training, state, processes)
        if not processes.first:
            report, announce = _say_nothing, _say_nothing
        precision = choose_precision(recipe, place)
        say_what_begins(
            announce, recipe, training, faces, pairs, f"{place} in {precision}, {how}{_together(processes)}"
        )
        if forget_other_scores(training, pairs):
            announce("the validation pictures are not those of before: the best score begins anew")
        if compiled:
            compile_in_place(training.network)
        training.parallel = processes.parallel(training.network)
        if training.adversary and training.adversary.discriminator is not None:
            training.adversary.discriminator = processes.parallel(training.adversary.discriminator)
        spent_before, saved = training.seconds, training.iteration
        batches = make_batches(own_workers(recipe, processes), faces, training.iteration, place, processes.share)
        shown = _picture_iterations(recipe)

        def seconds() -> float:
            return spent_before + time.monotonic() - start

        def validate(log: Log) -> float:
            value, pictures = score(training.average, pairs, place)
            done = training.iteration
            log.picture(done, lambda side: draw_faces(pictures, done, side), on_board=done in shown)
            if value > training.best:
                training.best = value
                training.seconds = seconds()
                if not recipe.adversarial.used:
                    save_checkpoint(out / "best.safetensors", training.average, provenance(recipe, training))
            return value

        def save(log: Log) -> None:
            training.seconds = seconds()
            log.sync()
            # in this order: behind a kill between the two, the steps from the older state on come again
            save_checkpoint(out / "last.safetensors", training.average, provenance(recipe, training))
            save_state(state, training, recipe, len(faces), random)

        with Interrupt() as interrupt, contextlib.ExitStack() as stack:
            log: Log | None = None  # of the first process only
            with processes.together(), disk.writing(out, saved):
                if processes.first:
                    log = stack.enter_context(contextlib.closing(Log(out, training.iteration)))
                    if bad:
                        announce(say_left_out(out, bad))
            means, logged, timer = Means(place), training.iteration, Stopwatch()
            while training.iteration < recipe.iterations:
                with processes.together(), explained(recipe.batch):
                    low, truth = next(batches)
                with explained(recipe.batch):
                    means.add(step(training, recipe, low, truth, precision))
                training.iteration += 1
                done = training.iteration
                row: dict[str, float] = {}
                if done % recipe.log_every == 0:
                    losses = check_finite(means.over(processes), training, state)
                    steps = done - logged  # fewer than log_every behind a run that was stopped in between
                    row["rate"] = schedule.rate(recipe, done - 1)
                    row |= losses
                    row["faces_per_second"] = steps * recipe.batch / timer.lap()
                    logged = done
                    means.clear()
                last = done == recipe.iterations
                validated = done % recipe.validate_every == 0 or last
                if validated:
                    with timer.paused(), processes.together(), disk.writing(out, saved):
                        if log:
                            row["val_psnr"] = validate(log)
                if row or validated:  # what all processes see alike: only the first has the score
                    with processes.together(), disk.writing(out, saved):
                        if log:
                            log.write(done, seconds(), row)
                report(training, row)
                stop = processes.any(interrupt.asked or time.monotonic() - start > max_minutes * 60)
                if done % recipe.checkpoint_every == 0 or last or stop:
                    check_finite(means.over(processes), training, state)
                    random = processes.gather(random_state(place))
                    with processes.together(), disk.writing(out, saved):
                        if log:
                            save(log)
                    saved = done
                if stop:
                    break
    finished = training.iteration >= recipe.iterations
    best = None if recipe.adversarial.used else out / "best.safetensors"
    return Outcome(training.iteration, finished, training.best, out / "last.safetensors", best)


def _say_nothing(*_what: object) -> None:
    """What a process that is not the first reports and announces."""


def _together(processes: Processes) -> str:
    world = processes.place.world
    return f"; {world} processes" if world > 1 else ""


def _picture_iterations(recipe: Recipe) -> set[int]:
    """The validations whose pictures TensorBoard gets: the first, the last, and evenly between."""
    every = recipe.validate_every
    count = math.ceil(recipe.iterations / every)
    stride = math.ceil(count / BOARD_PICTURES)
    return {every * number for number in range(1, count, stride)} | {recipe.iterations}


def step(training: Training, recipe: Recipe, low: Tensor, truth: Tensor, precision: str) -> dict[str, Tensor]:
    """One optimizer step of the network, and in adversarial training then one of the discriminator.

    Returns
    -------
    dict
        Losses by name, still on the device, so that nothing waits for it. ``loss`` is what the network minimised; with
        adversarial terms also its parts, ``pixel`` and the weighted terms, and what the ``discriminator`` minimised.
    """
    adversary = training.adversary
    for group in training.optimizer.param_groups:
        group["lr"] = schedule.rate(recipe, training.iteration)
    network = training.network if training.parallel is None else training.parallel
    with torch.autocast(low.device.type, DTYPES[precision], enabled=precision != "fp32"):
        prediction = network(low.contiguous(memory_format=torch.channels_last))
    prediction = prediction.float()
    # gradients take their layout from it: else the last convolution's backward pass begins with a transposition
    truth = truth.contiguous(memory_format=torch.channels_last)
    pixel = LOSSES[schedule.loss_name(recipe, training.iteration)](prediction, truth) * recipe.loss.weight
    terms = {}
    # bf16 needs no scaling of gradients; the discriminator has no scaler of its own, so with fp16 it stays in fp32
    judging = torch.autocast(low.device.type, torch.bfloat16, enabled=precision == "bf16")
    if adversary is not None:
        with judging:
            terms = {"pixel": pixel, **adversary.generator_loss(prediction, truth)}
    loss = pixel if adversary is None else torch.stack(list(terms.values())).sum()
    training.optimizer.zero_grad(set_to_none=True)
    scaler = training.scaler
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.optimizer.clip:
        scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.network.parameters(), recipe.optimizer.clip)
    scaler.step(training.optimizer)
    scaler.update()
    move_average(training, recipe)
    if adversary is not None and adversary.optimizer is not None:
        for group in adversary.optimizer.param_groups:
            group["lr"] = schedule.discriminator_rate(recipe, training.iteration)
        with judging:
            judged = adversary.discriminator_loss(prediction.detach(), truth)
        adversary.optimizer.zero_grad(set_to_none=True)
        judged.backward()  # type: ignore[no-untyped-call]
        adversary.optimizer.step()
        terms["discriminator"] = judged
    return {name: value.detach() for name, value in {"loss": loss, **terms}.items()}


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


def check_finite(losses: dict[str, float], training: Training, state: Path) -> dict[str, float]:
    """The losses, if they and the weights are numbers: called before anything is written that a run goes on from.

    Raises
    ------
    TrainingError
        One is not; it is named.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    finite = [torch.isfinite(weights).all() for weights in training.network.parameters()]
    if not bad and not bool(torch.stack(finite).all()):
        bad = ["weights"]
    if bad:
        kept = f"the last good state is {state}" if state.is_file() else "nothing was saved yet"
        raise TrainingError(
            f"the {bad[0]} stopped being a number before iteration {training.iteration}",
            why=("the learning rate is too high", "fp16 overflowed"),
            fix=f"lower optimizer.rate or set precision = 'bf16'; {kept}",
        )
    return losses
