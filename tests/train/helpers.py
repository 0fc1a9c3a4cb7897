"""Small faces and a small recipe, so that a run takes a second."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from bfsr_edge.train.recipe import Data, Network, Recipe

SIZE = 64


def make_faces(folder: Path, count: int = 12, size: int = SIZE) -> Path:
    """A folder of smooth random squares, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        face = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:03}.png"), face)
    return folder


def make_tar(path: Path, folder: Path) -> Path:
    """The pictures of a folder as an uncompressed tar with a file in it that is no picture."""
    with tarfile.open(path, "w:") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"faces/{file.name}")
        note = tarfile.TarInfo("faces/readme.txt")
        note.size = 4
        archive.addfile(note, io.BytesIO(b"note"))
    return path


def tiny_recipe(faces: Path, **changes: Any) -> Recipe:
    """Six steps of a tiny EdgeUNet, batches made in this process."""
    data = Data(faces=(str(faces),), size=SIZE, holdout=2, workers=0, shifted=0.5)
    recipe = Recipe(
        name="tiny",
        network=Network("edge-unet", {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]}),
        data=data,
        iterations=6,
        batch=2,
        validate_every=3,
        checkpoint_every=2,
        log_every=2,
    )
    return dataclasses.replace(recipe, **changes)


def digest(batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """One hash for all pictures of all batches."""
    hashed = hashlib.sha256()
    for batch in batches:
        for pictures in batch:
            hashed.update(pictures.numpy().tobytes())
    return hashed.hexdigest()
