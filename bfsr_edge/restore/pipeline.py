"""Decode, infer and encode at the same time: three threads and bounded queues between them.

The next picture is decoded while the network runs on this one and the last one is encoded. Memory is bounded: so many
decoded megapixels, and a few tiles between network and encoder. A picture that fails is reported and the others go on;
when the caller stops iterating, every thread ends and unfinished files are removed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.errors import BfsrError
from bfsr_edge.restore.array import Network, finish, infer, plan_for
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.plan import Outcome, Task
from bfsr_edge.restore.record import Record, digest_of
from bfsr_edge.tiling import Plan

Item = TypeVar("Item")
DECODED_MEGAPIXELS = 48.0
"""Decoded pictures held at a time; one that is larger is held alone."""
TILES_WAITING = 4
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Step:
    """Progress: so much of the input went through the network, or a picture is finished."""

    megapixels: float = 0.0
    finished: Outcome | None = None


def run(tasks: Sequence[Task], options: Options, network_for: Callable[[int], Network]) -> Iterator[Step]:
    """Restore pictures.

    Parameters
    ----------
    tasks
        From ``plan.decide``. Their outcomes are brought up to date.
    options
        Scale, overlap, batch and quality.
    network_for
        The engine with tiles of that side; called in one thread, and again for each picture, so it should remember.

    Yields
    ------
    Step
        As things happen. Each task's outcome is reported once. Closing the iterator early ends the run: the outcomes
        of what was not finished become "interrupted", and no half-written file stays.
    """
    run = _Run(tasks, options, network_for)
    threads = [threading.Thread(target=run.guard, args=(stage,)) for stage in (run.decode, run.infer, run.encode)]
    for folder in {task.job.target.parent for task in tasks}:
        images.remove_stale(folder)
    for thread in threads:
        thread.start()
    try:
        for _ in range(len(tasks)):
            while True:
                step = run.steps.get()
                if isinstance(step, BaseException):
                    raise step
                yield step
                if step.finished:
                    break
    finally:
        run.stop.set()
        for thread in threads:
            thread.join()
        for task in tasks:
            if task.outcome.status == "planned":
                task.outcome.status = "interrupted"


class _Stopped(Exception):
    """Nobody waits for this any more."""


class _Channel(Generic[Item]):
    """A bounded queue whose two ends wake up when nobody waits any more."""

    def __init__(self, size: int, stopped: Callable[[], bool]) -> None:
        self._queue: queue.Queue[Item] = queue.Queue(size)
        self._stopped = stopped

    def put(self, item: Item) -> None:
        while not self._stopped():
            try:
                return self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue
        raise _Stopped

    def get(self) -> Item:
        while not self._stopped():
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
        raise _Stopped


class _Budget:
    """How many decoded megapixels are held."""

    def __init__(self, limit: float, stopped: Callable[[], bool]) -> None:
        self._limit, self._stopped = limit, stopped
        self._held = 0.0
        self._changed = threading.Condition()

    def take(self, amount: float) -> None:
        with self._changed:
            while self._held and self._held + amount > self._limit:
                if self._stopped():
                    raise _Stopped
                self._changed.wait(POLL_SECONDS)
            self._held += amount

    def give(self, amount: float) -> None:
        with self._changed:
            # sums of the same numbers in another order: less than a pixel is nothing
            self._held = max(0.0, self._held - amount) if self._held - amount > 1e-6 else 0.0
            self._changed.notify_all()


Tile = npt.NDArray[np.float32]


class _Work:
    """One picture on its way through the stages."""

    def __init__(self, task: Task, stopped: Callable[[], bool]) -> None:
        self.task = task
        self.started = time.perf_counter()
        self.given_up = threading.Event()
        self.digest = ""
        self.picture: images.Picture | None = None
        self.error: Exception | None = None
        self.plan: Plan | None = None
        self.factor = 0
        # None ends the picture, an exception takes the place of the tile that failed
        self.tiles: _Channel[Tile | Exception | None]
        self.tiles = _Channel(TILES_WAITING, lambda: stopped() or self.given_up.is_set())


class _Run:
    def __init__(self, tasks: Sequence[Task], options: Options, network_for: Callable[[int], Network]) -> None:
        self.tasks, self.options, self.network_for = tasks, options, network_for
        self.stop = threading.Event()
        self.steps: queue.SimpleQueue[Step | BaseException] = queue.SimpleQueue()
        self._budget = _Budget(DECODED_MEGAPIXELS, self.stop.is_set)
        self._decoded: _Channel[_Work] = _Channel(2, self.stop.is_set)
        self._inferred: _Channel[_Work] = _Channel(1, self.stop.is_set)

    def guard(self, stage: Callable[[], None]) -> None:
        """A stage as a thread: what it cannot handle ends the run."""
        try:
            stage()
        except _Stopped:
            return
        except BaseException as error:
            self.steps.put(error)

    def decode(self) -> None:
        for task in self.tasks:
            self._budget.take(task.outcome.megapixels)
            work = _Work(task, self.stop.is_set)
            try:
                work.digest = digest_of(task.job.source)
                work.picture = images.read(task.job.source)
            except Exception as error:
                work.error = error
            self._decoded.put(work)

    def infer(self) -> None:
        for _ in self.tasks:
            work = self._decoded.get()
            try:
                self._begin(work)
            except BfsrError as error:
                work.error = error
            self._inferred.put(work)
            if work.error is None:
                try:
                    self._tiles(work)
                except _Stopped:
                    if self.stop.is_set():
                        raise

    def _begin(self, work: _Work) -> None:
        if work.picture is not None:
            info = self.network_for(work.task.tile).info
            height, width = work.picture.pixels.shape[:2]
            options = self.options
            work.factor = info.scale
            work.plan = plan_for(
                info, height, width, scale=options.scale, overlap=options.overlap, offset=options.offset
            )

    def _tiles(self, work: _Work) -> None:
        assert work.picture is not None
        assert work.plan is not None
        network = self.network_for(work.task.tile)
        share = work.task.outcome.megapixels / work.plan.tiles
        try:
            for tile in infer(work.picture.pixels, network, work.plan, self.options.batch):
                work.tiles.put(tile)
                self.steps.put(Step(share))
        except _Stopped:
            raise
        except Exception as error:
            work.tiles.put(error)
        else:
            work.tiles.put(None)

    def encode(self) -> None:
        for _ in self.tasks:
            work = self._inferred.get()
            try:
                if work.error is not None:
                    raise work.error
                self._write(work)
            except _Stopped:
                raise
            except Exception as error:
                work.error = error
            work.given_up.set()
            self._budget.give(work.task.outcome.megapixels)
            self._report(work)

    def _write(self, work: _Work) -> None:
        picture, plan, job = work.picture, work.plan, work.task.job
        assert picture is not None
        assert plan is not None
        height, width, channels = picture.pixels.shape
        scale = self.options.scale
        record = Record(work.digest, work.task.recipe)
        with images.create(
            job.target,
            (height * scale, width * scale, channels),
            picture.pixels.dtype,
            format=job.format,
            quality=self.options.quality,
            metadata=replace(picture.metadata, xmp=record.packet()),
        ) as writer:
            for band in finish(_received(work.tiles), picture.pixels, plan, work.factor, scale):
                writer.write(band)

    def _report(self, work: _Work) -> None:
        outcome = work.task.outcome
        outcome.seconds = time.perf_counter() - work.started
        if work.error is None:
            outcome.status = "restored"
            if work.picture is not None and work.picture.notes:
                outcome.reason = "; ".join((*filter(None, [outcome.reason]), *work.picture.notes))
        else:
            outcome.status = "failed"
            outcome.reason, outcome.fix = _told(work.error)
        work.picture = None
        self.steps.put(Step(finished=outcome))


def _received(tiles: _Channel[Tile | Exception | None]) -> Iterator[Tile]:
    while (tile := tiles.get()) is not None:
        if isinstance(tile, Exception):
            raise tile
        yield tile


def _told(error: Exception) -> tuple[str, str]:
    """Reason and next step."""
    if isinstance(error, BfsrError):
        why = f" ({'; '.join(error.why)})" if error.why else ""
        return error.what + why, error.fix
    if isinstance(error, MemoryError):
        return "there is not enough memory for this picture", "use a smaller --tile"
    return f"unexpected {type(error).__name__}: {error}", "please report this with the picture's format and size"
