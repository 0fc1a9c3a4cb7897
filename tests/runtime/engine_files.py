"""Engines for tests: a plan of the fake TensorRT with its sidecar, and fakes put in the place of the packages."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.runtime import cuda, machine, sidecar
from bfsr_edge.weights import sha256_of
from tests.runtime import fake_cuda, fake_trt

SM = "8.9"


def described(path: Path, **different: Any) -> sidecar.Sidecar:
    """The sidecar of a plan that fits this machine with the fake GPU."""
    fields: dict[str, Any] = {
        "name": "tiny", "flavour": "tensorrt", "flavour_version": "10.3.0", "precision": "int8",
        "plan_sha256": sha256_of(path), "onnx_sha256": "0" * 64, "tile": (32, 32), "batch": (1, 2, 4), "scale": 4,
        "stride": 8, "receptive_field": 1, "system": machine.system(), "target": "rtx-40",
        "rebuild": "bfsr-edge build-engine --model tiny.onnx --int8", "sm": (SM,), "created": "2026-11-22T12:00:00Z",
    }  # fmt: skip
    return sidecar.Sidecar(**{**fields, **different})


def write_engine(path: Path, release: str, *, plan: dict[str, Any] | None = None, **different: Any) -> Path:
    """A plan of that release with its sidecar; ``plan`` changes the plan, all else the sidecar."""
    shape = {key: different[key] for key in ("tile", "batch", "io", "scale") if key in different}
    path.write_bytes(fake_trt.plan(release, **(shape | (plan or {}))))
    flavour = "tensorrt-rtx" if release.startswith("rtx-") else "tensorrt"
    version = {"flavour": flavour, "flavour_version": release.removeprefix("rtx-")}
    sidecar.write(path, described(path, **{**version, **different}))
    return path


class Bench:
    """This process with a fake GPU and a fake TensorRT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, release: str, implementation: str = "cuda-python") -> None:
        self._monkeypatch = monkeypatch
        self.device = fake_cuda.FakeDevice(sm=(8, 9))
        self.mischief = fake_trt.Mischief()
        self.release = release
        module = fake_trt.fake_tensorrt(release, self.device, self.mischief)
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setenv(cuda.VARIABLE, implementation)
        drivers = {
            "cuda.bindings.driver": fake_cuda.cuda_bindings(self.device),
            "pycuda.driver": fake_cuda.pycuda(self.device),
        }
        monkeypatch.setattr(cuda, "require", lambda package, *_: drivers[package])
        self.see_gpus(self.device.gpus)

    def see_gpus(self, count: int) -> None:
        """Let ``machine.gpus`` find so many."""
        found = [machine.Gpu(index, self.device.names[index], SM, 1 << 34, False) for index in range(count)]
        self._monkeypatch.setattr(machine, "gpus", lambda: found)


def with_fields(path: Path, **different: Any) -> None:
    """Change the sidecar of an engine."""
    sidecar.write(path, dataclasses.replace(sidecar.read(path), **different))
