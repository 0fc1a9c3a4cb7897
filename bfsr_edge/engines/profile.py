"""Device profiles: what a target can do and what we choose for it, as a frozen dataclass; TOMLs say what differs."""

from __future__ import annotations

from dataclasses import dataclass

from bfsr_edge.errors import UsageError
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.settings import from_mapping, read_toml

FLAVOURS = ("tensorrt", "tensorrt-rtx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")


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
    batch: tuple[int, int, int] = (1, 4, 4)
    """Smallest, best and largest number of tiles in a batch. No more than the best are run at a time, and TensorRT
    takes memory for the largest."""

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
    return from_mapping(Profile, {"name": path.stem, **read_toml(path)}, str(path))
