"""What a recipe is and how long it would take here, without any data."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from bfsr_edge import degrade
from bfsr_edge.errors import ModelError
from bfsr_edge.models import Network, gmacs, parameter_count
from bfsr_edge.train import schedule
from bfsr_edge.train.begin import new_training, without_weights
from bfsr_edge.train.compile import choose_compile, compile_in_place, explained
from bfsr_edge.train.devices import checked_device, choose_precision
from bfsr_edge.train.distributed import Place, check_batch
from bfsr_edge.train.loop import step
from bfsr_edge.train.pairs import worker_count
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import Training

WARM_UP = (10, 3.0)
"""Steps behind the first that are not timed, and seconds after which no more of them begin."""
TIMED = (20, 4.0)
"""The same of those that are."""


def describe(recipe: Recipe, device: str) -> str:
    """A few lines: network, data, schedule, and a time measured by a few steps on random pictures on ``device``.

    Raises
    ------
    UsageError
        The device is not there.
    """
    place = checked_device(device)
    check_batch(recipe, Place())
    training, missing = _trainable(recipe, place)
    network = training.network
    precision = choose_precision(recipe, place)
    compiled, how = choose_compile(recipe, place)
    side = recipe.data.size // degrade.SCALE
    cost = gmacs(network, side, side)
    if compiled:
        compile_in_place(network)
    seconds = _step_seconds(training, recipe, precision, place)
    lines = [
        f"recipe     {recipe.name}: {recipe.summary}",
        f"network    {recipe.network.architecture}, {parameter_count(network):,} parameters, "
        f"{cost:.2f} GMAC at {side}→{recipe.data.size}, receptive field ±{network.receptive_field} px",
        *([f"begins     from {recipe.network.weights}"] if recipe.network.weights else []),
        f"batches    {recipe.batch} faces of {recipe.data.size} px{_crop(recipe)}, {recipe.iterations:,} iterations = "
        f"{recipe.batch * recipe.iterations:,} faces, averaged weights {recipe.ema or 'off'}",
        f"variation  flip p {recipe.data.flip}, shifted crop p {recipe.data.shifted}, blind degradation",
        *([f"augment    {_augment(recipe)}"] if _augment(recipe) else []),
        f"optimizer  {recipe.optimizer.name} {recipe.optimizer.rate:g}, {_schedule(recipe)}",
        *_frozen(recipe, network),
        f"loss       {_loss(recipe)}",
        *_adversarial(recipe, training),
        f"time       {seconds:.3g} s a step on {place} in {precision}, {how}: "
        f"{_duration(seconds * recipe.iterations)}, validation not counted",
        *([f"           without the perceptual loss, as here {missing}"] if missing else []),
    ]
    if place.type == "cpu":
        workers = worker_count(recipe)
        loader = _face_seconds(recipe) / max(1, workers) * recipe.batch
        where = (
            f"with {workers} workers, on the same cores" if workers else "between the steps, as there are no workers"
        )
        lines.append(f"loader     {loader:.3g} s a batch {where}")
    return "\n".join(lines)


def _trainable(recipe: Recipe, device: torch.device) -> tuple[Training, str]:
    """What the recipe trains, with random weights; where VGG19 is missing without it, and why it is missing."""
    recipe = without_weights(recipe)
    try:
        return new_training(recipe, device), ""
    except ModelError as error:
        if not recipe.adversarial.perceptual:
            raise
        rest = dataclasses.replace(recipe.adversarial, perceptual=0.0)
        return new_training(dataclasses.replace(recipe, adversarial=rest), device), error.what


def _step_seconds(training: Training, recipe: Recipe, precision: str, device: torch.device) -> float:
    """Median seconds of a training step on random pictures, the discriminator's included, once it is warm."""
    side = recipe.picture_side
    with explained(recipe.batch):
        truth = torch.rand(recipe.batch, 3, side, side, device=device)
        low = torch.nn.functional.avg_pool2d(truth, degrade.SCALE)

    def once() -> None:
        with explained(recipe.batch):
            losses = step(training, recipe, low, truth, precision)
        sum(float(value) for value in losses.values())  # reading them waits for the device

    once()  # it may compile, which takes longer than all the others
    _times(once, *WARM_UP)
    return statistics.median(_times(once, *TIMED))


def _times(run: Callable[[], None], most: int, seconds: float) -> list[float]:
    """Seconds of each call, of which there are ``most``, or fewer where ``seconds`` are over, but one at least."""
    times: list[float] = []
    while len(times) < most and sum(times) < seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def _face_seconds(recipe: Recipe) -> float:
    """Median seconds that one core takes to degrade one face (decoding it comes on top: a few milliseconds)."""
    face = np.random.default_rng(0).integers(0, 256, (recipe.data.size, recipe.data.size, 3), dtype=np.uint8)
    times = []
    for seed in range(9):
        begin = time.perf_counter()
        degrade.degrade(face, seed)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _schedule(recipe: Recipe) -> str:
    ends = f"{schedule.rate(recipe, 0):.1e} at the start, {schedule.rate(recipe, recipe.iterations - 1):.1e} at the end"
    return f"{recipe.schedule.kind}, warm-up {recipe.schedule.warmup}: {ends}"


def _crop(recipe: Recipe) -> str:
    return f", of which squares of {recipe.data.crop} px are cut" if recipe.data.crop else ""


def _frozen(recipe: Recipe, network: Network) -> list[str]:
    if not recipe.optimizer.frozen:
        return []
    moving = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    return [f"frozen     {', '.join(recipe.optimizer.frozen)}: {moving:,} parameters are trained"]


def _augment(recipe: Recipe) -> str:
    plan = recipe.augment
    parts = {
        f"rotation ±{plan.rotation_degrees:g}°": plan.rotation,
        f"brightness ±{plan.brightness_range:.0%}": plan.brightness,
        f"hue ±{plan.hue_range:g} of the circle": plan.hue,
        f"jitter (brightness ±{plan.jitter_brightness:g}, contrast {_range(plan.jitter_contrast)}, saturation "
        f"{_range(plan.jitter_saturation)}, hue ±{2 * plan.jitter_hue:g}°)": plan.jitter,
        f"blend with weight {plan.blend_alpha:g} … 1": plan.blend,
        "permuted channels": plan.permutation,
        f"CutBlur of {plan.cutblur_alpha:g} of the side": plan.cutblur,
    }
    return ", ".join(f"{name} p {probability:g}" for name, probability in parts.items() if probability)


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} … {ends[1]:g}"


def _loss(recipe: Recipe) -> str:
    factor = "" if recipe.loss.weight == 1 else f"{recipe.loss.weight:g} × "
    if not recipe.loss.then:
        return factor + recipe.loss.first
    switch = int(recipe.iterations * recipe.loss.switch)
    return f"{factor}{recipe.loss.first}, then {recipe.loss.then} from iteration {switch:,}"


def _adversarial(recipe: Recipe, training: Training) -> list[str]:
    """The terms beyond the pixel loss and the discriminator, one line each."""
    plan = recipe.adversarial
    weights = {
        "GAN": plan.gan,
        "perceptual (VGG19)": plan.perceptual,
        "feature matching": plan.matching,
        "focal frequency": plan.frequency,
        "lattice": plan.lattice,
    }
    lines = ["           + " + " + ".join(f"{weight:g} × {name}" for name, weight in weights.items() if weight)]
    discriminator = training.adversary.discriminator if training.adversary else None
    if discriminator is not None:
        size = sum(weight.numel() for weight in discriminator.parameters())
        window = f", windows of {plan.crop} px" if plan.crop else ""
        lines.append(
            f"against    a discriminator ({plan.discriminator}) of {size:,} parameters{window}, "
            f"{plan.rate:g} on the same schedule"
        )
    return lines if plan.used else []


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.1f} days"
