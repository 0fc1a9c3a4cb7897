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

    Options are those of ``bfsr_edge.runtime.load``: ``backend``, ``device``, ``tile``, ``precision``, ``threads``.
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

    Raises
    ------
    BfsrError
        The array is not such a picture, or the network cannot be loaded or run.
    """
    from bfsr_edge import runtime
    from bfsr_edge.restore.array import restore_array
    from bfsr_edge.restore.options import BATCH, OVERLAP, Options

    if engine is None:
        height, width = image.shape[:2] if image.ndim > 1 else (1, 1)  # what is no picture is refused below
        choice = runtime.choose()
        engine = runtime.load(choice, tile=None if choice.fixed_tile else Options().tile_for(height, width))
    return restore_array(
        image,
        engine,
        scale=scale,
        overlap=OVERLAP if overlap is None else overlap,
        batch=BATCH if batch is None else batch,
    )
