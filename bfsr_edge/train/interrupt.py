"""Ctrl-C as a request instead of an exception."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

AGAIN = 3.0
"""Seconds behind which a second Ctrl-C is meant as one: a terminal and torchrun send the first one twice."""


class Interrupt:
    """Turns SIGINT or SIGTERM into a flag, so that the step ends and the state is saved.

    Whoever presses Ctrl-C once more later is not kept waiting: that is a KeyboardInterrupt, and the last state stays.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        def ask(number: int, _frame: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT and time.monotonic() - self._since > AGAIN:
                raise KeyboardInterrupt
            if not self.asked:
                self.asked, self._since = True, time.monotonic()

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, ask)
            except ValueError:  # not in the main thread: the caller handles signals
                break
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
