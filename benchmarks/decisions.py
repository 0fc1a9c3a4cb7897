"""What the two decisions of ``restore`` are worth: which faces are pasted, and how often a picture is reduced first.

    python benchmarks/decisions.py --faces GT --count 4

Known faces (512×512) are blurred, made noisy and compressed in several ways, restored by every choice there is and by
the one that was taken, and compared with the truth. Pasting: PSNR of what the mask covers, at frames of 160 to 512
pixels. Reducing: PSNR of the whole picture of 256 pixels at its own size (``--scale 1``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bfsr_edge import images, load, restore
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.restore import faces, paste

Picture = npt.NDArray[np.uint8]
STATES = ((0.0, 0, 0), (1.0, 0, 0), (2.0, 4, 80), (3.0, 15, 50), (4.0, 0, 0), (0.0, 10, 0), (0.0, 0, 50), (1.5, 0, 90))
"""Each as sigma of the blur in pixels, sigma of the noise in levels, quality of the JPEG (0: none)."""
SIDES = (160, 256, 512)
BORDER = 96


def worsened(picture: Picture, state: tuple[float, int, int]) -> Picture:
    """Blurred, then noisy, then compressed."""
    sigma, noise, quality = state
    values = picture.astype(np.float32)
    if sigma:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
    values += np.random.default_rng(0).normal(0, noise, values.shape).astype(np.float32)
    result = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if quality:
        result = np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8
        )
    return result


def psnr(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """In dB; at most 40, beyond which nobody sees a difference, or pictures left alone would decide every mean."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return min(40.0, float(10 * np.log10(255**2 / error))) if error else 40.0


def reduced(picture: Picture, side: int) -> Picture:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def pasting(truth: Picture, engine: Any) -> Iterator[tuple[float, float, float]]:
    """PSNR by tiles alone, by pasting, and by what was chosen, of each size and state in which the face is found."""
    framed: Picture = np.pad(truth, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="reflect")
    rule = faces.gains
    for side in SIDES:
        scale = 2 if side <= 256 else 1
        whole = round(framed.shape[0] * side / 512)
        wanted = reduced(framed, whole * scale)
        for state in STATES:
            picture = worsened(reduced(framed, whole), state)
            found = faces.locate(picture)
            if not found:
                continue
            at = (np.arange(whole * scale, dtype=np.float32) + np.float32(0.5)) / scale
            (a, b, c), (d, e, f) = found[0][1].astype(np.float32)
            x, y = at[None], at[:, None]
            inside = paste.mask_at(a * x + b * y + c, d * x + e * y + f) > 0.02
            scores = []
            # the rest is restored as it is: here it is the faces that are decided on
            for decide in (lambda *_: False, lambda *_: True, rule):
                faces.gains = decide
                result = restore(picture, engine, scale=scale, reduce=1, faces="largest")
                scores.append(psnr(result[inside], wanted[inside]))
            faces.gains = rule
            yield scores[0], scores[1], scores[2]


def reducing(truth: Picture, engine: Any) -> Iterator[tuple[float, ...]]:
    """PSNR where the picture is reduced 1, 2 and 4 times, left alone, and as it was chosen, for each state."""
    small = reduced(truth, 256)
    for state in STATES:
        picture = worsened(small, state)
        one, two, four = (psnr(restore(picture, engine, scale=1, reduce=times), small) for times in (1, 2, 4))
        yield one, two, four, psnr(picture, small), psnr(restore(picture, engine, scale=1), small)


def told(name: str, scores: list[tuple[float, ...]], choices: tuple[str, ...]) -> None:
    """Means over all cases against the first choice, and the worst single mistake."""
    table = np.array(scores)
    best = table[:, :-1].max(axis=1)
    print(f"{name}: {len(table)} cases, mean PSNR against {choices[0]}")
    for place, choice in enumerate(choices[1:], 1):
        print(f"  {choice:12} {np.mean(table[:, place] - table[:, 0]):+.2f} dB")
    print(f"  best of them {np.mean(best - table[:, 0]):+.2f} dB")
    print(f"  the rule's worst mistake costs {np.max(best - table[:, -1]):.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, metavar="DIR", help="Aligned faces, 512×512.")
    parser.add_argument("--count", type=int, default=4, help="So many of them, evenly spread.  [default: 4]")
    arguments = parser.parse_args()
    try:
        if arguments.count < 1:
            raise UsageError(f"--count {arguments.count} is less than 1")
        files = sorted(path for path in arguments.faces.glob("*") if path.suffix.lower() in images.EXTENSIONS)
        if not files:
            raise UsageError(f"{arguments.faces} holds no pictures", fix="name a folder of aligned faces, 512×512")
        chosen = files[:: max(1, len(files) // arguments.count)][: arguments.count]
        truths = [np.asarray(images.read(path).pixels[:, :, :3], np.uint8) for path in chosen]
        engine = load("edge", tile=128)
        told("pasting", [row for truth in truths for row in pasting(truth, engine)], ("tiles", "paste", "the rule"))
        told(
            "reducing",
            [row for truth in truths for row in reducing(truth, engine)],
            ("never", "twice", "4 times", "left alone", "the rule"),
        )
    except BfsrError as error:
        sys.exit(f"decisions.py: {error}")


if __name__ == "__main__":
    main()
