"""What this machine is: system, CPU, NVIDIA GPUs, JetPack. Asks the driver itself, so it needs no package and no root.

Every question costs milliseconds, except the first to a CUDA driver (some 0.2 s). A question that cannot be answered
gives an empty answer, never an error.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# CUdevice_attribute, numbers as in cuda.h
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16
_SAME_ARCHITECTURE = {"amd64": "x86_64", "arm64": "aarch64"}
_NVIDIA_PROC = Path("/proc/driver/nvidia/version")
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_CPUINFO = Path("/proc/cpuinfo")
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
                "amx_bf16", "amx_fp16", "asimd", "asimddp", "i8mm", "bf16", "fphp", "asimdhp", "sve")  # fmt: skip
"""What decides about INT8, BF16 and FP16 on a CPU, as Linux names it; without VNNI (x86-64) or asimddp (aarch64) INT8
saturates or gains nothing."""
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Those that multiply 8-bit numbers into 32-bit sums. Without one, x86-64 adds pairs in 16 bits, which overflow:
results are wrong, not merely slow."""
COMMAND_SECONDS = 2.0


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, as the CUDA driver describes it."""

    index: int
    """What N is in "cuda:N"."""
    name: str
    """See ``gpu_name``."""
    sm: str
    """Compute capability, such as "8.9"."""
    memory: int
    """In bytes; on a Jetson it is the machine's."""
    integrated: bool
    """Whether it shares the machine's memory."""


def system() -> str:
    """Operating system and architecture, such as "linux-x86_64" or "linux-aarch64"."""
    architecture = platform.machine().lower()
    return f"{platform.system().lower()}-{_SAME_ARCHITECTURE.get(architecture, architecture)}"


def gpus() -> list[Gpu]:
    """Every NVIDIA GPU that CUDA sees; empty where there is no driver."""
    return list(_cuda()[1])


def gpu_name(name: str, multiprocessors: int, *, integrated: bool) -> str:
    """A GPU's name as CUDA gives it, such as "NVIDIA GeForce RTX 4090"; an integrated one's with its size.

    All modules of Jetson Orin call themselves "Orin": with the size it is "Orin, 8 SMs".
    """
    return f"{name}, {multiprocessors} SMs" if integrated else name


def cuda_version() -> str:
    """The newest CUDA that the driver can run, such as "12.6"; empty without a driver."""
    return _cuda()[0]


def driver_version() -> str:
    """The NVIDIA driver, such as "580.65.06"; empty where it does not say."""
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  …"; the open modules name the architecture later
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", read_text(_NVIDIA_PROC), re.MULTILINE)
    return found[1] if found else ""


def tegra_release() -> str:
    """Jetson Linux (L4T) such as "36.4.3"; empty where this is no Jetson."""
    try:
        # "# R36 (release), REVISION: 4.3, GCID: …"
        text = _TEGRA_RELEASE.read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else "unknown"


def is_jetson() -> bool:
    """Whether this is a Jetson; a container of one may hide its release, not that its GPU shares the memory."""
    return bool(tegra_release()) or any(gpu.integrated for gpu in gpus())


def power_mode() -> str:
    """A Jetson's power mode with its number, such as "15W (0)"; empty where ``nvpmodel`` is missing or says nothing."""
    try:
        run = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"^NV Power Mode: *(.+?)\s*\n\s*(\d+)", run.stdout, re.MULTILINE)
    return f"{found[1]} ({found[2]})" if found and run.returncode == 0 else ""


def cpu_name() -> str:
    """The CPU's model, as the system calls it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores that this process may use: taskset and batch systems give it fewer than the machine has."""
    # Windows and macOS do not tell
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_features() -> tuple[str, ...]:
    """Those of ``CPU_FEATURES`` that this CPU has; empty where the system does not tell (not Linux)."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


def cache_folder() -> Path:
    """Where this user's caches lie: ``BFSR_EDGE_CACHE``, else the system's place for caches. May not be there yet."""
    if own := os.environ.get("BFSR_EDGE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bfsr-edge"


def read_text(path: Path) -> str:
    """A small file of the system, without blanks around; empty where it is missing or cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def version(distribution: str) -> str:
    """Of an installed distribution; empty where there is none."""
    from importlib import metadata  # heavy, and only asked for by a few commands

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cpuinfo(field: str) -> str:
    found = re.search(rf"^{field}\s*:\s*(.+)$", read_text(_CPUINFO), re.MULTILINE)
    return found[1].strip() if found else ""


@functools.cache
def _cuda() -> tuple[str, tuple[Gpu, ...]]:
    """CUDA version and GPUs, from the driver library alone."""
    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "", ()
    try:
        return _ask(driver)
    except AttributeError:  # a library of that name that is none
        return "", ()


def _ask(driver: Any) -> tuple[str, tuple[Gpu, ...]]:
    number = ctypes.c_int()
    version = ""
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
        version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return version, ()
    found = []
    for index in range(number.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
            continue
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        values = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _INTEGRATED, _MULTIPROCESSORS):
            value = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            values.append(value.value)
        sm, integrated = f"{values[0]}.{values[1]}", bool(values[2])
        told = gpu_name(name.value.decode("utf-8", "replace"), values[3], integrated=integrated)
        found.append(Gpu(index, told, sm, memory.value, integrated))
    return version, tuple(found)
