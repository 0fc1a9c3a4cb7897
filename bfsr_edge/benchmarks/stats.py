"""What many timed runs come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VARIATION = 0.02
"""Coefficient of variation above which a run is too unsteady to be compared to the percent."""


@dataclass(frozen=True)
class Latency:
    """Of one engine's timed runs, in milliseconds."""

    minimum: float
    mean: float
    median: float
    p90: float
    """Percentiles are interpolated linearly between the nearest runs."""
    p95: float
    p99: float
    variation: float
    """Sample standard deviation over the mean; 0 for a single run."""
    n: int


def latency(samples: Sequence[float]) -> Latency:
    """Figures of at least one run.

    Raises
    ------
    ValueError
        There is none.
    """
    if not samples:
        raise ValueError("no run was timed")
    values = np.asarray(samples, np.float64)
    median, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Latency(float(values.min()), mean, median, p90, p95, p99, spread / mean if mean else 0.0, len(values))


def ratio(rounds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Median over rounds of one engine's median over the reference's; ``None`` without a complete round.

    What slows the whole machine for a while slows both engines of a round, and so leaves their ratio alone.

    Parameters
    ----------
    rounds
        For each, the reference's runs and the engine's.
    """
    ratios = [float(np.median(engine) / np.median(reference)) for reference, engine in rounds if reference and engine]
    return float(np.median(ratios)) if ratios else None


def mean_worst_std(values: Sequence[float], worst: str = "min") -> tuple[float, float, float]:
    """Mean, the smallest (or with "max" the largest) and the standard deviation over the values given."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.min() if worst == "min" else array.max()), float(array.std())
