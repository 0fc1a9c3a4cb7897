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


def restore_picture(
    image: Pixels, engine: Network, options: Options | None = None, *, face_engine: Network | None = None
) -> Pixels:
    """Restore a picture and, where the options say so, its faces by themselves.

    Parameters
    ----------
    image
        uint8 or uint16, RGB H×W×3, RGB and alpha H×W×4, grey H×W or H×W×1, grey and alpha H×W×2.
    engine
        From ``bfsr_edge.load``. Pictures larger than its tile are cut into overlapping tiles and blended.
    options
        ``scale``, ``overlap``, ``offset``, ``batch``, ``reduce``, ``faces``, ``max_faces`` and ``strength`` are used.
        Where ``reduce`` is ``None``, it is as much as a blurred picture bears and ``scale`` leaves room for; at scale 1
        a picture so sharp and clean that the network could only take from it is given back as it is. See ``blur``.
    face_engine
        Restores faces; best with tiles of 128 pixels. By default ``engine``.

    Returns
    -------
    numpy.ndarray
        The type and channels of the input, scale·H × scale·W. Alpha goes through the network too where it varies; where
        it is constant it stays exactly that, and at the input's own size, not reduced, it is the input's.

    Raises
    ------
    UsageError
        The array is not such a picture, or an option does not fit the engine.
    BackendError
        A network failed, or the face detector is not installed.
    """
    options = options or Options()
    whole = checked(image)
    faces = restore_faces(whole, face_engine or engine, options)
    paste = Paster(faces.patches, options.scale, options.strength)
    factor, scale = engine.info.scale, options.scale
    reduce = blur.reduction_for(whole, options, factor)
    if reduce == blur.LEFT_ALONE and not faces.patches:
        return np.array(image)
    if reduce == blur.LEFT_ALONE or not faces.background:
        return gathered(enlarge(whole, scale, paste), image, scale)
    layout = plan_for(
        engine.info, *whole.shape[:2], scale=scale, overlap=options.overlap, offset=options.offset, reduce=reduce
    )
    tiles = infer(whole, engine, layout, options.batch, scale=scale, reduce=reduce)
    return gathered(finish(tiles, whole, layout, factor, scale, paste, reduce=reduce), image, scale)
