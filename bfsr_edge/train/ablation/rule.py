"""When a run that has fallen behind is not worth its time any more."""

from __future__ import annotations

import math
from dataclasses import dataclass

History = dict[int, float]
"""Validation PSNR in dB by iteration."""


@dataclass(frozen=True)
class Rule:
    """When a challenger is halted."""

    behind: float = math.inf
    """By how many dB it must be behind the baseline at the same iteration."""
    grace: float = 0.2
    """Part of the run, from its start, in which nothing is halted."""


NEVER = Rule()


def halts_at(challenger: History, baseline: History, rule: Rule, iterations: int) -> int | None:
    """The first iteration at which ``rule`` halts the challenger; None where it may go on."""
    for iteration, reached in sorted(challenger.items()):
        due = iteration >= rule.grace * iterations and iteration < iterations  # at its end there is nothing to save
        if due and iteration in baseline and baseline[iteration] - reached > rule.behind:
            return iteration
    return None
