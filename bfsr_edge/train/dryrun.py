"""What a recipe is and how long it would take here, without any data."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from bfsr_edge import degrade
from bfsr_edge.models import gmacs, parameter_count
from bfsr_edge.train import schedule
from bfsr_edge.train.devices import checked_device, choose_precision
from bfsr_edge.train.loop import new_training, step
from bfsr_edge.train.pairs import worker_count
from bfsr_edge.train.recipe import Recipe

STEPS = 3


def describe(recipe: Recipe, device: str) -> str:
    """A few lines: network, data, schedule, and a time measured by a few steps on random pictures on ``device``.

    Raises
    ------
    UsageError
        The device is not there.
    """
    place = checked_device(device)
    training = new_training(recipe, place)
    network = training.network
    precision = choose_precision(recipe, place)
    side = recipe.data.size // degrade.SCALE
    seconds = _step_seconds(recipe, place)
    cost = gmacs(network, side, side)
    lines = [
        f"recipe     {recipe.name}: {recipe.summary}",
        f"network    {recipe.network.architecture}, {parameter_count(network):,} parameters, "
        f"{cost:.2f} GMAC at {side}→{recipe.data.size}, receptive field ±{network.receptive_field} px",
        f"batches    {recipe.batch} faces of {recipe.data.size} px, {recipe.iterations:,} iterations = "
        f"{recipe.batch * recipe.iterations:,} faces, averaged weights {recipe.ema or 'off'}",
        f"variation  flip p {recipe.data.flip}, shifted crop p {recipe.data.shifted}, blind degradation",
        f"optimizer  {recipe.optimizer.name} {recipe.optimizer.rate:g}, {_schedule(recipe)}",
        f"loss       {_loss(recipe)}",
        f"time       {seconds:.3g} s a step on {place} in {precision}: {_duration(seconds * recipe.iterations)}, "
        f"validation not counted",
    ]
    if place.type == "cpu":
        loader = _face_seconds(recipe) / worker_count(recipe) * recipe.batch
        lines.append(f"loader     {loader:.3g} s a batch with {worker_count(recipe)} workers, on the same cores")
    return "\n".join(lines)


def _step_seconds(recipe: Recipe, device: torch.device) -> float:
    """Median seconds of a training step on random pictures, after one to warm up."""
    training = new_training(recipe, device)
    precision = choose_precision(recipe, device)
    truth = torch.rand(recipe.batch, 3, recipe.data.size, recipe.data.size, device=device)
    low = torch.nn.functional.avg_pool2d(truth, degrade.SCALE)
    times = []
    for _ in range(1 + STEPS):
        begin = time.perf_counter()
        float(step(training, recipe, low, truth, precision))  # reading the loss waits for the device
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


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


def _loss(recipe: Recipe) -> str:
    if not recipe.loss.then:
        return recipe.loss.first
    switch = int(recipe.iterations * recipe.loss.switch)
    return f"{recipe.loss.first}, then {recipe.loss.then} from iteration {switch:,}"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.1f} days"
