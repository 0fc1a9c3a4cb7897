"""Validation: the score of a network on pairs, as the challenge counts it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bfsr_edge import degrade
from bfsr_edge.errors import UsageError
from bfsr_edge.faceset import SUFFIXES, Face, decode_face
from bfsr_edge.metrics import psnr
from bfsr_edge.models import Network
from bfsr_edge.sheet import Row, draw
from bfsr_edge.train.recipe import Recipe

Byte = NDArray[np.uint8]


@dataclass(frozen=True)
class Pairs:
    """Validation pictures, RGB uint8: inputs h×w×3 and truths 4h×4w×3."""

    low: tuple[Byte, ...]
    truth: tuple[Byte, ...]
    source: str
    """Where they come from, for the log."""

    def sha256(self) -> str:
        """Of all pixels and their shapes: scores compare where it is equal."""
        hashed = hashlib.sha256()
        for picture in (*self.low, *self.truth):
            hashed.update(repr(picture.shape).encode())
            hashed.update(picture.tobytes())
        return hashed.hexdigest()


def given_pairs(low: Path, truth: Path) -> Pairs:
    """Pairs of the same file name in two folders.

    Raises
    ------
    UsageError
        A folder is missing, has no pairs, or a picture cannot be decoded.
    """
    for folder in (low, truth):
        if not folder.is_dir():
            raise UsageError(f"there is no validation folder {folder}", fix="bfsr-edge train --val-lq DIR --val-gt DIR")
    names = sorted(p.name for p in low.iterdir() if p.suffix.lower() in SUFFIXES and (truth / p.name).is_file())
    if not names:
        raise UsageError(f"{low} and {truth} have no picture of the same name")
    pairs = Pairs(
        tuple(_read(low / n) for n in names), tuple(_read(truth / n) for n in names), f"{len(names)} pairs of {low}"
    )
    for name, small, large in zip(names, pairs.low, pairs.truth, strict=True):
        height, width = (degrade.SCALE * side for side in small.shape[:2])
        if large.shape != (height, width, 3):
            raise UsageError(
                f"{truth / name} has {large.shape[1]}×{large.shape[0]} pixels, not {width}×{height}",
                why=("the truth must be 4 times the input on each side",),
                fix="make the inputs with: bfsr-edge degrade",
            )
    return pairs


def _read(path: Path) -> Byte:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError(f"{path} cannot be decoded", why=("it is damaged or no picture",))
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def made_pairs(recipe: Recipe, faces: Sequence[Face]) -> Pairs:
    """Pairs made from held-out faces by the blind degradation, the same ones every time."""
    truth = tuple(decode_face(face, recipe.data.size) for face in faces)
    low = tuple(degrade.degrade(image, (recipe.seed, 0x7A1, index))[0] for index, image in enumerate(truth))
    return Pairs(low, truth, f"{len(truth)} held-out faces")


SHOWN = 4
"""Pictures that a person is shown of each validation."""


@dataclass(frozen=True)
class Shown:
    """One validation picture, RGB uint8, with its PSNR in dB."""

    low: Byte
    result: Byte
    truth: Byte
    psnr: float


def score(network: Network, pairs: Pairs, device: torch.device) -> tuple[float, list[Shown]]:
    """Mean over images of PSNR in dB (RGB, 8-bit after rounding and clipping, whole image), and the first few."""
    total = 0.0
    shown: list[Shown] = []
    for low, truth in zip(pairs.low, pairs.truth, strict=True):
        result = predict(network, low, device)
        value = psnr(result, truth)
        total += value
        if len(shown) < SHOWN:
            shown.append(Shown(low, result, truth, value))
    return total / len(pairs.low), shown


def draw_faces(shown: Sequence[Shown], iteration: int, side: int) -> Byte:
    """A sheet of input, result and truth with the PSNR of each, RGB; ``side`` is that of a picture in it."""
    rows = [Row(f"{p.psnr:.2f} dB at iteration {iteration}", (p.low, p.result, p.truth)) for p in shown]
    return draw(("input", "result", "truth"), rows, side)


def predict(network: Network, low: Byte, device: torch.device) -> Byte:
    """One picture through the network: h×w×3 uint8 to 4h×4w×3 uint8; continued to the network's stride, then cut."""
    was_training = network.training
    network.eval()
    height, width = low.shape[:2]
    missing = (-width % network.stride, -height % network.stride)
    # convolutions take TF32 on a GPU unless told otherwise, which is not what the score is of
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        batch = torch.from_numpy(low).to(device).permute(2, 0, 1)[None].float() / 255
        batch = F.pad(batch, (0, missing[0], 0, missing[1]), mode="replicate")
        out = network(batch)[0, :, : height * network.scale, : width * network.scale]
        out = out.mul(255).round_().clamp_(0, 255).byte().permute(1, 2, 0)
    network.train(was_training)
    return np.asarray(out.cpu().numpy(), np.uint8)
