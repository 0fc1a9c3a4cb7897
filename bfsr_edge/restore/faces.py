"""The faces of a picture, each restored by itself in the frame that the networks are trained on.

A face is found, brought into the frame by its landmarks, reduced or enlarged to what the network sees, run, and becomes
a patch for ``paste.Paster``. Coordinates and frames are those of ``bfsr_edge.align``.

Not every face gains by that. A sharp one loses what 128 pixels do not hold, and the network, which enlarges whatever
it sees, does better on tiles at the picture's own size. A blurred one is out of the network's reach at its own size,
and reducing it brings the blur back to what the network was trained on. What tells them apart is the *shared detail*
(``shared_detail``): how strong one octave of the face is, as far as the network's own result has it too, so that noise
and JPEG's blocks do not pass for detail. It is taken in the finest octave of what the network sees, and in the one
beyond that reducing loses. The limits were fitted to eleven FFHQ and CelebA-HQ faces at frames of 128 to 512 pixels,
each with eight blurs, noises and qualities of JPEG; ``benchmarks/decisions.py`` measures what the rule is worth on
others (docs/faces.md). Smaller faces than the network's 128 pixels would have to be enlarged first, which loses:
tiles restore them. Against a picture merely enlarged nearly every face gains, small ones too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import tiling
from bfsr_edge.align import FRAME, Matrix, crop, crop_deep, frame, inverse, side
from bfsr_edge.detect import LONGEST, detect, model_digest
from bfsr_edge.errors import UsageError
from bfsr_edge.images import Pixels
from bfsr_edge.restore.array import Network, infer, plan_for
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.paste import Float, Patch, mask_at
from bfsr_edge.tiling import Axis, Plan

Box = tuple[float, float, float, float]
RGB = npt.NDArray[np.uint8]
Deep = npt.NDArray[np.uint16]

REVISION = 1
"""Counts changes of this module and ``paste`` that change results: those made before are then made anew."""
INPUT = 128
"""Side of what the network sees of a face, in pixels."""

DRIFT = 670
"""Faces whose frame spans more pixels of what the detector saw are looked at again: there its landmarks drift."""
TILT = 15.0
"""So are those turned by more degrees: of the same face, landmarks then lie up to a fifth closer together."""
AGAIN = 0.6
"""The part of the second look that the frame fills."""
SHARP, SHARP_ENLARGED = 0.016, 0.015
"""Faces of more shared detail are left alone: in a restored picture (where the frame spans 512 pixels of it, and in
proportion less where it spans fewer), and in one that is merely enlarged."""
BEYOND, BEYOND_FROM = 0.0012, 200.0
"""Whatever their detail, faces with less beyond what the network sees are restored, if the frame spans as much."""
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
COLOURS = 8.0
"""Colours that vary slower than over so many pixels (a Gaussian's sigma) of what the network sees are the picture's."""
ALIGNED = 0.15
"""A picture whose corners lie this close to those of a face's frame, in sides of it, is itself one aligned face."""


@dataclass(frozen=True)
class Faces:
    """What was found in a picture, and what is to be pasted."""

    found: int = 0
    """Faces found; 1 where the picture is said to be one."""
    boxes: tuple[Box, ...] = ()
    """Of each face found, largest first: left, top, right, bottom, in pixels of the picture."""
    restored: int = 0
    """Of them, those restored; a picture that is one face of the network's own size is restored without a patch."""
    patches: tuple[Patch, ...] = ()
    """Of those restored, largest first."""
    saved: tuple[tuple[Pixels, Pixels], ...] = ()
    """Of each face restored the frame before and after, ``FRAME`` × ``FRAME``, in the picture's type; if asked for."""
    background: bool = True
    """Whether the network restores the rest of the picture; if not, the picture is merely enlarged."""


def face_code(options: Options) -> str:
    """What else changes the faces of a result: this code and the detector, for the record; empty where neither runs.

    Raises
    ------
    BackendError
        The detector is not installed.
    """
    if options.faces == "off":
        return ""
    return f"{REVISION}" if options.faces == "aligned" else f"{REVISION} {model_digest()}"


def restore_faces(image: Pixels, network: Network, options: Options) -> Faces:
    """Find the faces of a picture and restore them.

    Parameters
    ----------
    image
        uint8 or uint16, H×W×C as decoded: grey, RGB, with or without alpha.
    network
        Best with tiles of 128 pixels; one with other tiles sees the frame in them.
    options
        ``faces``, ``max_faces``, ``scale``, ``overlap``, ``batch``, and whether ``save_faces`` is set.

    Raises
    ------
    BackendError
        The detector is not installed, or the network failed.
    """
    if options.faces == "off":
        return Faces()
    colours = image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1]
    height, width = image.shape[:2]
    if options.faces == "aligned":
        return _pasted(
            colours,
            ((0.0, 0.0, float(width), float(height)),),
            [whole_frame(height, width)],
            network,
            options,
            whole=True,
        )
    found = locate(image)
    boxes, frames = tuple(box for box, _ in found), [matrix for _, matrix in found]
    if frames and is_aligned(frames[0], height, width):
        if max(height, width) <= INPUT and options.faces != "only":
            # the network sees the whole face in any case; only its files are made apart
            whole = [whole_frame(height, width)] if options.save_faces else []
            saved = tuple(_files(face, face.after, colours) for face in _restored(colours, whole, network, options))
            return Faces(len(found), boxes, 1, saved=saved)
        return _pasted(colours, boxes, [whole_frame(height, width)], network, options, whole=True)
    chosen = frames[: 1 if options.faces == "largest" else options.max_faces]
    return _pasted(colours, boxes, chosen, network, options)


def is_aligned(matrix: Matrix, height: int, width: int) -> bool:
    """Whether a picture is itself one aligned face: its corners are about those of the face's frame."""
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)]) @ matrix[:, :2].T + matrix[:, 2]
    expected = np.array([(0, 0), (FRAME, 0), (0, FRAME), (FRAME, FRAME)])
    return bool(np.abs(corners - expected).max() <= ALIGNED * FRAME)


def whole_frame(height: int, width: int) -> Matrix:
    """From a picture to the frame that it fills, centred; its longer side is the frame's."""
    factor = FRAME / max(height, width)
    return np.array([[factor, 0, (FRAME - factor * width) / 2], [0, factor, (FRAME - factor * height) / 2]])


def locate(image: Pixels) -> list[tuple[Box, Matrix]]:
    """Every face of a picture, the largest first: its box, and the transform from picture to frame."""
    picture = _for_detector(image)
    found = []
    for face in detect(picture):
        try:
            matrix = frame(face.landmarks)
            tilt = abs(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
            if tilt > TILT or side(matrix) > DRIFT * max(1.0, max(picture.shape[:2]) / LONGEST):
                matrix = _again(picture, matrix)
        except UsageError:  # landmarks in one place: no face
            continue
        found.append((face.box, matrix))
    return sorted(found, key=lambda each: (-side(each[1]), each[0]))


def _for_detector(image: Pixels) -> RGB:
    """What is seen of a picture: RGB in 8 bits."""
    colours = image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1].repeat(3, axis=2)
    eight = (colours >> 8) if colours.dtype == np.uint16 else colours
    return np.ascontiguousarray(eight, np.uint8)


def _again(picture: RGB, matrix: Matrix) -> Matrix:
    """A large or tilted face's frame, from where it is smaller and upright; the first one if nothing is found there."""
    view = matrix * AGAIN
    view[:, 2] += FRAME * (1 - AGAIN) / 2
    faces = detect(crop(picture, view))
    if not faces:
        return matrix
    nearest = min(faces, key=lambda face: float(np.abs(np.mean(face.landmarks, axis=0) - FRAME / 2).max()))
    back = inverse(view)
    return frame(nearest.landmarks @ back[:, :2].T + back[:, 2])


@dataclass(frozen=True)
class _Restored:
    """A face, before and after the network."""

    matrix: Matrix
    """From picture to frame."""
    before: Deep
    """The face at the frame's size, 512×512×3."""
    after: Float
    """What the network made of it, 512×512×3, not clipped."""
    matched: Float
    """The same with the picture's colours, for what is pasted into it."""
    detail: float
    """``shared_detail`` of the finest octave that the network saw."""
    beyond: float
    """And of the octave beyond."""


def _restored(colours: Pixels, frames: Sequence[Matrix], network: Network, options: Options) -> Iterator[_Restored]:
    """Each face through the network, in order."""
    crops = [crop_deep(colours, matrix * (INPUT / FRAME), INPUT) for matrix in frames]
    for matrix, seen, after in zip(frames, crops, _run(crops, network, options), strict=True):
        before = crop_deep(colours, matrix)
        detail, beyond = shared_detail(before, after, INPUT), shared_detail(before, after, 2 * INPUT)
        yield _Restored(matrix, before, after, _matched(after, seen), detail, beyond)


def _run(crops: Sequence[Deep], network: Network, options: Options) -> Iterator[Float]:
    """The network's result for each crop, 512×512×3."""
    info = network.info
    if not crops:
        return
    if info.tile == (INPUT, INPUT):
        # one picture of all faces, one below the other, a tile each: so they go through in batches
        rows = Axis(INPUT * len(crops), INPUT, tuple(INPUT * place for place in range(len(crops))), 0)
        plan = Plan(rows, Axis(INPUT, INPUT, (0,), 0))
        for result in infer(np.concatenate(crops), network, plan, options.batch):
            yield result.transpose(1, 2, 0)
        return
    for each in crops:
        plan = plan_for(info, INPUT, INPUT, scale=info.scale, overlap=options.overlap)
        bands = tiling.blend(plan, infer(each, network, plan, options.batch), info.scale)
        yield np.concatenate([band.copy() for band in bands], axis=1).transpose(1, 2, 0)


def _matched(after: Float, seen: Deep) -> Float:
    """The result with the colours of what the network saw, where they vary slowly."""
    size = (INPUT, INPUT)
    change = seen * np.float32(1 / 65535) - cv2.resize(after, size, interpolation=cv2.INTER_AREA)
    slow = cv2.GaussianBlur(change, (0, 0), COLOURS, borderType=cv2.BORDER_REPLICATE)
    larger = cv2.resize(slow, after.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(after + larger.reshape(after.shape), np.float32)


def gains(face: _Restored, options: Options) -> bool:
    """Whether a face is better restored by itself than with the rest of the picture; see this module's text."""
    spans = min(side(face.matrix), FRAME)
    if options.faces == "only":
        return spans < INPUT or face.detail < SHARP_ENLARGED
    if spans >= BEYOND_FROM and face.beyond < BEYOND:
        return True
    return spans >= INPUT and face.detail < SHARP * spans / FRAME


def shared_detail(before: Deep, after: Float, size: int) -> float:
    """How much of the network's detail a face holds already, in parts of the full range; see this module's text.

    The detail of a picture is what halving it loses, at ``size`` pixels a side of the frame. With u that of the face
    and v that of the network's result it is mean(u v) / rms(v) of their luminance inside the mask. Noise does not
    count: it has nothing in common with v.
    """
    places = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(FRAME / size)
    inside = mask_at(places[None], places[:, None]) > 0.5
    u = _detail(before * np.float32(1 / 65535), size)[inside]
    v = _detail(after, size)[inside]
    return float(np.mean(u * v) / max(float(np.sqrt(np.mean(v * v))), 1e-6))


def _detail(face: Float, size: int) -> Float:
    grey = face @ LUMINANCE if face.shape[2] == 3 else face[:, :, 0]
    grey = np.asarray(cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA), np.float32)
    half = cv2.resize(grey, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(grey - cv2.resize(half, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _pasted(
    colours: Pixels,
    boxes: tuple[Box, ...],
    frames: Sequence[Matrix],
    network: Network,
    options: Options,
    *,
    whole: bool = False,
) -> Faces:
    """Patches of the faces that gain; of the others nothing is kept."""
    patches, saved = [], []
    for face in _restored(colours, frames, network, options):
        if options.faces != "aligned" and not gains(face, options):
            continue
        after = face.after if whole else face.matched
        patches.append(Patch(_shown(after, face.matrix, options.scale), face.matrix, whole))
        if options.save_faces is not None:
            saved.append(_files(face, after, colours))
    # a picture that is one face shows nothing of the background, and "only" leaves it as it is
    background = options.faces not in ("only", "aligned") and not (whole and patches and options.strength == 1)
    return Faces(len(boxes), boxes, len(patches), tuple(patches), tuple(saved), background)


def _files(face: _Restored, after: Float, colours: Pixels) -> tuple[Pixels, Pixels]:
    """The frame before and after, as it is saved."""
    return _as(face.before, colours), _as(_deep(after), colours)


def _shown(after: Float, matrix: Matrix, scale: int) -> Deep:
    """The restored frame, reduced to the size at which the result shows it, so that warping it does not alias."""
    size = max(1, min(FRAME, round(side(matrix) * scale)))
    shown = after if size == FRAME else cv2.resize(after, (size, size), interpolation=cv2.INTER_AREA)
    return _deep(np.asarray(shown, np.float32))


def _deep(values: Float) -> Deep:
    return np.asarray(np.rint(np.clip(values, 0, 1) * np.float32(65535)), np.uint16)


def _as(face: Deep, colours: Pixels) -> Pixels:
    """In the type and channels of the picture that it comes from."""
    values: Pixels = face
    if colours.shape[2] == 1:
        values = np.rint(face.mean(axis=2, keepdims=True)).astype(np.uint16)
    return np.rint(values / 257).astype(np.uint8) if colours.dtype == np.uint8 else values
