"""What every backend promises, asked of each."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge.errors import BackendError, ModelError, OutOfMemory, UsageError
from bfsr_edge.runtime import BACKENDS, Engine, load
from bfsr_edge.weights import sha256_of

Noise = Callable[..., NDArray[np.float32]]


def test_info(backend: str, model: Path) -> None:
    info = load(model, backend=backend, tile=(16, 24)).info
    assert (info.model, info.backend, info.device, info.precision) == (model.name, backend, "cpu", "fp32")
    assert (info.scale, info.stride, info.tile) == (4, 8, (16, 24))
    assert info.receptive_field >= 1
    assert info.sha256 == sha256_of(model)
    assert info.backend_version[0].isdigit()
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.scale = 2  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 3])
def test_run(backend: str, model: Path, noise: Noise, count: int) -> None:
    engine = load(model, backend=backend, tile=(16, 24))
    batch = noise(count, 3, 16, 24)
    before = batch.copy()
    result = engine.run(batch)
    assert result.shape == (count, 3, 64, 96)
    assert result.dtype == np.float32
    assert np.array_equal(batch, before)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    for one, alone in zip(batch, result, strict=True):
        np.testing.assert_allclose(engine.run(one[None])[0], alone, atol=1e-5)


def test_results_belong_to_the_caller(backend: str, model: Path, noise: Noise) -> None:
    engine = load(model, backend=backend, tile=16)
    first = engine.run(noise(1, 3, 16, 16))
    kept = first.copy()
    engine.run(1 - noise(1, 3, 16, 16))
    assert np.array_equal(first, kept)


def test_read_only_and_strided_batches(backend: str, model: Path, noise: Noise) -> None:
    engine = load(model, backend=backend, tile=16)
    batch = noise(2, 3, 16, 16)
    expected = engine.run(batch)
    channels_last = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    batch.flags.writeable = False
    for same in (channels_last, batch):
        np.testing.assert_allclose(engine.run(same), expected, atol=1e-6)


@pytest.mark.parametrize("tile", [8, (32, 8), (8, 48)])
def test_other_tiles(backend: str, model: Path, noise: Noise, tile: int | tuple[int, int]) -> None:
    """Away from the border, a result does not depend on the tile it was computed in."""
    engine = load(model, backend=backend, tile=tile)
    height, width = engine.info.tile
    result = engine.run(noise(1, 3, height, width))
    assert result.shape == (1, 3, 4 * height, 4 * width)
    assert np.isfinite(result).all()


def test_several_threads(backend: str, model: Path, noise: Noise) -> None:
    engine = load(model, backend=backend, tile=16, threads=1)
    batches = [noise(count, 3, 16, 16) for count in (1, 2, 3, 4)]
    expected = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for result, alone in zip(pool.map(engine.run, batches * 5), expected * 5, strict=True):
            np.testing.assert_allclose(result, alone, atol=1e-5)


@pytest.mark.parametrize("tile", [0, -8, 12, (8, 9)])
def test_tiles_off_the_stride(backend: str, model: Path, tile: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="does not fit this network") as caught:
        load(model, backend=backend, tile=tile)
    assert "stride, 8" in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 3, 16, 16), np.uint8), "float32, this is uint8"),
        (np.zeros((1, 3, 16, 16), np.float64), "float32, this is float64"),
        ([[0.0]], "float32, this is list"),
        (np.zeros((3, 16, 16), np.float32), "this is 3×16×16"),
        (np.zeros((0, 3, 16, 16), np.float32), "this is 0×3×16×16"),
        (np.zeros((1, 1, 16, 16), np.float32), "this is 1×1×16×16"),
        (np.zeros((1, 3, 16, 24), np.float32), "must be N×3×16×16, this is 1×3×16×24"),
        (np.full((1, 3, 16, 16), 255, np.float32), "spans 255 to 255"),
    ],
)
def test_wrong_batches(backend: str, model: Path, batch: Any, message: str) -> None:
    engine = load(model, backend=backend, tile=16)
    with pytest.raises(UsageError, match=message):
        engine.run(batch)


def test_not_a_number_is_an_error(backend: str, model: Path, noise: Noise) -> None:
    engine = load(model, backend=backend, tile=16)
    batch = noise(3, 3, 16, 16)
    batch[1, 0, 5, 5] = np.nan
    with pytest.raises(BackendError, match="NaN or Inf in 1 of 3 tiles"):
        engine.run(batch)


@pytest.mark.parametrize(
    ("reason", "what"), [("a bad wire", "failed while running {}"), ("out of memory", "not enough memory to run {}")]
)
def test_failures_of_the_library_become_ours(
    backend: str, model: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch, reason: str, what: str
) -> None:
    engine = load(model, backend=backend, tile=16)

    def fail(_batch: Any) -> None:
        raise RuntimeError(f"\nException from somewhere.cpp:1:\n{reason}\nframe 1")

    monkeypatch.setattr(engine, "_infer", fail)
    with pytest.raises(BackendError, match=what.format(model.name)) as caught:
        engine.run(noise(1, 3, 16, 16))
    assert caught.value.why[0] == reason
    assert isinstance(caught.value, OutOfMemory) == (reason == "out of memory")


def test_a_result_of_another_shape_is_an_error(
    backend: str, model: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(model, backend=backend, tile=16)
    monkeypatch.setattr(engine, "_infer", lambda batch: batch)
    with pytest.raises(BackendError, match="gave 1×3×16×16 instead of 1×3×64×64"):
        engine.run(noise(1, 3, 16, 16))


def test_missing_package(backend: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(BackendError, match=f"importing {backend} failed") as caught:
        load(model, backend=backend)
    assert caught.value.fix.startswith("pip install")


def test_no_such_gpu(backend: str, model: Path) -> None:
    with pytest.raises(BackendError, match="cuda:97"):
        load(model, backend=backend, device="cuda:97")


def test_auto(model: Path) -> None:
    assert load(model, tile=16).info.backend == ("openvino" if model.suffix == ".onnx" else "torch")


def test_other_kinds_of_files(backend: str, model: Path) -> None:
    other = next(name for name, kind in BACKENDS.items() if kind != BACKENDS[backend])
    with pytest.raises(BackendError, match=f"backend {other} reads files of kind {BACKENDS[other]}") as caught:
        load(model, backend=other)
    assert backend in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"not a network at all"])
def test_damaged_files(backend: str, model: Path, content: bytes) -> None:
    model.write_bytes(content)
    with pytest.raises(ModelError):
        load(model, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorflow"}, "no backend 'tensorflow'"),
        ({"precision": "fp64"}, "no precision 'fp64'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "cuda:"}, "no device 'cuda:'"),
        ({"threads": 0}, "0 on auto"),
        ({"threads": 0, "device": "cpu"}, "0 on cpu"),
        ({"threads": 2, "device": "cuda"}, "2 on cuda:0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("anything", **arguments)


def test_engine_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Engine(None)  # type: ignore[abstract, arg-type]
