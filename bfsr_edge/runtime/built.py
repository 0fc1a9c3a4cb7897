"""Engines that were built on this machine, found by the model that they were built from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bfsr_edge.errors import ModelError
from bfsr_edge.resources import stage_folder
from bfsr_edge.runtime import machine, sidecar, trt
from bfsr_edge.runtime.machine import Gpu
from bfsr_edge.runtime.sidecar import Sidecar

SUFFIX = ".engine"


def folders() -> list[Path]:
    """Where engines are looked for: ``engines/`` here and in the checkout, and the user's cache; any may be missing."""
    places = (Path("engines"), stage_folder("engines"), machine.cache_folder() / "engines")
    return list({place.absolute(): None for place in places})


def engines(places: list[Path] | None = None) -> Iterator[tuple[Path, Sidecar]]:
    """Every engine in those folders whose sidecar can be read; others are passed over."""
    for folder in folders() if places is None else places:
        for path in sorted(folder.rglob(f"*{SUFFIX}")):
            try:
                yield path, sidecar.read(path)
            except ModelError:
                continue


def of(onnx_sha256: str, gpu: Gpu) -> list[tuple[Path, Sidecar]]:
    """Engines of a model that run on a GPU of this machine, by what their sidecars say; the newest first."""
    ours = [(path, described) for path, described in engines() if described.onnx_sha256 == onnx_sha256]
    # the libraries are imported to see their versions, which takes a second: only where there is an engine at all
    versions = {name: version for name, version in trt.importable().items() if trt.is_version(version)} if ours else {}
    fitting = []
    for path, described in ours:
        version = versions.get(described.flavour)
        if version is None:
            continue
        if not sidecar.differences(described, sidecar.Here(described.flavour, version, gpu.sm, gpu.name)):
            fitting.append((path, described))
    return sorted(fitting, key=lambda pair: pair[1].created, reverse=True)
