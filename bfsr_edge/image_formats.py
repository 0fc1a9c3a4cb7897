"""The picture formats, and what each can hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.errors import ImageError, UsageError

QUALITY = 95
"""The default for JPEG, WebP and HEIC."""


@dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    """As ``--format`` takes it."""
    extensions: tuple[str, ...]
    """Lower case, with the dot; the first one is given to new files."""
    side: int
    """The largest width or height, in pixels."""
    alpha: bool
    """Whether it holds transparency."""
    deep: bool
    """Whether it holds 16 bits a channel."""
    pixels: int = 1 << 62
    """The largest number of pixels that can be written."""


FORMATS = {
    entry.name: entry
    for entry in (
        Format("jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), 65_535, alpha=False, deep=False),
        Format("png", (".png",), (1 << 31) - 1, alpha=True, deep=True),
        Format("webp", (".webp",), 16_383, alpha=True, deep=False),
        Format("tiff", (".tif", ".tiff"), (1 << 31) - 1, alpha=True, deep=True),
        Format("bmp", (".bmp", ".dib"), 65_535, alpha=False, deep=False, pixels=1 << 28),
        Format("heic", (".heic", ".heif", ".hif"), 16_383, alpha=True, deep=False, pixels=1 << 27),
    )
}
EXTENSIONS = {extension: entry.name for entry in FORMATS.values() for extension in entry.extensions}


def format_of(path: Path) -> Format:
    """The format that the extension names; UsageError for one that is not known."""
    name = EXTENSIONS.get(path.suffix.lower())
    if name is None:
        raise UsageError(
            f"{path}: the extension {path.suffix or '(none)'} names no picture format",
            fix=f"use one of {', '.join(sorted(EXTENSIONS))}",
        )
    return FORMATS[name]


def check_holds(name: str, width: int, height: int, channels: int, bits: int) -> None:
    """Refuse a picture that the format cannot hold, naming the formats that can.

    Raises
    ------
    ImageError
        It has too many pixels, or the format has no alpha or no 16 bits.
    """
    problem = _problem(FORMATS[name], width, height, channels, bits)
    if problem:
        able = [entry.name for entry in FORMATS.values() if not _problem(entry, width, height, channels, bits)]
        raise ImageError(f"{name} cannot hold {problem}", fix=f"use --format {' or '.join(able)}")


def _problem(entry: Format, width: int, height: int, channels: int, bits: int) -> str:
    if max(width, height) > entry.side:
        return f"{width}×{height} pixels: {entry.side:,} a side is its limit"
    if width * height > entry.pixels:
        return f"{width}×{height} pixels: {entry.pixels / 1e6:.0f} megapixels are the limit here"
    if channels in (2, 4) and not entry.alpha:
        return "transparency"
    if entry.name == "tiff" and channels == 2 and bits == 16:
        return "grey with transparency in 16 bits that other programs can read"
    return "16 bits a channel" if bits == 16 and not entry.deep else ""
