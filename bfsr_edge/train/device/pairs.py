"""Training pairs made on the training device: every face is decoded once and kept there as uint8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bfsr_edge.errors import TrainingError
from bfsr_edge.faceset import Face, decode_face
from bfsr_edge.runtime.machine import cores
from bfsr_edge.train import pairs
from bfsr_edge.train.device import augment as device_augment
from bfsr_edge.train.device import degrade as device_degrade
from bfsr_edge.train.device.resize import resize_matrix
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import LARGEST_SEED

AREA = 1  # its index in bfsr_edge.degrade.MODES


def cache_faces(faces: Sequence[Face], size: int, device: torch.device) -> Tensor:
    """All faces, N×3×size×size uint8 on ``device``.

    Raises
    ------
    TrainingError
        They do not fit the device's free memory, or one is damaged.
    """
    needed = len(faces) * 3 * size * size
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        if needed > 0.6 * free:
            raise TrainingError(
                f"{len(faces)} faces need {needed / 1e9:.1f} GB on {device}, of which {free / 1e9:.1f} GB are free",
                fix='set [data] pipeline = "cpu", which reads faces as they come',
            )
    cache = torch.empty(len(faces), 3, size, size, dtype=torch.uint8, device=device)

    def load(index: int) -> None:
        cache[index] = torch.from_numpy(decode_face(faces[index], size)).to(device).permute(2, 0, 1)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(load, range(len(faces))))
    return cache


def move(images: Tensor, moves: Sequence[pairs.Move]) -> Tensor:
    """`pairs.apply_move` for a batch N×3×S×S of whole numbers, float32."""
    side = images.shape[-1]
    if any(m.reduce < 1 for m in moves):
        sizes = [max(8, round(side * m.reduce)) for m in moves]
        small = device_degrade.to_device(sizes, images.device)
        matrix = resize_matrix(torch.full_like(small, side), small, torch.full_like(small, AREA), side, side)
        # mirrored afterwards instead of before: the same, because reducing by area is symmetric
        images = torch.floor(device_degrade.resize(images, matrix, matrix) + 0.5)
    rows, columns = [], []
    for m in moves:
        period = max(8, round(side * m.reduce)) if m.reduce < 1 else side
        row, column = (pairs.mirrored(side, period, -shift) for shift in m.shift)
        rows.append(row)
        columns.append(period - 1 - column if m.flip else column)
    row_index, column_index = device_degrade.to_device(np.stack((rows, columns)), images.device, torch.int64)
    images = images.gather(2, row_index[:, None, :, None].expand(-1, 3, -1, side))
    return images.gather(3, column_index[:, None, None, :].expand(-1, 3, side, -1))


def device_batches(
    recipe: Recipe, faces: Sequence[Face], start: int, device: torch.device, share: pairs.Share = pairs.ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (low quality N×3×h×w, truth N×3×H×W), float32 in [0, 1] on ``device``, from iteration ``start`` on.

    Draws are those of the CPU pipeline; the noise field comes from the device's own generator, seeded by the iteration.
    """
    cache = cache_faces(faces, recipe.data.size, device)
    generator = torch.Generator(device)
    part = share.batch(recipe)
    for iteration in range(start, recipe.iterations):
        first = iteration * recipe.batch + share.rank * part
        drawn = [pairs.draw(recipe, len(faces), number) for number in range(first, first + part)]
        index = device_degrade.to_device([d.face for d in drawn], device, torch.int64)
        truth = move(cache[index].float(), [d.move for d in drawn])
        truth = device_augment.before(truth, [d.variation for d in drawn])
        generator.manual_seed(((recipe.seed * 1_000_003 + iteration) * share.world + share.rank) % LARGEST_SEED)
        noise = torch.randn(truth.shape, device=device, generator=generator)
        low = device_degrade.apply(truth, [d.degradation for d in drawn], noise)
        low, truth = device_augment.behind(low, truth, [d.variation for d in drawn])
        yield low / 255, truth / 255
