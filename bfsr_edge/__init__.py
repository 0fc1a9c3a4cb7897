"""Blind face super-resolution for small machines: arrays in, arrays out.

>>> from bfsr_edge import load, restore
>>> engine = load("edge")
>>> result = restore(photograph, engine, scale=4)

Nothing heavy is imported until ``load`` or ``restore`` runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# The package of that name is loaded first, so that importing its modules later cannot take the function's place.
from bfsr_edge import restore as _restore_package  # noqa: F401
from bfsr_edge.errors import BackendError, BfsrError, ImageError, ModelError, TrainingError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bfsr_edge.runtime import Engine

__all__ = [
    "BackendError",
    "BfsrError",
    "ImageError",
    "ModelError",
    "TrainingError",
    "UsageError",
    "__version__",
    "load",
    "restore",
]

__version__ = "0.1.0"


def load(model: str | os.PathLike[str] = "edge", **options: Any) -> Engine:
    """Load a network: a shipped name, a checkpoint, an ONNX file or an engine.

    Options are those of ``bfsr_edge.runtime.load``: ``backend``, ``device``, ``tile``, ``precision``, ``threads``,
    ``streams``, ``tta``.
    """
    from bfsr_edge import runtime

    return runtime.load(model, **options)


def restore(
    image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    engine: Engine | None = None,
    *,
    scale: int = 4,
    overlap: int | None = None,
    batch: int | None = None,
    reduce: int | None = None,
    faces: str = "off",
    max_faces: int | None = None,
    strength: float = 1.0,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Restore a picture of any size: RGB, uint8 or uint16, H×W×C, to the same kind, scale·H × scale·W × C.

    Parameters
    ----------
    image
        RGB order; H×W×3, with alpha H×W×4, grey H×W or H×W×1, grey and alpha H×W×2.
    engine
        From ``load``; without one the default network is loaded, which takes longer than restoring a face.
    scale
        4 is the network's own; 2 and 1 are reduced from it by area.
    overlap
        Context that a tile carries at each inner edge, in input pixels.
    batch
        Tiles given to the network at a time.
    reduce
        1, 2 or 4: reduce so many times first, so that scale 1 or 2 sharpens a blurred picture. By default measured; at
        scale 1 a picture that is sharp and clean already is given back as it is.
    faces
        "auto": each face is found, restored by itself where it gains by that, and pasted into the restored picture;
        "largest": one only; "only": the rest is merely enlarged; "aligned": the picture is one aligned face; "off".
        Finding them needs the extra: ``pip install 'bfsr-edge[faces]'``.
    max_faces
        Of the faces found, so many of the largest.
    strength
        0 to 1: how much of a restored face is blended in.

    Raises
    ------
    BfsrError
        The array is not such a picture, the network cannot be loaded or run, or what finds faces is not installed.
    """
    from bfsr_edge import runtime
    from bfsr_edge.restore.options import BATCH, OVERLAP, SMALL_TILE, Options
    from bfsr_edge.restore.picture import restore_picture

    overlap, batch = OVERLAP if overlap is None else overlap, BATCH if batch is None else batch
    face_engine = None
    if engine is None:
        height, width = image.shape[:2] if image.ndim > 1 else (1, 1)  # what is no picture is refused below
        choice = runtime.choose()
        tile = None if choice.fixed_tile else Options().tile_for(height, width)
        engine = runtime.load(choice, tile=tile)
        if faces != "off" and tile not in (None, SMALL_TILE):
            face_engine = runtime.load(choice, tile=SMALL_TILE)
    options = Options(
        scale=scale,
        overlap=overlap,
        batch=batch,
        reduce=reduce,
        faces=faces,
        max_faces=max_faces,
        strength=strength,
    )
    return restore_picture(image, engine, options, face_engine=face_engine)
