"""What makes recipes comparable: equal length, seed and validation pictures; and what then sets them apart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from bfsr_edge.errors import UsageError
from bfsr_edge.train.recipe import Recipe

# two runs are the same run whatever these say
NO_PART = (
    *("summary", "challenge", "compile", "checkpoint_every", "log_every"),
    *("data.workers", "adversarial.perceptual_file"),
)
# and these are equal in all runs of an ablation, or say nothing about the result
NOT_LISTED = (*NO_PART, "name", "iterations", "validate_every", "seed")
# of the schedule's keys, those that its kind reads
SCHEDULE_KEYS = {
    "flat-cosine": ("kind", "warmup", "decay", "minimum"),
    "cosine-restarts": ("kind", "warmup", "minimum", "periods", "peaks", "minima"),
    "multistep": ("kind", "warmup", "milestones", "gamma"),
}


def shortened(recipe: Recipe, iterations: int) -> Recipe:
    """``recipe`` for another number of iterations, every part of its schedule in proportion.

    Warm-up, cosine periods and milestones are scaled by ``iterations / recipe.iterations``, so the rate of step n is
    that of the original at the same part of its run. What is given as a part of the run (``schedule.decay``,
    ``loss.switch``) needs nothing. Rates keep their values, and so does the decay of the averaged weights: the loop
    holds it below (1 + n) / (10 + n) at step n, so they reach back over a tenth of a run that is short.

    Raises
    ------
    UsageError
        A cosine period would have no iteration.
    """
    factor = iterations / recipe.iterations
    plan = recipe.schedule
    ends = [round(end * factor) for end in accumulate(plan.periods)]  # ends, so that rounding does not add up
    periods = tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))
    if plan.kind == "cosine-restarts" and min(periods) < 1:
        raise UsageError(
            f"recipe {recipe.name!r} has {len(periods)} cosine periods, which do not fit into {iterations} iterations",
            fix="give more --iterations",
        )
    plan = replace(
        plan,
        warmup=max(1, round(plan.warmup * factor)) if plan.warmup else 0,
        periods=periods,
        milestones=tuple(round(step * factor) for step in plan.milestones),
    )
    return replace(recipe, iterations=iterations, schedule=plan)


def equalised(
    recipes: Sequence[Recipe], *, iterations: int = 0, validate_every: int = 0, seed: int | None = None
) -> list[Recipe]:
    """The recipes as an ablation runs them; the first is the baseline, whose iterations and seed are the defaults.

    Validation comes every ``validate_every`` iterations, by default 20 times a run.

    Raises
    ------
    UsageError
        Two recipes have one name, a name is no folder's, or the runs would be validated on other pictures.
    """
    baseline = recipes[0]
    iterations = iterations or baseline.iterations
    every = validate_every or max(1, iterations // 20)
    equal = [
        replace(
            shortened(recipe, iterations),
            seed=baseline.seed if seed is None else seed,
            validate_every=every,
            log_every=min(recipe.log_every, iterations),  # at least one row with faces/s
        )
        for recipe in recipes
    ]
    names = [recipe.name for recipe in equal]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two recipes are called {name}", fix='write name = "…" into one of them')
        if name in ("", ".", "..") or Path(name).name != name:
            raise UsageError(f"recipe name {name!r} cannot be the name of a folder", fix='write another name = "…"')
    for recipe in equal[1:]:
        _check_judged_alike(recipe, equal[0])
    return equal


def _check_judged_alike(recipe: Recipe, baseline: Recipe) -> None:
    """UsageError where ``recipe`` would be validated on other pictures than ``baseline``."""
    keys = ["val_lq", "val_gt"]
    if not (baseline.data.val_lq or baseline.data.val_gt):
        keys += ["faces", "holdout", "size"]  # pairs are made of held-out faces then
    differing = [f"data.{key}" for key in keys if getattr(recipe.data, key) != getattr(baseline.data, key)]
    if differing:
        raise UsageError(
            f"{recipe.name} and {baseline.name} would be validated on other pictures: {', '.join(differing)} differ",
            fix="give the same pairs to all with --val-lq and --val-gt",
        )


def flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted key to value."""
    out: dict[str, Any] = {}
    for key, value in tables.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe's tables as JSON holds them: lists for tuples."""
    tables: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return tables


def differences(recipe: Recipe, baseline: Recipe) -> list[str]:
    """What sets ``recipe`` apart from ``baseline``: ``key = value`` of each setting that has an effect."""
    mine, theirs = flat(as_json(recipe)), flat(as_json(baseline))
    read = {f"schedule.{key}" for key in SCHEDULE_KEYS[recipe.schedule.kind]}
    return [
        f"{key} = {json.dumps(mine.get(key), ensure_ascii=False)}"
        for key in dict.fromkeys((*mine, *theirs))
        if key not in NOT_LISTED
        and (not key.startswith("schedule.") or key in read)
        and mine.get(key) != theirs.get(key)
    ]
