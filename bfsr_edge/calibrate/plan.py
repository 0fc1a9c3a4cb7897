"""Plans: how a network is calibrated, as a frozen dataclass. The defaults stand here; a TOML holds what differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bfsr_edge.calibration import METHODS
from bfsr_edge.errors import UsageError
from bfsr_edge.settings import from_mapping, read_toml


@dataclass(frozen=True)
class Plan:
    """One calibration.

    Raises
    ------
    UsageError
        A value is out of range, named with its key.
    """

    name: str = "default"
    """What the calibration says it was made by."""
    summary: str = ""
    """One line."""
    count: int = 128
    """Faces, drawn at random from those given."""
    seed: int = 0
    """Of that draw and of each face's degradation."""
    method: str = "percentile"
    """How a tensor's range is chosen: ``max``, ``mse``, ``percentile`` or ``entropy``."""
    percentile: float = 99.999
    """percentile: how many of the magnitudes lie inside the range, in percent."""
    exclude: tuple[str, ...] = ()
    """Convolutions left in floating point besides the first and last ones: node names, with ``*`` and ``?``."""
    include: tuple[str, ...] = ()
    """First and last convolutions that are quantized all the same."""
    quantized_skips: bool = True
    """Let the skipping branch of a residual Add be INT8 too: less memory to read, a little less exact."""
    floating: str = "fp16"
    """What the rest of the graph computes in: ``fp16`` or ``fp32``."""
    minimum_share: float = 0.8
    """With a budget: the least part of the multiply-accumulates that stays INT8."""

    def __post_init__(self) -> None:
        checks = {
            "count": self.count >= 1,
            "seed": self.seed >= 0,
            "method": self.method in METHODS,
            "percentile (above 50, at most 100)": 50 < self.percentile <= 100,
            "floating": self.floating in ("fp16", "fp32"),
            "minimum_share": 0 <= self.minimum_share <= 1,
        }
        bad = [key for key, good in checks.items() if not good]
        if bad:
            raise UsageError(
                f"plan {self.name!r} has a value out of range: {', '.join(bad)}",
                fix="the docstrings of bfsr_edge/calibrate/plan.py say what is allowed",
            )


def load_plan(path: Path | None, **changes: Any) -> Plan:
    """The plan in ``path`` (or the defaults) with ``changes`` laid over it; those that are ``None`` change nothing.

    Raises
    ------
    UsageError
        The file, a key or a value is wrong.
    """
    values = {"name": path.stem, **read_toml(path)} if path else {}
    plan = from_mapping(Plan, values, str(path) if path else "plan")
    return dataclasses.replace(plan, **{key: value for key, value in changes.items() if value is not None})
