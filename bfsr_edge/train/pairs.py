"""Training pairs: what is drawn for each sample, and the pipeline that makes them on the CPU.

Sample number n of a run (iteration × batch + place) decides everything about it: which face, how it is moved, how it is
degraded. There is no other state, so a run resumed at iteration i simply asks for the samples from i × batch on.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bfsr_edge import degrade
from bfsr_edge.faceset import Face, decode_face
from bfsr_edge.runtime.machine import cores
from bfsr_edge.train import augment
from bfsr_edge.train.recipe import Recipe

Byte = NDArray[np.uint8]


@dataclass(frozen=True)
class Move:
    """How a face is moved before it is degraded."""

    flip: bool
    """Mirrored left to right."""
    shift: tuple[int, int]
    """Down and right, in pixels; what comes in from outside is the mirrored picture."""
    reduce: float
    """Factor in (0, 1]; the frame fills up with the mirrored picture."""


@dataclass(frozen=True)
class Draw:
    """Everything random about one sample."""

    face: int
    """Index in the list of faces."""
    move: Move
    degradation: degrade.Degradation
    variation: augment.Variation


def draw(recipe: Recipe, count: int, number: int) -> Draw:
    """What sample ``number`` of a run over ``count`` faces is. Each face comes once in every ``count`` samples."""
    epoch, place = divmod(number, count)
    order = _order(recipe.seed, epoch, count)
    rng = np.random.default_rng((recipe.seed, number))
    flip = bool(rng.uniform() < recipe.data.flip)
    moved = rng.uniform() < recipe.data.shifted
    half = recipe.data.size // 2
    shift = rng.integers(-half, half, size=2, endpoint=True)
    reduce = rng.uniform(0.5, 1.0) if rng.uniform() < 0.5 else 1.0
    move = Move(flip, (int(shift[0]), int(shift[1])), float(reduce)) if moved else Move(flip, (0, 0), 1.0)
    return Draw(int(order[place]), move, degrade.draw(rng), augment.draw(recipe, number))


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process makes, when several train together."""

    rank: int = 0
    """This process."""
    world: int = 1
    """All processes; the batch must be a multiple of it."""

    def batch(self, recipe: Recipe) -> int:
        """Faces of one step that are this process's."""
        return recipe.batch // self.world

    def numbers(self, recipe: Recipe, start: int) -> Iterator[int]:
        """Sample numbers of this process from iteration ``start`` to the end of the run."""
        part = self.batch(recipe)
        for iteration in range(start, recipe.iterations):
            first = iteration * recipe.batch + self.rank * part
            yield from range(first, first + part)


ALONE = Share()


_orders: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.default_rng((seed, epoch, 0x0FACE)).permutation(count)
    return _orders[key]


def apply_move(image: Byte, move: Move) -> Byte:
    """Flip, reduce and shift a square picture; the frame keeps its size."""
    import cv2

    size = image.shape[0]
    if move.flip:
        image = image[:, ::-1]
    if move.reduce < 1:
        small = max(8, round(size * move.reduce))
        image = np.asarray(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), np.uint8)
    if move.reduce < 1 or move.shift != (0, 0):
        rows, columns = (mirrored(size, image.shape[0], -shift) for shift in move.shift)
        image = image[rows[:, None], columns[None, :]]
    return np.ascontiguousarray(image)


def mirrored(length: int, period: int, start: int) -> NDArray[np.int64]:
    """Indices start … start + length - 1 folded back into 0 … period - 1 at both ends."""
    index = np.arange(start, start + length) % (2 * period)
    return np.where(index < period, index, 2 * period - 1 - index)


class FacePairs(Dataset[tuple[Tensor, Tensor]]):
    """Sample number to (low quality h×w×3, truth H×W×3), both uint8, by OpenCV on the CPU."""

    def __init__(self, recipe: Recipe, faces: Sequence[Face]) -> None:
        self.recipe = recipe
        self.faces = faces

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        drawn = draw(self.recipe, len(self.faces), number)
        truth = apply_move(decode_face(self.faces[drawn.face], self.recipe.data.size), drawn.move)
        truth = augment.before(truth, drawn.variation)
        low = degrade.apply(truth, drawn.degradation, eight_bit_resize=self.recipe.data.eight_bit_resize)
        low, truth = augment.behind(low, truth, drawn.variation)
        return torch.from_numpy(np.ascontiguousarray(low)), torch.from_numpy(np.ascontiguousarray(truth))


def _batch(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One batch, N×3×h×w and N×3×H×W: the samples as they lie in memory, which is torch's channels_last."""
    low, truth = (torch.stack(pictures).permute(0, 3, 1, 2) for pictures in zip(*samples, strict=True))
    return low, truth


def worker_count(recipe: Recipe) -> int:
    """Processes that make batches on the CPU: the recipe's, or one for every two cores."""
    return recipe.data.workers if recipe.data.workers >= 0 else max(1, cores() // 2)


def _prepare_worker(_worker: int) -> None:
    import cv2

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # both may reach the whole group; the loop decides when to stop
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _kill_workers() -> None:
    """What an error kept alive ends here: multiprocessing sends it SIGTERM at the exit, and would wait for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def cpu_batches(
    recipe: Recipe, faces: Sequence[Face], start: int, share: Share = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from iteration ``start`` on: (low quality N×3×h×w, truth N×3×H×W), uint8, channels_last in memory.

    They are pinned when there is a GPU.
    """
    workers = worker_count(recipe)
    atexit.unregister(_kill_workers)  # once, however many runs there are in this process
    atexit.register(_kill_workers)
    loader = DataLoader(
        FacePairs(recipe, faces),
        batch_size=share.batch(recipe),
        sampler=share.numbers(recipe, start),  # any iterable of numbers will do
        collate_fn=_batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_prepare_worker,
        # a forked worker inherits OpenCV's thread pool without its threads, and waits for them for ever
        multiprocessing_context="spawn" if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that a resumed run finds torch's random state as it was
    )
    return iter(loader)
