"""The learning rate as a function of the iteration: no state, so a resumed run continues exactly."""

from __future__ import annotations

import math

from bfsr_edge.train.recipe import Recipe


def rate(recipe: Recipe, iteration: int) -> float:
    """The learning rate of step ``iteration`` (counted from 0).

    ``flat-cosine`` stays at the peak and falls along a cosine over the last ``decay`` of the run, so a run whose length
    turns out otherwise can be shortened or extended before that part. ``cosine-restarts`` is SGDR (Loshchilov and
    Hutter 2017, arXiv 1608.03983). ``multistep`` multiplies by ``gamma`` at milestones. Linear warm-up precedes all.
    """
    plan, peak = recipe.schedule, recipe.optimizer.rate
    warm = min(1.0, (iteration + 1) / plan.warmup) if plan.warmup else 1.0
    if plan.kind == "multistep":
        return warm * peak * float(plan.gamma ** sum(iteration >= step for step in plan.milestones))
    if plan.kind == "flat-cosine":
        start = recipe.iterations * (1 - plan.decay)
        done = max(0.0, iteration - start) / max(1.0, recipe.iterations - start)
        return warm * _cosine(peak, plan.minimum, done)
    begin = 0
    for cycle, period in enumerate(plan.periods):
        if iteration < begin + period or cycle == len(plan.periods) - 1:
            top = peak * (plan.peaks[cycle] if plan.peaks else 1.0)
            bottom = plan.minima[cycle] if plan.minima else plan.minimum
            return warm * _cosine(top, bottom, min(1.0, (iteration - begin) / period))
        begin += period
    raise AssertionError("a recipe with cosine-restarts has at least one period")


def discriminator_rate(recipe: Recipe, iteration: int) -> float:
    """The discriminator's learning rate of step ``iteration``: the generator's, scaled to its own peak."""
    return rate(recipe, iteration) * recipe.adversarial.rate / recipe.optimizer.rate


def _cosine(top: float, bottom: float, done: float) -> float:
    return bottom + (top - bottom) * 0.5 * (1 + math.cos(math.pi * done))


def loss_name(recipe: Recipe, iteration: int) -> str:
    """The loss of step ``iteration``."""
    late = recipe.loss.then and iteration >= recipe.iterations * recipe.loss.switch
    return recipe.loss.then if late else recipe.loss.first
