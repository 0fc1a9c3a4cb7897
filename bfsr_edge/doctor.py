"""What this machine has and lacks for restoring.

Every probe stands alone: one that fails says so in its place and the others go on. None needs root, none waits long.
Packages are imported in processes of their own, side by side, so that one that crashes takes nothing along.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bfsr_edge import __version__
from bfsr_edge.runtime import built, cuda, machine

COMMAND_SECONDS = 2.0
IMPORT_SECONDS = 20.0
MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
LEAST_FREE = 2 * GIBIBYTE
UNKNOWN_MODE = "not known: nvpmodel -q said nothing"
# name -> module whose import shows that it works
PACKAGES = {
    "openvino": "openvino", "onnxruntime": "onnxruntime", "onnx": "onnx", "opencv": "cv2", "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx", "cuda-python": "cuda.bindings.driver", "pycuda": "pycuda.driver",
}  # fmt: skip
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
# prints the version on one line and where the module lies on the next
IMPORT = (
    "import importlib, sys; m = importlib.import_module(sys.argv[1]); top = sys.modules[sys.argv[1].split('.')[0]]\n"
    "print(getattr(top, '__version__', '') or getattr(top, 'VERSION_TEXT', ''))\n"
    "print(getattr(m, '__file__', '') or '')"
)


@dataclass(frozen=True)
class Report:
    """What the probes found."""

    sections: dict[str, dict[str, Any]]
    """Section to what was found there; a probe that failed leaves {"error": why}."""
    advice: tuple[str, ...]
    """What stands in the way, each with the next step."""
    seconds: float
    """How long it took."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**self.sections, "advice": list(self.advice), "seconds": round(self.seconds, 2)}

    def text(self) -> str:
        """For people: a line for every finding, then the advice."""
        lines = []
        for section, found in self.sections.items():
            lines.append(section)
            width = max((len(key) for key in found), default=0)
            lines += [f"  {key:{width}}  {_told(value)}" for key, value in found.items()]
        lines += ["advice", *(f"  - {line}" for line in self.advice)] if self.advice else ["advice", "  none"]
        return "\n".join(lines)


def examine() -> Report:
    """Look at this machine; never raises, takes at most a few seconds."""
    started = time.perf_counter()
    probes: dict[str, Callable[[], dict[str, Any]]] = {
        "bfsr-edge": _package,
        "python": _python,
        "system": _system,
        "cpu": _cpu,
        "memory": _memory,
        "gpu": _gpu,
        "jetson": _jetson,
        "backends": _backends,
        "engines": _engines,
        "disk": _disk,
    }
    with ThreadPoolExecutor(len(probes)) as pool:
        futures = {section: pool.submit(_isolated, probe) for section, probe in probes.items()}
        sections = {section: future.result() for section, future in futures.items()}
    sections = {section: found for section, found in sections.items() if found}
    advice = _isolated(lambda: {"lines": _advice(sections)}).get("lines", ())
    return Report(sections, tuple(advice), time.perf_counter() - started)


def _isolated(probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return probe()
    except Exception as error:  # whatever a probe meets is a finding
        return {"error": f"{type(error).__name__}: {error}"}


# ---- probes


def _package() -> dict[str, Any]:
    return {"version": __version__, "folder": str(Path(__file__).parent)}


def _python() -> dict[str, Any]:
    config = Path(sys.prefix) / "pyvenv.cfg"
    environment = "none"
    if sys.prefix != sys.base_prefix and config.is_file():
        shared = re.search(r"^include-system-site-packages\s*=\s*true", config.read_text("utf-8"), re.I | re.M)
        environment = f"{sys.prefix} ({'with' if shared else 'without'} the system's packages)"
    return {"version": platform.python_version(), "executable": sys.executable, "environment": environment}


def _system() -> dict[str, Any]:
    name = platform.platform()
    with contextlib.suppress(OSError, KeyError):
        name = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.release()}"
    return {"name": name, "kind": machine.system()}


def _cpu() -> dict[str, Any]:
    features = machine.cpu_features()
    found: dict[str, Any] = {"name": machine.cpu_name(), "cores": machine.cores(), "features": list(features)}
    frequency = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    if governor := machine.read_text(frequency / "scaling_governor"):
        found["governor"] = governor
    if highest := machine.read_text(frequency / "cpuinfo_max_freq"):
        found["highest clock"] = f"{int(highest) / 1e6:.2f} GHz"
    return found


def _memory() -> dict[str, Any]:
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read_text(Path("/proc/meminfo")), re.MULTILINE))
    names = {"MemTotal": "total", "MemAvailable": "available", "SwapTotal": "swap"}
    return {told: _size(int(fields[name]) * 1024) for name, told in names.items() if name in fields}


def _gpu() -> dict[str, Any]:
    found: dict[str, Any] = {
        f"cuda:{gpu.index}": f"{gpu.name}, SM {gpu.sm}, {_size(gpu.memory)}{' shared' if gpu.integrated else ''}"
        for gpu in machine.gpus()
    }
    if version := machine.cuda_version():
        found["CUDA of the driver"] = version
    if driver := machine.driver_version():
        found["driver"] = driver
    fields = "driver_version,temperature.gpu,clocks.sm,clocks.max.sm,power.draw,power.limit,memory.used"
    if state := _run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"):
        found["nvidia-smi"] = [
            dict(zip(fields.split(","), line.split(", "), strict=False)) for line in state.splitlines()
        ]
    return found or {"none": "no NVIDIA driver was found, or it sees no GPU"}


def _jetson() -> dict[str, Any]:
    if not (release := machine.tegra_release()):
        return {}
    found: dict[str, Any] = {"Jetson Linux": release}
    if board := machine.read_text(Path("/proc/device-tree/model")).strip("\0"):
        found["board"] = board
    found["JetPack"] = _run("dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack") or "not installed"
    found["power mode"] = machine.power_mode() or UNKNOWN_MODE
    for folder in sorted(Path("/sys/class/devfreq").glob("*gpu*")) + sorted(Path("/sys/class/devfreq").glob("*.ga10b")):
        now, most = machine.read_text(folder / "cur_freq"), machine.read_text(folder / "max_freq")
        if now and most:
            found["GPU clock"] = f"{int(now) / 1e6:.0f} of {int(most) / 1e6:.0f} MHz"
    heat = {
        machine.read_text(zone / "type"): f"{int(value) / 1000:.0f} °C"
        for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*"))
        if (value := machine.read_text(zone / "temp")).lstrip("-").isdigit()
    }
    if heat:
        found["temperature"] = heat
    return found


def _backends() -> dict[str, Any]:
    with ThreadPoolExecutor(len(PACKAGES)) as pool:
        imported = dict(zip(PACKAGES, pool.map(_import, PACKAGES.values()), strict=True))
    # torch takes seconds to import: that it is there is read from its files
    imported["torch"] = _torch()
    found: dict[str, dict[str, Any]] = {
        name: {key: value for key, value in entry.items() if value} for name, entry in imported.items()
    }
    for name in ("tensorrt", "tensorrt-rtx"):
        if "version" in found[name]:
            found[name]["origin"] = _origin(found[name].get("file", ""))
    installed = [name for name in OPENCV if machine.version(name)]
    if len(installed) > 1:
        found["opencv"]["packages"] = installed
    return found


def _import(module: str) -> dict[str, str]:
    """Import a module in another process: its version and place, or why that failed."""
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        return {"error": f"No module named {top!r}"}
    try:
        run = subprocess.run(
            [sys.executable, "-c", IMPORT, module],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"importing it takes more than {IMPORT_SECONDS:.0f} s"}
    if run.returncode == 0:
        # a module may print as well when it is imported
        version, place = ["", "", *run.stdout.split("\n")[:-1]][-2:]
        if not version and module == PACKAGES["cuda-python"]:
            version = machine.version("cuda-bindings") or machine.version("cuda-python")
        return {"version": version.split("-")[0] or "unknown", "file": place}
    if run.returncode < 0:
        return {"error": f"importing it crashes (signal {-run.returncode})"}
    last = run.stderr.strip().splitlines()[-1:] or ["importing it fails without a word"]
    return {"error": last[0].removeprefix("ModuleNotFoundError: ")}


def _torch() -> dict[str, str]:
    version = machine.version("torch")
    if not version:
        return {"error": "No module named 'torch'"}
    text = ""
    for path in metadata.files("torch") or ():
        if path.as_posix() == "torch/version.py":
            text = path.read_text("utf-8")
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return {"version": version, "CUDA": cuda[1] if cuda else "", "note": "found, not imported"}


def _origin(file: str) -> str:
    """Who installed a package, by where it lies."""
    if "/dist-packages/" in file and not file.startswith(("/usr/local/", str(Path.home()))):
        return "JetPack or Debian"
    return "pip" if "-packages" in file else file or "unknown"


def _engines() -> dict[str, Any]:
    cache = machine.cache_folder()
    found: dict[str, Any] = {"cache": f"{cache} ({'there' if cache.is_dir() else 'not made yet'})"}
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        found["cache"] = f"{cache}: {nearest} cannot be written"
    for path, described in built.engines():
        size = path.stat().st_size if path.is_file() else 0
        found[str(path)] = (
            f"{described.precision}, {described.flavour} {described.flavour_version}, {described.target}, {_size(size)}"
        )
    return found


def _disk() -> dict[str, Any]:
    found = {}
    for name, place in (("here", Path.cwd()), ("cache", machine.cache_folder())):
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        usage = shutil.disk_usage(there)
        found[name] = f"{_size(usage.free)} free of {_size(usage.total)} ({there})"
    return found


# ---- advice


def _advice(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to do, from what was found."""
    backends = found.get("backends", {})
    works = {name for name, entry in backends.items() if "version" in entry}
    lines = []
    gpus, jetson = machine.gpus(), "jetson" in found
    if not works & {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"}:
        lines.append("no backend works: pip install openvino")
    if gpus and not works & {"tensorrt", "tensorrt-rtx"}:
        how = (
            "make the virtual environment with --system-site-packages (docs/jetson.md)"
            if jetson
            else "pip install 'bfsr-edge[rtx]' on an RTX card, 'bfsr-edge[tensorrt]' on others"
        )
        lines.append(f"there is an NVIDIA GPU and no TensorRT that works: {how}")
    if gpus and not works & {"cuda-python", "pycuda"}:
        major = (machine.cuda_version() or "13").split(".")[0]
        how = cuda.install() if machine.is_jetson() else f"pip install 'bfsr-edge[cuda{major}]'"
        lines.append(f"there is an NVIDIA GPU and no CUDA layer: {how}")
    if "packages" in backends.get("opencv", {}):
        both = " and ".join(backends["opencv"]["packages"])
        lines.append(f"{both} overwrite each other's files: pip uninstall all of them, then install one")
    if jetson and backends.get("tensorrt", {}).get("origin") == "pip":
        lines.append("pip's tensorrt hides JetPack's: pip uninstall tensorrt (docs/jetson.md)")
    mode = str(found.get("jetson", {}).get("power mode", UNKNOWN_MODE))
    if mode != UNKNOWN_MODE and "MAXN" not in mode:
        lines.append(f"the power mode is {mode}, not the fastest: sudo nvpmodel -m 0, or 2 for MAXN SUPER on Orin Nano")
    if machine.system() == "linux-x86_64":
        features = set(found.get("cpu", {}).get("features", ()))
        if features and not features & set(machine.VNNI):
            lines.append("this CPU has no VNNI instructions: INT8 engines for it are refused, FP32 is the default")
    for name, place in (("here", Path.cwd()), ("the cache", machine.cache_folder())):
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        if shutil.disk_usage(there).free < LEAST_FREE:
            lines.append(f"less than 2 GiB are free {name}, in {there}")
    return list(dict.fromkeys(lines))


# ---- helpers


def _run(*command: str) -> str:
    """What a command prints; "" where it is not there, fails or takes too long."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _size(count: int) -> str:
    return f"{count / GIBIBYTE:.1f} GiB" if count >= GIBIBYTE else f"{count / MEBIBYTE:.1f} MiB"


def _told(value: Any) -> str:
    """A finding as text."""
    if isinstance(value, dict):
        if set(value) == {"error"}:
            return f"no: {value['error']}"
        shown = {key: _told(part) for key, part in value.items() if key != "file"}
        return ", ".join(part if key in ("version", "note") else f"{key} {part}" for key, part in shown.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_told(part) for part in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)
