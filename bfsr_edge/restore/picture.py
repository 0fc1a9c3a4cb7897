"""One picture with its faces, array to array: what the pipeline does to files, in memory."""

from __future__ import annotations

import numpy as np

from bfsr_edge.images import Pixels
from bfsr_edge.restore import blur
from bfsr_edge.restore.array import Network, checked, finish, gathered, infer, plan_for
from bfsr_edge.restore.enlarge import enlarge
from bfsr_edge.restore.faces import restore_faces
from bfsr_edge.restore.options import Options
from bfsr_edge.restore.paste import Paster


def restore_picture(image: Pixels, engine: Network, options: Options, *, face_engine: Network | None = None) -> Pixels:
    """Restore a picture and its faces.

    Parameters
    ----------
    image
        uint8 or uint16, H×W, or H×W×C with 1 to 4 channels.
    engine
        Restores the picture in tiles.
    options
        ``scale``, ``overlap``, ``offset``, ``batch``, ``reduce``, ``faces``, ``max_faces`` and ``strength`` are used.
    face_engine
        Restores faces; best with tiles of 128 pixels. By default ``engine``.

    Returns
    -------
    The type and channels of the input, scale·H × scale·W.

    Raises
    ------
    UsageError
        The array is not such a picture, or an option does not fit the engine.
    BackendError
        A network failed, or the face detector is not installed.
    """
    whole = checked(image)
    faces = restore_faces(whole, face_engine or engine, options)
    paste = Paster(faces.patches, options.scale, options.strength)
    factor, scale = engine.info.scale, options.scale
    reduce = blur.reduction(whole, scale, factor) if options.reduce is None else options.reduce
    if reduce == 0 and not faces.patches:
        return np.array(image)
    if reduce == 0 or not faces.background:
        return gathered(enlarge(whole, scale, paste), image, scale)
    layout = plan_for(
        engine.info, *whole.shape[:2], scale=scale, overlap=options.overlap, offset=options.offset, reduce=reduce
    )
    tiles = infer(whole, engine, layout, options.batch, scale=scale, reduce=reduce)
    return gathered(finish(tiles, whole, layout, factor, scale, paste, reduce=reduce), image, scale)
