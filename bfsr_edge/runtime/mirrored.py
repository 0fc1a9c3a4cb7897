"""Test-time augmentation: a network that looks at everything twice, as it is and mirrored, and gives the mean.

The geometric self-ensemble of Timofte et al. 2016 (https://doi.org/10.1109/CVPR.2016.206), with the one of its eight
views that faces are trained in: they are mirrored, but neither turned nor upside down. What it is worth is measured in
docs/restore.md.
"""

from __future__ import annotations

import numpy as np

from bfsr_edge.runtime import base


class Mirrored(base.Engine):
    """An engine whose every run is two of another's."""

    def __init__(self, engine: base.Engine) -> None:
        super().__init__(engine.info, engine.streams)
        self._engine = engine

    def _infer(self, batch: base.Batch) -> base.Batch:
        result = self._engine.run(batch)
        result += self._engine.run(np.ascontiguousarray(batch[..., ::-1]))[..., ::-1]
        result *= 0.5
        return result

    def close(self) -> None:
        self._engine.close()
