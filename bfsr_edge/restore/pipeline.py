"""Decode, infer, blend and write at the same time: threads for each, and bounded queues between them.

The next pictures are decoded while the network runs on this one and the last ones are written. Two threads feed the
network, so that it is not without work at the end of a picture. Memory is bounded: so many decoded megapixels, a few
tiles between network and blending, a row of tiles between blending and writing. A picture that fails is reported and
the others go on; one for which memory does not suffice begins anew with fewer or smaller tiles; when the caller stops
iterating, every thread ends and unfinished files are removed.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from bfsr_edge import images
from bfsr_edge.errors import BfsrError
from bfsr_edge.restore.array import finish, infer, plan_for
from bfsr_edge.restore.blur import LEFT_ALONE, reduction_for
from bfsr_edge.restore.channels import Budget, Channel, Closed, Ending
from bfsr_edge.restore.enlarge import enlarge
from bfsr_edge.restore.face_files import save_faces
from bfsr_edge.restore.faces import Faces, restore_faces
from bfsr_edge.restore.networks import Lent, Networks, Tile
from bfsr_edge.restore.options import SCALES, Options
from bfsr_edge.restore.paste import Paster
from bfsr_edge.restore.plan import Outcome, Task
from bfsr_edge.restore.record import Record, digest_of
from bfsr_edge.runtime.base import Engine, lacks_memory
from bfsr_edge.tiling import Plan

Item = TypeVar("Item")
DECODED_MEGAPIXELS = 48.0
"""Decoded pictures held at a time; one that is larger is held alone."""
FEEDERS, WRITERS = 2, 2
"""Threads that prepare tiles for the network, and threads that write results."""
TILES_WAITING, BANDS_WAITING = 3, 12
"""Of one picture: results that wait for blending, and bands of rows that wait for being written."""
LARGE_MEGAPIXELS = 16.0
"""Of results larger than this one is written at a time, as some formats hold the whole picture."""


@dataclass(frozen=True)
class Step:
    """Progress: so much of the input went through the network, a picture is finished, or there is something to say."""

    megapixels: float = 0.0
    """Below 0 where a picture begins anew."""
    finished: Outcome | None = None
    note: str = ""
    """What was changed for want of memory."""
    urgent: bool = False
    """Whether the note tells of a shortage met, not of one foreseen."""


class Watcher(Protocol):
    """Sees the rows of a result as they are written, from top to bottom."""

    def add(self, band: images.Pixels, /) -> None: ...


Watch = Callable[[Task, images.Picture], "Watcher | None"]
"""Asked before each result is written, and again where it is begun anew; called in a thread of the run."""


def run(
    tasks: Sequence[Task],
    options: Options,
    network_for: Callable[[int], Engine],
    watch: Watch = lambda task, picture: None,
    *,
    factor: int = max(SCALES),
) -> Iterator[Step]:
    """Restore pictures.

    Parameters
    ----------
    tasks
        From ``plan.decide``. Their outcomes are brought up to date.
    options
        Scale, overlap, batch and quality.
    network_for
        The engine with tiles of that side; called in one thread at a time, and again for each picture, so it should
        remember. One that will not be asked for again is closed.
    watch
        Gives who is shown the bands of a result.
    factor
        How many times the network enlarges; asked before there is an engine.

    Yields
    ------
    Step
        As things happen. Each task's outcome is reported once. Closing the iterator early ends the run: the outcomes
        of what was not finished become "interrupted", and no half-written file stays.
    """
    run = _Run(tasks, options, network_for, watch, factor)
    stages = (run.decode, *[run.infer] * FEEDERS, run.blend, *[run.write] * WRITERS)
    threads = [threading.Thread(target=run.guard, args=(stage,)) for stage in stages]
    faces = options.save_faces
    for folder in {
        place.parent for task in tasks for place in (task.job.target, *([faces / task.job.below] if faces else []))
    }:
        with contextlib.suppress(OSError):  # what stands in the way of this stands in the way of the results
            images.remove_stale(folder)
    try:
        for thread in threads:
            thread.start()
        for _ in range(len(tasks)):
            while True:
                step = run.steps.get()
                if isinstance(step, BaseException):
                    raise step
                yield step
                if step.finished:
                    break
    finally:
        interruption = _ended(run, threads)
        for task in tasks:
            if task.outcome.status == "planned":
                task.outcome.status = "interrupted"
        if interruption is not None:
            raise interruption


def _ended(run: _Run, threads: list[threading.Thread]) -> KeyboardInterrupt | None:
    """End every thread, however impatient the user is: they stop within a tile's time, and leave no half-written file.

    The interruption is given back for the caller to raise.
    """
    interruption = None
    while True:
        try:
            run.end()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            return interruption
        except KeyboardInterrupt as error:
            interruption = error


class _Work:
    """One picture on its way through the stages."""

    def __init__(self, task: Task, ending: Ending) -> None:
        self.task = task
        self.started = time.perf_counter()
        self.digest = ""
        self.picture: images.Picture | None = None
        self.error: Exception | None = None
        self.network: Lent | None = None
        self.tile = 0
        self.plan: Plan | None = None
        self.reduce = 1
        self.faces = Faces()
        self.factor = 0
        self.megapixels = 0.0
        """Reported as progress."""
        # None ends the picture, an exception takes the place of the tile or the band that failed
        self.tiles: Channel[Tile | Exception | None] = Channel(TILES_WAITING)
        self.bands: Channel[images.Pixels | Exception | None] = Channel(BANDS_WAITING)
        ending.watch(self.tiles)
        ending.watch(self.bands)


class _Run:
    def __init__(
        self, tasks: Sequence[Task], options: Options, network_for: Callable[[int], Engine], watch: Watch, factor: int
    ) -> None:
        self.options, self.watch, self.factor = options, watch, factor
        self.steps: queue.SimpleQueue[Step | BaseException] = queue.SimpleQueue()
        self._ending = Ending()
        self._budget = Budget(DECODED_MEGAPIXELS)
        self._tasks: Channel[Task] = Channel(items=tasks)
        self._decoded: Channel[_Work] = Channel(2)
        self._inferred: Channel[_Work] = Channel(1)
        self._blended: Channel[_Work] = Channel(1)
        for thing in (self._budget, self._tasks, self._decoded, self._inferred, self._blended):
            self._ending.watch(thing)
        self._networks = Networks(options, network_for, lambda note: self.steps.put(Step(note=note)))
        self._large = threading.Lock()

    def end(self) -> None:
        """Let every thread end."""
        self._ending.close()
        self._networks.end()

    def guard(self, stage: Callable[[], None]) -> None:
        """A stage as a thread, until the run ends; what it cannot handle ends the run."""
        try:
            stage()
        except Closed:
            return
        except BaseException as error:
            self.steps.put(error)

    def decode(self) -> None:
        while True:
            task = self._tasks.get()
            self._budget.take(task.outcome.megapixels)
            work = _Work(task, self._ending)
            try:
                work.digest = digest_of(task.job.source)
                work.picture = images.read(task.job.source, max_megapixels=self.options.max_megapixels)
                work.reduce = reduction_for(work.picture.pixels, self.options, self.factor)
            except Exception as error:
                work.error = error
            self._decoded.put(work)

    def infer(self) -> None:
        while True:
            work = self._decoded.get()
            try:
                self._begin(work)
            except Exception as error:
                work.error = error
            # once it is handed on, writing may fail and let go of them
            picture, network, ready = work.picture, work.network, work.error is None
            self._inferred.put(work)
            if picture is not None and network is not None and ready:
                with contextlib.suppress(Closed):  # blending gave up, or the run ends
                    self._tiles(work, picture.pixels, network)
            del work, picture, network  # or the picture would be held while the next one is waited for

    def _begin(self, work: _Work) -> None:
        if work.picture is not None:
            height, width = work.picture.pixels.shape[:2]
            options = self.options
            work.tile = self._networks.tile(work.task.tile)
            work.network = self._networks.borrow(work.tile, width)
            work.tile = work.network.tile
            info = work.network.info
            work.factor = info.scale
            work.plan = plan_for(
                info,
                height,
                width,
                scale=options.scale,
                overlap=options.overlap,
                offset=options.offset,
                reduce=max(1, work.reduce),
            )
            work.task.outcome.reduced = work.reduce
            if options.faces != "off":
                self._faces(work, work.picture.pixels, work.network)
            if work.reduce == LEFT_ALONE:  # but for its faces
                patches = len(work.faces.patches)
                work.faces = replace(work.faces, background=False, saved=work.faces.saved[:patches])
                work.task.outcome.reduced = None
                if work.task.outcome.faces is not None:
                    work.task.outcome.faces_restored = patches

    def _faces(self, work: _Work, pixels: images.Pixels, network: Lent) -> None:
        """Find the picture's faces and restore them."""
        options = replace(self.options, batch=network.batch)
        work.faces = restore_faces(pixels, self._networks.for_faces(network), options)
        outcome = work.task.outcome
        if self.options.faces != "aligned":  # where none are looked for
            outcome.faces, outcome.faces_restored = work.faces.found, work.faces.restored
            outcome.boxes = work.faces.boxes
        if not work.faces.background:
            outcome.reduced = None

    def _tiles(self, work: _Work, pixels: images.Pixels, network: Lent) -> None:
        assert work.plan is not None
        share = work.task.outcome.megapixels / work.plan.tiles
        if not work.faces.background:
            work.megapixels += work.task.outcome.megapixels
            self.steps.put(Step(work.megapixels))
            return
        try:
            scale = self.options.scale
            for tile in infer(pixels, network, work.plan, network.batch, scale=scale, reduce=work.reduce):
                work.tiles.put(tile)
                work.megapixels += share
                self.steps.put(Step(share))
        except Closed:
            raise
        except Exception as error:
            work.tiles.put(error)
        else:
            work.tiles.put(None)

    def blend(self) -> None:
        while True:
            work = self._inferred.get()
            picture, ready = work.picture, work.error is None
            self._blended.put(work)
            if picture is not None and ready:
                with contextlib.suppress(Closed):  # writing gave up, or the run ends
                    self._bands(work, picture)
            work.tiles.close()
            del work, picture

    def _bands(self, work: _Work, picture: images.Picture) -> None:
        plan = work.plan
        assert plan is not None
        try:
            scale = self.options.scale
            paste = Paster(work.faces.patches, scale, self.options.strength)
            if work.faces.background:
                tiles = _received(work.tiles)
                bands = finish(tiles, picture.pixels, plan, work.factor, scale, paste, reduce=work.reduce)
            else:
                bands = enlarge(picture.pixels, scale, paste)
            for band in bands:
                work.bands.put(band)
        except Closed:
            raise
        except Exception as error:
            work.bands.put(error)
        else:
            work.bands.put(None)

    def write(self) -> None:
        while True:
            work = self._blended.get()
            try:
                if work.error is not None:
                    raise work.error
                large = work.task.outcome.megapixels * self.options.scale**2 > LARGE_MEGAPIXELS
                with self._large if large else contextlib.nullcontext():
                    self._write(work)
            except Closed:
                raise
            except Exception as error:
                work.error = error
            work.bands.close()
            self._budget.give(work.task.outcome.megapixels)
            anew = self._lowered(work)
            if not anew:
                self._report(work)
            work.picture = None
            if work.network is not None:
                self._networks.give_back(work.network)
                work.network = None
            if anew:  # only now, when what the last attempt held is free again
                self._tasks.put(work.task, first=True)
            del work

    def _write(self, work: _Work) -> None:
        picture, job = work.picture, work.task.job
        assert picture is not None
        height, width, channels = picture.pixels.shape
        scale = self.options.scale
        record = Record(work.digest, work.task.recipe)
        metadata, lost = images.carried(picture.metadata, job.format, channels, strip=self.options.strip_metadata)
        work.picture = replace(picture, notes=(*picture.notes, *lost))
        if self.options.save_faces is not None:
            colours = replace(picture.metadata, exif=None, xmp=record.packet())
            saved, kept = save_faces(job, work.faces.saved, colours, self.options)
            work.task.outcome.crops = saved
            work.task.outcome.notes += kept
        watcher = self.watch(work.task, picture)
        with images.create(
            job.target,
            (height * scale, width * scale, channels),
            picture.pixels.dtype,
            format=job.format,
            quality=self.options.quality,
            metadata=replace(metadata, xmp=record.packet()),
        ) as writer:
            for band in _received(work.bands):
                writer.write(band)
                if watcher is not None:
                    watcher.add(band)

    def _lowered(self, work: _Work) -> bool:
        """Whether the picture failed for want of memory, and another attempt will take less of it."""
        # without a tile it failed before the network: in decoding
        if work.error is None or not work.tile or not lacks_memory(work.error):
            return False
        try:
            note = self._networks.lower(work.tile, work.network)
        except BfsrError as error:
            work.error = error
            return False
        if note:
            self.steps.put(Step(note=f"{work.task.job.source}: {note}", urgent=True))
        self.steps.put(Step(-work.megapixels))
        work.error = None  # its traceback holds what the network was given, and the network
        work.task.outcome.notes = ()  # the next attempt says them again
        gc.collect()
        return True

    def _report(self, work: _Work) -> None:
        outcome = work.task.outcome
        outcome.seconds = time.perf_counter() - work.started
        if work.error is None:
            outcome.status = "restored"
            if work.picture is not None:
                if work.reduce == LEFT_ALONE and self.options.faces not in ("only", "aligned"):
                    outcome.notes += ("so sharp that at its own size only its faces were touched, if any",)
                if work.reduce > 1 and self.options.reduce is None and outcome.reduced:
                    outcome.notes += (f"so blurred that it was reduced {work.reduce} times first",)
                outcome.notes = (*outcome.notes, *work.picture.notes)
        else:
            outcome.status = "failed"
            outcome.reason, outcome.fix = _told(work.error)
        self.steps.put(Step(finished=outcome))


def _received(channel: Channel[Item | Exception | None]) -> Iterator[Item]:
    """What comes until the picture ends; raises the exception that takes the place of what failed."""
    while (item := channel.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


def _told(error: Exception) -> tuple[str, str]:
    """Reason and next step."""
    if isinstance(error, BfsrError):
        why = f" ({'; '.join(error.why)})" if error.why else ""
        return error.what + why, error.fix
    if isinstance(error, MemoryError):
        return "there is not enough memory for this picture", "free some, or reduce the picture first"
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", ""
    return f"unexpected {type(error).__name__}: {error}", "please report this with the picture's format and size"
