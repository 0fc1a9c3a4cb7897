"""Which profile fits this machine, and which profiles it can build for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.engines.profile import Profile, list_profiles, load_profile
from bfsr_edge.errors import UsageError
from bfsr_edge.runtime import machine, trt

DEVICE_TREE = Path("/proc/device-tree/model")
"""Where Linux says which board it runs on, such as "NVIDIA Jetson Orin Nano Developer Kit"."""
RTX_PROFILES = ("rtx-30", "rtx-40", "rtx-50")


@dataclass(frozen=True)
class Here:
    """This machine, as far as engines care."""

    system: str
    """Such as "linux-x86_64"."""
    board: str
    """The device tree's model; empty on a PC, and in a container of a Jetson, which hides it."""
    gpus: tuple[machine.Gpu, ...]
    """What CUDA sees."""
    flavours: dict[str, str]
    """Flavour of TensorRT to its version, or to why it cannot be used."""
    cpu_features: tuple[str, ...]
    """See ``machine.CPU_FEATURES``; empty where the system does not tell."""
    power_mode: str = ""
    """See ``machine.power_mode``."""

    def has(self, flavour: str) -> bool:
        """Whether that TensorRT can be imported."""
        return trt.is_version(self.flavours.get(flavour, ""))

    @property
    def int8_cpu(self) -> bool:
        """Whether this CPU is known to run INT8 without saturating."""
        return any(feature in self.cpu_features for feature in machine.VNNI)


def look() -> Here:
    """What this machine is."""
    try:
        board = DEVICE_TREE.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        board = ""
    gpus = tuple(machine.gpus())
    return Here(machine.system(), board, gpus, trt.importable(), machine.cpu_features(), machine.power_mode())


def choose(here: Here) -> tuple[Profile, str]:
    """The profile of this machine, and why it is that one."""
    profiles = [load_profile(name) for name in list_profiles()]
    for profile in profiles:
        if profile.boards and any(board in here.board for board in profile.boards):
            return profile, f"this is a {here.board}"
    if not here.gpus:
        return load_profile("cpu"), "no NVIDIA GPU was found"
    gpu = here.gpus[0]
    boards = [profile for profile in profiles if profile.boards and gpu.sm in profile.sm]
    if boards and not here.board and gpu.integrated:
        least = min(boards, key=lambda profile: min(profile.memory_gib, default=0))
        told = "a Jetson whose board is hidden, as in a container, so it is taken for the one with the least memory"
        return least, f"{gpu.name}, SM {gpu.sm}, is {told}; --target names another"
    names = (*RTX_PROFILES, "datacenter") if "RTX" in gpu.name else ("datacenter", *RTX_PROFILES)
    fitting = [load_profile(name) for name in names]
    fitting = [profile for profile in fitting if gpu.sm in profile.sm]
    for profile in fitting:
        if here.has(profile.flavour):
            return profile, f"{gpu.name}, SM {gpu.sm}, {profile.flavour} {here.flavours[profile.flavour]}"
    if not fitting:
        return load_profile("cpu"), f"no profile knows {gpu.name}, SM {gpu.sm}"
    missing = " and ".join(sorted({profile.flavour for profile in fitting}))
    return load_profile("cpu"), f"{gpu.name} was found, but not {missing} (bfsr-edge doctor says more)"


def obstacle(profile: Profile, here: Here) -> str:
    """Why this machine cannot build for a profile; "" where it can."""
    if profile.flavour == "openvino":
        return ""
    if not here.has(profile.flavour):
        return f"{profile.flavour} is not installed here: {here.flavours.get(profile.flavour, 'not looked for')}"
    if profile.flavour == "tensorrt-rtx":  # its builder needs no GPU
        return ""
    # a container of a Jetson hides the board: there the GPU alone has to fit
    if profile.boards and here.board and not any(board in here.board for board in profile.boards):
        return f"TensorRT builds for the device that it runs on, and this is {here.board}"
    # TensorRT builds on the first GPU; CUDA_VISIBLE_DEVICES makes another one the first
    if not here.gpus or here.gpus[0].sm not in profile.sm:
        found = f"{here.gpus[0].name} (SM {here.gpus[0].sm})" if here.gpus else "none"
        return f"TensorRT builds for the GPU that it finds: wanted is SM {' or '.join(profile.sm)}, found is {found}"
    return ""


def default_precision(profile: Profile, here: Here) -> tuple[str, str]:
    """What to build when no precision was asked for, and why."""
    if profile.flavour == "openvino" and profile.precision == "int8" and not here.int8_cpu:
        return "fp32", "this CPU has no VNNI instructions (or does not tell), and without them INT8 saturates"
    return profile.precision, f"the profile {profile.name} says so"


def check_precision(profile: Profile, here: Here, precision: str) -> None:
    """Refuse what this CPU would compute wrongly.

    Raises
    ------
    UsageError
        INT8 on a CPU without VNNI.
    """
    if profile.flavour == "openvino" and precision == "int8" and not here.int8_cpu:
        raise UsageError(
            "--int8 on this CPU would give wrong pictures",
            why=(
                f"it has none of {', '.join(machine.VNNI)}, so sums of 8-bit products saturate in 16 bits"
                if here.cpu_features
                else "this system does not tell whether the CPU has VNNI instructions; without them sums saturate",
            ),
            fix="bfsr-edge build-engine --fp32",
        )
