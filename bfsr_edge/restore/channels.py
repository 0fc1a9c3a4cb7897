"""What passes between the threads of a run: bounded queues that can be closed, and a budget for what is held."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """Nobody waits for this any more."""


class Closable(Protocol):
    """Something that threads wait for."""

    def close(self) -> None: ...


class Channel(Generic[Item]):
    """A queue of at most ``size`` items between threads; ``None`` is no bound."""

    def __init__(self, size: int | None = None, items: Iterable[Item] = ()) -> None:
        self._size = size
        self._items = deque(items)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item, *, first: bool = False) -> None:
        """Add an item, at the end or as the next one; waits for room. Closed: nobody will take it."""
        with self._changed:
            while not self._closed and self._size is not None and len(self._items) >= self._size:
                self._changed.wait()
            if self._closed:
                raise Closed
            if first:
                self._items.appendleft(item)
            else:
                self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """The next item; waits for one. Closed: none will come, and what was left is gone."""
        with self._changed:
            while not self._closed and not self._items:
                self._changed.wait()
            if self._closed:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wake up both ends with ``Closed``, now and from now on, and let go of what is in it."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class Budget:
    """How much of something is held at a time. More than all of it is granted to one that holds it alone."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._held = 0.0
        self._holders = 0
        self._changed = threading.Condition()
        self._closed = False

    def take(self, amount: float) -> None:
        """Wait until there is room. Closed: there will be none."""
        with self._changed:
            while not self._closed and self._holders and self._held + amount > self._limit:
                self._changed.wait()
            if self._closed:
                raise Closed
            self._held += amount
            self._holders += 1

    def give(self, amount: float) -> None:
        """Give back what was taken."""
        with self._changed:
            self._holders -= 1
            # sums of the same numbers in another order differ a little
            self._held = self._held - amount if self._holders else 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Wake up who waits with ``Closed``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Ending:
    """Closes everything that the threads of one run may wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._waited_for: weakref.WeakSet[Closable] = weakref.WeakSet()

    def watch(self, thing: Closable) -> None:
        """Close it when the run ends; at once where that has happened."""
        with self._lock:
            self._waited_for.add(thing)
            over = self._over
        if over:
            thing.close()

    def close(self) -> None:
        """End the run."""
        with self._lock:
            self._over = True
            things = list(self._waited_for)
        for thing in things:
            thing.close()
