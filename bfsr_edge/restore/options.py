"""What one run of the main job is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.errors import UsageError
from bfsr_edge.images import FORMATS, MAX_MEGAPIXELS, QUALITY

SCALES = (1, 2, 4)
FACES = ("auto", "only", "off", "aligned", "largest")
REDUCTIONS = (1, 2, 4)
TILE = 192
"""Side of a tile for photographs, in input pixels: larger ones waste less on overlaps and need more memory."""
SMALL_TILE = 128
"""Pictures no larger than this run whole on a tile of this side, which is what face networks were trained on."""
OVERLAP = 16
"""Context at each inner edge of a tile, in input pixels: neighbours share twice as much."""
BATCH = 1
"""Tiles given to the network at a time: on a CPU one tile fills all cores."""


@dataclass(frozen=True)
class Options:
    """How pictures are restored. Checked when made: UsageError names what is out of range."""

    scale: int = 4
    """Size of the result relative to the input: 4, or 2 and 1 by area reduction."""
    tile: int | None = None
    """Side of a tile in input pixels; by default ``TILE``, and ``SMALL_TILE`` for pictures that fit into it."""
    overlap: int = OVERLAP
    """Context at each inner edge of a tile, in input pixels."""
    offset: int = 0
    """Moves inner tile edges, in input pixels; for comparing two tilings."""
    batch: int = BATCH
    """Tiles given to the network at a time. Does not change the result."""
    quality: int = QUALITY
    """1 to 100, for JPEG, WebP and HEIC."""
    faces: str = "off"
    """auto: each face is found, aligned, restored by itself and pasted into the restored picture. only: into the
    picture as it is, merely enlarged. largest: as auto, with the largest face only. aligned: every picture is one
    aligned face. off: nothing is looked for."""
    max_faces: int | None = None
    """Of the faces found, so many of the largest."""
    strength: float = 1.0
    """0 to 1: how much of the restored face is blended in."""
    save_faces: Path | None = None
    """Folder for each face before and after. Does not change the result."""
    reduce: int | None = None
    """1, 2 or 4: reduce the picture so much before the network sees it. By default as much as a blurred picture bears
    without losing detail, where ``scale`` leaves room."""
    tta: bool = False
    """Whether the networks are loaded with test-time augmentation, which changes the result."""
    strip_metadata: bool = False
    """Carry neither EXIF nor anything else but the colour profile."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Of an input: what is larger is refused as a decompression bomb."""
    overwrite: bool = False
    """Redo and replace whatever lies at the result's place."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale {self.scale} is not one of 1, 2, 4")
        if self.faces not in FACES:
            raise UsageError(f"faces {self.faces} is not one of {', '.join(FACES)}")
        if self.reduce is not None and (self.reduce not in REDUCTIONS or self.reduce * self.scale > max(SCALES)):
            raise UsageError(
                f"reduce {self.reduce} does not go with scale {self.scale}",
                why=("the network enlarges 4 times: reduce times scale is at most 4",),
            )
        for name, value, least, most in (
            ("max-faces", 1 if self.max_faces is None else self.max_faces, 1, 10_000),
            ("strength", self.strength, 0, 1),
            ("max-megapixels", self.max_megapixels, 0.001, 1_000_000),
            ("tile", TILE if self.tile is None else self.tile, 1, 8192),
            ("overlap", self.overlap, 0, 4096),
            ("batch", self.batch, 1, 1024),
            ("quality", self.quality, 1, 100),
        ):
            if not least <= value <= most:
                raise UsageError(f"{name} {value} is not between {least} and {most}")

    def tile_for(self, height: int, width: int) -> int:
        """Side of the tile for a picture of that size."""
        if self.tile is not None:
            return self.tile
        return SMALL_TILE if max(height, width) <= SMALL_TILE else TILE


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    """The input."""
    target: Path
    """Where the result goes."""
    format: str
    """Of the result, a name from ``images.FORMATS``."""
    below: Path = Path()
    """The result's place below the result folder; by default its name."""

    def __post_init__(self) -> None:
        assert self.format in FORMATS
