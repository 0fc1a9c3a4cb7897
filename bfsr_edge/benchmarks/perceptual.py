"""How different two pictures look to a person: ꟻLIP, where ``flip-evaluator`` is installed.

Andersson, Nilsson, Akenine-Möller, Oskarsson, Åström, Fairchild, "FLIP: a difference evaluator for alternating images",
HPG 2020. The mean over pixels, 0 for equal pictures to 1, lower is better, at the package's default viewing distance of
67 pixels per degree. It has no trained weights to be downloaded, and NVIDIA keeps the package alive.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import numpy as np
import numpy.typing as npt

DISTRIBUTION = "flip-evaluator"


def told() -> str:
    """What the figure is, for a report; empty where the package is not installed."""
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return f"FLIP {version}, mean over pixels, lower is better"


def score(result: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> float | None:
    """Of two uint8 RGB pictures of one size; ``None`` where the package is not installed."""
    try:
        # by name: it is optional, and type checkers would look for it
        evaluator: Any = importlib.import_module("flip_evaluator")
    except ImportError:
        return None
    first, second = (np.ascontiguousarray(each, np.float32) / np.float32(255) for each in (truth, result))
    _, mean, _ = evaluator.evaluate(first, second, "LDR", applyMagma=False, computeMeanError=True)
    return float(mean)
