"""Calibration faces: drawn, decoded or cut out of photographs, and degraded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bfsr_edge.align import FRAME, crop, frame, side
from bfsr_edge.degrade import degrade
from bfsr_edge.errors import UsageError
from bfsr_edge.faceset import Face, find_faces

Byte = npt.NDArray[np.uint8]

SMALLEST = 256
"""Faces in photographs whose frame spans fewer pixels are left out: enlarged, they are too smooth."""
LOOKED_AT = 8
"""Pictures that decide whether a source holds aligned faces or photographs."""


@dataclass(frozen=True)
class Source:
    """A picture that faces were taken from."""

    name: str
    """Its name, for messages."""
    sha256: str
    """Of its encoded bytes."""
    pixels_sha256: str
    """Of its decoded pixels: the same picture in another format has it too."""


@dataclass(frozen=True)
class Faces:
    """What a network is calibrated on."""

    pictures: tuple[Byte, ...]
    """Degraded, RGB uint8 128×128×3."""
    sources: tuple[Source, ...]
    """The pictures used, each once."""
    left_out: dict[str, str]
    """Picture to the reason why it was not used."""
    aligned: bool
    """Whether they were taken as they are, or cut out of photographs."""


def gather(
    places: Sequence[str | os.PathLike[str]],
    count: int,
    seed: int,
    *,
    aligned: bool | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Faces:
    """Draw, align and degrade ``count`` faces; fewer where there are fewer.

    Parameters
    ----------
    places
        Folders or tars of pictures.
    count, seed
        How many, and of which draw; each face's degradation depends on the seed and the face's place in the list.
    aligned
        Whether the pictures are faces in the training frame, squares of at least 512 pixels, or whole photographs, out
        of which faces are cut. ``None``: the first few that are drawn decide.
    progress
        Called for each face.

    Raises
    ------
    UsageError
        A place holds no picture, the pictures are not what was said, or none of them could be used.
    BackendError
        They are photographs, and the network that finds faces is not installed.
    """
    found = find_faces(places)
    order = [int(place) for place in np.random.default_rng(seed).permutation(len(found))]
    if aligned is None:
        shapes = [image.shape for image in (decode(found[place]) for place in order[:LOOKED_AT]) if image is not None]
        aligned = bool(shapes) and all(height == width >= FRAME for height, width, _ in shapes)
    pictures: list[Byte] = []
    sources: list[Source] = []
    left_out: dict[str, str] = {}
    for place in order:
        if len(pictures) >= count:
            break
        encoded = found[place].encoded()
        image = _pixels(encoded)
        if image is None:
            left_out[found[place].name] = "it cannot be decoded"
            continue
        faces = [_whole(found[place], image)] if aligned else _cut_out(image)
        if not faces:
            left_out[found[place].name] = f"no face of at least {SMALLEST} pixels was found in it"
            continue
        sources.append(_source(found[place], encoded, image))
        for index, face in enumerate(faces[: count - len(pictures)]):
            pictures.append(degrade(face, (seed, place, index))[0])
            progress()
    if not pictures:
        raise UsageError(
            f"none of {len(found)} pictures in {', '.join(map(str, places))} could be used as a face",
            why=tuple(f"{name}: {reason}" for name, reason in list(left_out.items())[:3]),
            fix="give a folder of face photographs, or of aligned 512×512 faces: bfsr-edge calibrate --faces DIR",
        )
    return Faces(tuple(pictures), tuple(sources), left_out, aligned)


def refuse_overlap(sources: Iterable[Source], scored: Iterable[Path]) -> None:
    """Refuse faces that are scored as well: a drop measured on them would look smaller than it is.

    Raises
    ------
    UsageError
        A picture has the encoded bytes or the pixels of a calibration face; both are named.
    """
    known = {digest: source.name for source in sources for digest in (source.sha256, source.pixels_sha256)}
    overlaps = []
    for path in scored:
        encoded = path.read_bytes()
        image = _pixels(encoded)
        digests = [hashlib.sha256(encoded).hexdigest(), _pixel_hash(image) if image is not None else ""]
        overlaps += [f"{known[digest]} is {path}" for digest in digests[:2] if digest in known][:1]
    if overlaps:
        raise UsageError(
            f"{len(overlaps)} of the calibration faces are scored as well",
            why=overlaps[:5],
            fix="give other faces to --faces, or other pairs to --lq and --gt",
        )


def decode(face: Face) -> Byte | None:
    """RGB uint8 H×W×3, upright; ``None`` where it cannot be decoded."""
    return _pixels(face.encoded())


def _pixels(encoded: bytes) -> Byte | None:
    import cv2

    if not encoded:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # more pixels than it agrees to decode
        return None
    return None if image is None else np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def _whole(face: Face, image: Byte) -> Byte:
    """An aligned face, reduced by area to the training frame."""
    import cv2

    height, width = image.shape[:2]
    if height != width or height < FRAME:
        raise UsageError(
            f"{face.name} in {face.file} is no aligned face: it has {width}×{height} pixels",
            why=(f"aligned faces are squares of at least {FRAME} pixels", "the folder holds other pictures"),
            fix="name the right folder, or add --photos to have faces cut out of photographs",
        )
    if height > FRAME:
        image = np.asarray(cv2.resize(image, (FRAME, FRAME), interpolation=cv2.INTER_AREA), np.uint8)
    return image


def _cut_out(image: Byte) -> list[Byte]:
    """Every face of a photograph that is large enough, in the training frame, the surest first."""
    from bfsr_edge.detect import detect

    frames = [frame(face.landmarks) for face in detect(image)]
    return [crop(image, matrix) for matrix in frames if side(matrix) >= SMALLEST]


def _source(face: Face, encoded: bytes, image: Byte) -> Source:
    return Source(face.name, hashlib.sha256(encoded).hexdigest(), _pixel_hash(image))


def _pixel_hash(image: Byte) -> str:
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
