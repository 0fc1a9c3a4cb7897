"""What the loop measures as it goes: time between rows of the log, and mean losses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from bfsr_edge.train.distributed import Processes


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


class Means:
    """Losses by name, summed over steps on the device so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(0, device=device)
        self._steps = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """The losses of one more step; always the same names."""
        values = torch.stack(list(losses.values()))
        self._sums = self._sums + values if self._steps else values
        self._names, self._steps = tuple(losses), self._steps + 1

    def over(self, processes: Processes) -> dict[str, float]:
        """Their means over steps and processes; empty before the first step. Collective."""
        if not self._steps:
            return {}
        values = (processes.mean(self._sums) / self._steps).tolist()
        return dict(zip(self._names, values, strict=True))

    def clear(self) -> None:
        """Begin again."""
        self._steps = 0
