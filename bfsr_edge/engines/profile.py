"""Device profiles: what a target can do and what we choose for it, as a frozen dataclass; TOMLs say what differs."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bfsr_edge.errors import UsageError
from bfsr_edge.resources import find_toml, list_tomls

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLAVOURS = ("tensorrt", "tensorrt-rtx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Profile:
    """One kind of device.

    Raises
    ------
    UsageError
        A value is out of range, named with its key.
    """

    name: str = "cpu"
    """What ``--target`` calls it."""
    summary: str = ""
    """One line."""
    flavour: str = "openvino"
    """The library that runs its engines: "tensorrt", "tensorrt-rtx" or "openvino"."""
    sm: tuple[str, ...] = ()
    """Compute capabilities of its GPUs; empty for a CPU."""
    boards: tuple[str, ...] = ()
    """Words that the device tree's model holds on such a board; empty where there is no device tree."""
    memory_gib: tuple[int, ...] = ()
    """Memory of its variants."""
    shared_memory: bool = False
    """Whether CPU and GPU share that memory."""
    dla_cores: int = 0
    """Deep learning accelerators of the largest variant."""
    workspace_mib: int = 0
    """Cap of TensorRT's WORKSPACE pool; 0: TensorRT's own, all of the device's memory."""
    tactic_dram_mib: int = 0
    """Cap of TensorRT's TACTIC_DRAM pool, what trying tactics may use; 0: TensorRT's own."""
    optimization_level: int = 3
    """0 to 5: how long the builder looks for fast kernels."""
    precision: str = "fp16"
    """What is built when none is asked for."""
    tile: int = 128
    """Side of the input in pixels; rounded up to the network's stride."""
    batch: tuple[int, int, int] = (1, 4, 8)
    """Smallest, best and largest number of tiles in a batch."""

    def __post_init__(self) -> None:
        checks = {
            "flavour": self.flavour in FLAVOURS,
            "precision": self.precision in PRECISIONS,
            "optimization_level": 0 <= self.optimization_level <= 5,
            "tile": self.tile >= 1,
            "batch": 1 <= self.batch[0] <= self.batch[1] <= self.batch[2],
            "workspace_mib and tactic_dram_mib": min(self.workspace_mib, self.tactic_dram_mib, self.dla_cores) >= 0,
            "sm": bool(self.sm) == (self.flavour != "openvino"),
        }
        bad = [key for key, good in checks.items() if not good]
        if bad:
            raise UsageError(
                f"profile {self.name!r} has a value out of range: {', '.join(bad)}",
                fix="the docstrings of bfsr_edge/engines/profile.py say what is allowed",
            )


def list_profiles() -> list[str]:
    """The names that ``load_profile`` knows."""
    return list_tomls("engines")


def load_profile(name_or_path: str) -> Profile:
    """A profile by name or by the path of a TOML.

    Raises
    ------
    UsageError
        There is no such profile, or a key or value is wrong.
    """
    path = find_toml("engines", name_or_path)
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise UsageError(f"{path} cannot be read as TOML", why=(str(error),)) from error
    return from_mapping({"name": path.stem, **values}, path)


def from_mapping(values: dict[str, Any], path: Path) -> Profile:
    """A profile from a TOML's table; unknown keys and wrong types are errors that name them."""
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Profile)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in defaults:
            raise UsageError(f"{path}: unknown key {key!r}", fix=f"known keys: {', '.join(defaults)}")
        kind = type(defaults[key])
        value = tuple(value) if kind is tuple and isinstance(value, list) else value
        # TOML knows no tuple of three, and a batch has three numbers
        if type(value) is not kind or (key == "batch" and len(value) != 3):
            raise UsageError(f"{path}: {key}: {value!r} is no {kind.__name__}")
        arguments[key] = value
    return Profile(**arguments)
