"""Recipes: what a training run is, as frozen dataclasses. The defaults stand here; a TOML holds only what differs."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from bfsr_edge.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

CHALLENGE_PARAMETERS = 2_276_356
"""A network of the challenge has fewer."""


@dataclass(frozen=True)
class Network:
    """What is trained."""

    architecture: str = "edge-unet"
    """A name of ``bfsr_edge.models.ARCHITECTURES``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""


@dataclass(frozen=True)
class Data:
    """Where pictures come from and how they are varied."""

    faces: tuple[str, ...] = ()
    """Folders or tars of aligned 512×512 faces."""
    val_lq: str = ""
    """Folder of validation inputs; with ``val_gt`` empty too, pairs are made from faces held out of training."""
    val_gt: str = ""
    """Folder of the true pictures, same file names."""
    holdout: int = 16
    """Faces held out for validation when no pairs are given."""
    size: int = 512
    """Side of a training picture in pixels; the network's input is a quarter of it."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    shifted: float = 0.0
    """Probability of a face moved by up to half a frame and reduced, so that eyes have no fixed place."""
    eight_bit_resize: bool = False
    """Round to 8 bits after every resize behind JPEG, as the second reference system does."""
    pipeline: str = "auto"
    """``cpu`` (OpenCV in worker processes), ``device`` (batched torch on the training device) or ``auto``."""
    workers: int = -1
    """Worker processes of the cpu pipeline; -1: one for every two cores."""


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    name: str = "adam"
    """``adam`` or ``adamw``."""
    rate: float = 5e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the two moments."""
    weight_decay: float = 0.0
    """Weight decay."""
    clip: float = 0.0
    """Largest gradient norm; 0: not clipped."""


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes: see ``bfsr_edge.train.schedule``."""

    kind: str = "flat-cosine"
    """``flat-cosine``, ``cosine-restarts`` or ``multistep``."""
    warmup: int = 200
    """Iterations of linear warm-up."""
    decay: float = 0.4
    """flat-cosine: the last part of the run, over which the rate falls."""
    minimum: float = 0.0
    """Smallest rate, absolute."""
    periods: tuple[int, ...] = ()
    """cosine-restarts: iterations of each cycle."""
    peaks: tuple[float, ...] = ()
    """cosine-restarts: peak of each cycle, as a factor of ``rate``; empty: all 1."""
    minima: tuple[float, ...] = ()
    """cosine-restarts: minimum of each cycle, absolute; empty: all ``minimum``."""
    milestones: tuple[int, ...] = ()
    """multistep: iterations at which the rate is multiplied by ``gamma``."""
    gamma: float = 0.5
    """multistep: the factor."""


@dataclass(frozen=True)
class Loss:
    """What is minimised; the second loss takes over for the last part of the run."""

    first: str = "l1"
    """``l1``, ``mse``, ``charbonnier`` or ``psnr``."""
    then: str = ""
    """A loss for the end of the run; empty: the first one throughout."""
    switch: float = 0.6
    """Part of the run after which ``then`` starts."""


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Raises
    ------
    UsageError
        A value is out of range, named with its key.
    """

    name: str = "edge"
    """Also the folder below ``runs/``."""
    summary: str = ""
    """One line."""
    challenge: bool = False
    """Keep the challenge's rules: fewer than ``CHALLENGE_PARAMETERS``, trained from scratch."""
    network: Network = Network()
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    iterations: int = 20_000
    """Optimizer steps of the whole run."""
    batch: int = 8
    """Faces a step."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is validated and kept; 0: none."""
    precision: str = "auto"
    """``fp32``, ``bf16``, ``fp16`` or ``auto``: bf16 where the device multiplies it in hardware tiles, else fp32."""
    seed: int = 0
    """Of the first weights, the order of faces and every draw."""
    validate_every: int = 1000
    """Iterations."""
    checkpoint_every: int = 500
    """Iterations between resume states."""
    log_every: int = 50
    """Iterations between rows of log.csv."""

    def __post_init__(self) -> None:
        checks = {
            "iterations": self.iterations >= 1,
            "batch": self.batch >= 1,
            "ema": 0 <= self.ema < 1,
            "data.size (a multiple of 64)": self.data.size >= 64 and self.data.size % 64 == 0,
            "data.flip": 0 <= self.data.flip <= 1,
            "data.shifted": 0 <= self.data.shifted <= 1,
            "optimizer.rate": self.optimizer.rate > 0,
            "optimizer.name": self.optimizer.name in ("adam", "adamw"),
            "schedule.kind": self.schedule.kind in ("flat-cosine", "cosine-restarts", "multistep"),
            "schedule.periods": self.schedule.kind != "cosine-restarts" or len(self.schedule.periods) > 0,
            "schedule.decay": 0 <= self.schedule.decay <= 1,
            "loss.first": self.loss.first in LOSSES,
            "loss.then": self.loss.then in ("", *LOSSES),
            "precision": self.precision in ("auto", "fp32", "bf16", "fp16"),
            "data.pipeline": self.data.pipeline in ("auto", "cpu", "device"),
            "validate_every, checkpoint_every and log_every": min(
                self.validate_every, self.checkpoint_every, self.log_every
            )
            >= 1,
        }
        bad = [key for key, good in checks.items() if not good]
        if bad:
            raise UsageError(
                f"recipe {self.name!r} has a value out of range: {', '.join(bad)}",
                fix="the docstrings of bfsr_edge/train/recipe.py say what is allowed",
            )


LOSSES = ("l1", "mse", "charbonnier", "psnr")


def from_mapping(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a TOML table; unknown keys and wrong types are errors that name them."""
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise UsageError(f"{where}: unknown key {key!r}", fix=f"known keys: {', '.join(names)}")
        arguments[key] = _convert(hints[key], value, f"{where}: {key}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be a table")
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    origin = getattr(hint, "__origin__", hint)
    if origin is tuple:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list):
            return tuple(value)
    elif origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, origin) and (origin is bool or not isinstance(value, bool)):
        return value
    raise UsageError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")


def overlay(values: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the tables of ``extra`` laid over, key by key."""
    out = dict(values)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict) and key != "settings":
            out[key] = overlay(out[key], value)
        else:
            out[key] = value
    return out


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises
    ------
    UsageError
        The file cannot be read or is no TOML; the line is named.
    """
    try:
        with open(path, "rb") as file:
            values: dict[str, Any] = tomllib.load(file)
            return values
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML", why=(str(error),)) from error


def load_recipe(path: Path | None, *overlays: dict[str, Any]) -> Recipe:
    """The recipe in ``path`` (or the defaults), with further tables laid over it in order.

    Raises
    ------
    UsageError
        A file, key or value is wrong.
    """
    values = {"name": path.stem, **read_toml(path)} if path else {}
    for extra in overlays:
        values = overlay(values, extra)
    return from_mapping(Recipe, values, str(path) if path else "recipe")
