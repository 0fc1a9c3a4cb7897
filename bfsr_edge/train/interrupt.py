"""Ctrl-C as a request instead of an exception."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a flag, so that the step ends and the state is saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        def ask(_number: int, _frame: FrameType | None) -> None:
            self.asked = True

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, ask)
            except ValueError:  # not in the main thread: the caller handles signals
                break
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
