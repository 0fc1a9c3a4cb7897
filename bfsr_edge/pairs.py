"""Degraded and true pictures of the same names in two folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bfsr_edge import images
from bfsr_edge.errors import ImageError, UsageError
from bfsr_edge.metrics import to_8bit

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """A degraded picture and the truth."""

    name: str
    """The file name that both have."""
    lq: Path
    """The degraded one."""
    gt: Path
    """The true one."""


@dataclass(frozen=True)
class Pairs:
    """What two folders hold."""

    pairs: tuple[Pair, ...]
    """Sorted by name."""
    only_lq: tuple[str, ...]
    """Degraded pictures without truth."""
    only_gt: tuple[str, ...]
    """True pictures without a degraded one."""


def find_pairs(lq: str | os.PathLike[str], gt: str | os.PathLike[str]) -> Pairs:
    """Pictures of two folders, paired by file name; subfolders and other files are left alone.

    Raises
    ------
    UsageError
        A folder is not there, or they have no name in common.
    """
    folders = [Path(lq), Path(gt)]
    names: list[set[str]] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}", fix="check the path given to --lq and --gt")
        names.append({entry.name for entry in folder.iterdir() if entry.suffix.lower() in images.EXTENSIONS})
    common = sorted(names[0] & names[1])
    if not common:
        raise UsageError(
            f"{folders[0]} and {folders[1]} have no picture of the same name",
            why=("pairs have the same file name in both, the extension included",),
        )
    pairs = tuple(Pair(name, folders[0] / name, folders[1] / name) for name in common)
    return Pairs(pairs, tuple(sorted(names[0] - names[1])), tuple(sorted(names[1] - names[0])))


def read_rgb(path: Path) -> Pixels:
    """A picture as uint8 H×W×3: grey is repeated, 16 bits are rounded to 8.

    Raises
    ------
    ImageError
        It cannot be read, or has transparency, which no score is defined for.
    """
    pixels = images.read(path).pixels
    if pixels.shape[2] in (2, 4):
        raise ImageError(f"{path.name} has transparency, which cannot be scored", fix="remove its alpha channel")
    if pixels.dtype == np.uint16:
        pixels = to_8bit(pixels / np.float64(65535))
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.asarray(pixels, np.uint8)
