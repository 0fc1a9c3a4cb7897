"""`bfsr-edge degrade`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfsr_edge.errors import BfsrError, UsageError

if TYPE_CHECKING:
    from bfsr_edge.degrade import Degradation

SEVERITIES = ("challenge", "mild", "medium", "severe")


@click.command(name="degrade", short_help="Make low-quality pictures by the blind degradation.")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "-o", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where results go.")
@click.option("--severity", type=click.Choice(SEVERITIES), default="challenge", show_default=True, help="The ranges.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same pictures.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done to each picture as JSON.")
def command(pictures: tuple[Path, ...], out: Path, severity: str, seed: int, overwrite: bool, as_json: bool) -> None:
    """Make low-quality pictures: blur, resize, noise, JPEG, then a quarter of the size.

    PICTURES are files or folders. Results are PNGs of the same name. Sides that are no multiple of 4 lose their last
    pixels. What happens to a picture depends on the seed and its place in the sorted list.

    \b
    Example:
        bfsr-edge degrade faces/ --out faces-lq/ --seed 7
    """
    files = _files(pictures)
    targets = _targets(files, out)
    if not overwrite:
        there = [str(target) for target in targets if target.exists()]
        if there:
            raise UsageError(
                f"{there[0]} is there already ({len(there)} such files)", fix="--overwrite, or another --out"
            )
    records, failed = [], 0
    for index, (file, target) in enumerate(zip(files, targets, strict=True)):
        try:
            drawn = _degrade(file, target, (seed, index), severity)
        except BfsrError as error:
            failed += 1
            click.echo(f"{file}: {error}", err=True)
            records.append({"input": str(file), "status": "failed", "reason": error.what})
        else:
            records.append({"input": str(file), "output": str(target), "status": "done", **vars(drawn)})
    if as_json:
        click.echo(json.dumps({"seed": seed, "severity": severity, "pictures": records}, indent=2))
    else:
        click.echo(f"{len(files) - failed} degraded, {failed} failed")
    if failed:
        raise click.exceptions.Exit(1)


def _files(pictures: tuple[Path, ...]) -> list[Path]:
    from bfsr_edge.images import EXTENSIONS

    files: list[Path] = []
    for path in pictures:
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"there is no file or folder {path}")
    if not files:
        raise UsageError(f"no picture in {', '.join(map(str, pictures))}")
    return files


def _targets(files: list[Path], out: Path) -> list[Path]:
    targets: dict[Path, Path] = {}
    for file in files:
        target = out / f"{file.stem}.png"
        if target in targets:
            raise UsageError(f"{targets[target]} and {file} would both become {target}", fix="rename one of them")
        targets[target] = file
    return list(targets)


def _degrade(file: Path, target: Path, seed: tuple[int, int], severity: str) -> Degradation:
    import numpy as np

    from bfsr_edge import images
    from bfsr_edge.degrade import SCALE, degrade
    from bfsr_edge.degrade import SEVERITIES as RANGES
    from bfsr_edge.errors import ImageError

    pixels: Any = images.read(file).pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise ImageError(
            f"{file.name} is not an 8-bit colour or grey picture", why=("the degradation is defined for those",)
        )
    height, width = (side // SCALE * SCALE for side in pixels.shape[:2])
    if not height or not width:
        raise ImageError(f"{file.name} is smaller than {SCALE} pixels")
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    low, drawn = degrade(np.ascontiguousarray(rgb[:height, :width]), seed, RANGES[severity])
    images.write(target, low)
    return drawn
