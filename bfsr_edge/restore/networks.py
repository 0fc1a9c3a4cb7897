"""The engines of a run: which tiles fit into memory, who uses them, and when one that is too large is closed."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from bfsr_edge.errors import UsageError
from bfsr_edge.restore import memory
from bfsr_edge.restore.array import Network
from bfsr_edge.restore.options import SMALL_TILE, Options
from bfsr_edge.runtime.base import Engine, EngineInfo

Tile = npt.NDArray[np.float32]


class Lent:
    """An engine for one picture, which is given tiles before it has finished the last ones."""

    def __init__(self, engine: Engine, pool: ThreadPoolExecutor, tile: int, batch: int) -> None:
        self._engine, self._pool = engine, pool
        self.streams = engine.streams
        self.tile, self.batch = tile, batch

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, batch: Tile, /) -> Tile:
        return self._engine.run(batch)

    def start(self, batch: Tile, /) -> Callable[[], Tile]:
        """Run it in another thread; what is returned waits for the result."""
        return self._pool.submit(self._engine.run, batch).result


class Networks:
    """Lends engines to pictures. May be called from several threads.

    Parameters
    ----------
    options
        Of the run.
    network_for
        The engine with tiles of that side; called in one thread at a time.
    say
        Called with a sentence where tiles are made smaller before they are tried.
    """

    def __init__(self, options: Options, network_for: Callable[[int], Engine], say: Callable[[str], None]) -> None:
        self._network_for, self._say = network_for, say
        self._limits = memory.Limits(options)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._users: Counter[int] = Counter()

    def tile(self, wanted: int) -> int:
        """The side that will be tried where ``wanted`` was asked for."""
        with self._lock:
            return self._limits.tile(wanted)

    def borrow(self, tile: int, width: int) -> Lent:
        """The engine with tiles of that side, or with smaller ones that fit into memory; kept until ``give_back``."""
        with self._lock:
            engine = self._network_for(tile)
            fitting = self._limits.fitting(tile, engine.info, engine.streams, width)
            if fitting < tile:
                free = memory.told(memory.free(engine.info))
                self._say(f"tiles of {fitting} instead of {tile}, as {free} of memory are free")
                self._close_unused(tile, engine)
                engine = self._network_for(fitting)
            self._users[fitting] += 1
            if self._pool is None:
                self._pool = ThreadPoolExecutor(engine.streams, thread_name_prefix="network")
            return Lent(engine, self._pool, fitting, self._limits.batch())

    def for_faces(self, picture: Network) -> Network:
        """An engine with tiles that faces fit into; the picture's own where it runs no others."""
        with self._lock, contextlib.suppress(UsageError):
            return self._network_for(SMALL_TILE)
        return picture

    def give_back(self, lent: Lent) -> None:
        """It is not used any more for this picture, and where its tiles are too large, for no other."""
        with self._lock:
            self._users[lent.tile] -= 1
            if self._limits.tile(lent.tile) < lent.tile:
                self._close_unused(lent.tile, self._network_for(lent.tile))

    def lower(self, tile: int, lent: Lent | None) -> str:
        """After a shortage with tiles of that side: what is changed, empty where that has happened already.

        Raises
        ------
        OutOfMemory
            There is nothing smaller.
        """
        with self._lock:
            return self._limits.lower(tile, lent.batch if lent else 0, lent.info if lent else None)

    def end(self) -> None:
        """Wait for what runs; nothing more is begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _close_unused(self, tile: int, engine: Engine) -> None:
        # faces are restored on small tiles whatever the picture's are
        if not self._users[tile] and tile > SMALL_TILE:
            engine.close()
