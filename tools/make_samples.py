"""Makes ``samples/gt`` from the two photographs in the public domain; samples/README.md has the commands.

Faces are laid into the frame that aligned face sets use (FFHQ's at 512×512): eyes and mouth at fixed places. The whole
photograph is enlarged until a quarter of it no longer fits into a tile; its face then has about the size of the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

SIZE = 512
WHOLE = (820, 960)
FRAME = np.array([[193.0, 240.0], [319.0, 240.0], [257.0, 371.0]])  # left eye, right eye, mouth
FACES = {  # the same three points in the photographs, in pixels
    "hopper": np.array([[223.0, 188.0], [306.0, 186.0], [265.0, 276.0]]),
    "astronaut": np.array([[202.0, 100.5], [248.0, 103.0], [223.0, 145.0]]),
}


def align(photograph: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face in the 512×512 frame: rotated, scaled and shifted, never sheared."""
    moved = points - points.mean(0)
    target = FRAME - FRAME.mean(0)
    # least squares over complex numbers: one number holds scale and rotation
    a, b = moved[:, 0] + 1j * moved[:, 1], target[:, 0] + 1j * target[:, 1]
    turn = (a.conj() @ b) / (a.conj() @ a)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    shift = FRAME.mean(0) - matrix @ points.mean(0)
    return cv2.warpAffine(
        photograph, np.column_stack([matrix, shift]), (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def read(path: str) -> np.ndarray:
    image = cv2.imread(path)
    if image is None:
        sys.exit(f"cannot read {path}")
    return image


def main(astronaut: str, hopper: str, out: str) -> None:
    photographs = {"astronaut": read(astronaut), "hopper": read(hopper)}
    pictures = {f"{name}-face": align(photograph, FACES[name]) for name, photograph in photographs.items()}
    pictures["hopper"] = cv2.resize(photographs["hopper"], WHOLE, interpolation=cv2.INTER_CUBIC)
    for name, picture in pictures.items():
        cv2.imwrite(str(Path(out, f"{name}.png")), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python tools/make_samples.py astronaut.png grace_hopper.jpg samples/gt")
    main(*sys.argv[1:])
