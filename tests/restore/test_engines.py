"""``bfsr-edge restore`` with engines: by path, found, built first; on a fake GPU and on this CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from bfsr_edge import images
from bfsr_edge.cli import main
from bfsr_edge.weights import sha256_of
from tests.runtime.engine_files import Bench, with_fields, write_engine

Photo = Callable[..., npt.NDArray[Any]]

pytestmark = pytest.mark.usefixtures("empty_places")


@pytest.fixture
def photos(tmp_path: Path, photo: Photo) -> Path:
    folder = tmp_path / "photos"
    images.write(folder / "large.png", photo(150, 110))
    images.write(folder / "small.png", photo(20, 30))
    images.write(folder / "deep.png", photo(50, 70, 1, np.uint16))
    return folder


def restore(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, ["restore", *map(str, arguments), "--overlap", "4"])


def check(photos: Path, out: Path, scale: int = 4) -> None:
    """Every result is its input with pixels repeated: the fake engine does that, and so must all around it."""
    for path in photos.iterdir():
        source = images.read(path).pixels
        np.testing.assert_array_equal(images.read(out / path.name).pixels, source.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("release", ["10.3.0", "11.4.0", "rtx-1.7.1"])
def test_by_path(release: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, release)
    engine = write_engine(tmp_path / "tiny.engine", release)
    result = restore(photos, "--out", tmp_path / "out", "--model", engine, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["restored"] == 3
    check(photos, tmp_path / "out")
    # its own tile, two chunks of its best batch at a time
    shapes = bench.device.log
    assert shapes.count("compute") > 10
    assert bench.device.left() == {}  # given back when the command ends
    again = restore(photos, "--out", tmp_path / "out", "--model", engine, "--json")
    assert json.loads(again.stdout)["skipped"] == 3


def test_second_gpu(photos: Path, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfsr_edge.runtime import cuda

    opened: list[int] = []
    open_device = cuda.open_device

    def told(index: int) -> cuda.Cuda:
        opened.append(index)
        return open_device(index)

    monkeypatch.setattr(cuda, "open_device", told)
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
    for device, index in (("cuda:1", 1), ("cuda:0", 0), ("cuda", 0), ("auto", 0)):
        result = restore(photos, "--out", tmp_path / device, "--model", engine, "--device", device)
        assert result.exit_code == 0, result.output
        assert opened.pop() == index
        assert not opened


def test_a_tile_that_is_not_square(photos: Path, tmp_path: Path, bench: Bench) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0", tile=(24, 40))
    assert restore(photos, "--out", tmp_path / "out", "--model", engine).exit_code == 0
    check(photos, tmp_path / "out")


def test_eight_bits(photos: Path, tmp_path: Path, bench: Bench) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0", io="uint8")
    assert restore(photos / "large.png", "--out", tmp_path / "out", "--model", engine).exit_code == 0
    source = images.read(photos / "large.png").pixels
    np.testing.assert_array_equal(images.read(tmp_path / "out" / "large.png").pixels, source.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_other_batches(photos: Path, tmp_path: Path, bench: Bench, batch: int) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
    result = restore(
        photos, "--out", tmp_path / "out", "--model", engine, "--batch", batch, "--scale", "2", "--reduce", "1"
    )
    assert result.exit_code == 0, result.output
    check(photos, tmp_path / "out", scale=2)


def test_another_tile_is_wrong_usage(photos: Path, tmp_path: Path, bench: Bench) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
    result = restore(photos, "--out", tmp_path / "out", "--model", engine, "--tile", "64")
    assert result.exit_code == 2
    assert "has tiles of 32×32, not 64×64" in result.stderr
    assert "build-engine" in result.stderr
    assert not (tmp_path / "out").exists()
    assert restore(photos, "--out", tmp_path / "out", "--model", engine, "--tile", "32").exit_code == 0


@pytest.mark.parametrize(
    ("different", "message"),
    [
        ({"flavour_version": "10.7.0"}, "built with tensorrt 10.7.0, here is 10.3.0"),
        ({"sm": ("8.7",)}, "built for GPUs of SM 8.7; Fake GPU 0 has 8.9"),
        ({"plan_sha256": "0" * 64}, "is not the plan that tiny.engine.json describes"),
    ],
)
def test_engines_for_other_machines(
    photos: Path, tmp_path: Path, bench: Bench, different: dict[str, Any], message: str
) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
    with_fields(engine, **different)
    result = restore(photos, "--out", tmp_path / "out", "--model", engine)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "bfsr-edge build-engine --model tiny.onnx --int8" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_broken_engine_gives_no_picture(photos: Path, tmp_path: Path, bench: Bench) -> None:
    engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
    bench.mischief.nan = True
    result = restore(photos, "--out", tmp_path / "out", "--model", engine, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failed"] == 3
    assert "NaN or Inf" in result.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


class TestFound:
    def test_an_engine_of_the_model_is_taken(self, photos: Path, nearest: Path, tmp_path: Path, bench: Bench) -> None:
        (tmp_path / "engines").mkdir()
        write_engine(tmp_path / "engines" / "n.engine", "10.3.0", onnx_sha256=sha256_of(nearest))
        result = restore(photos, "--out", tmp_path / "out", "--model", nearest)
        assert result.exit_code == 0, result.output
        assert bench.mischief.counts["execute_async_v3"]
        check(photos, tmp_path / "out")

    def test_without_one_the_cpu_runs_and_says_so(
        self, photos: Path, nearest: Path, tmp_path: Path, bench: Bench
    ) -> None:
        result = restore(photos, "--out", tmp_path / "out", "--model", nearest)
        assert result.exit_code == 0, result.output
        assert "Fake GPU 0 is here, but no engine of nearest.onnx for it, so the CPU does the work" in result.stderr
        assert f"next: bfsr-edge build-engine --model {nearest}" in result.stderr
        check(photos, tmp_path / "out")
        for arguments in (("--device", "cpu"), ("--quiet",)):
            quiet = restore(photos, "--out", tmp_path / "quiet", "--model", nearest, "--overwrite", *arguments)
            assert quiet.exit_code == 0
            assert "no engine" not in quiet.stderr

    def test_without_a_gpu_nothing_is_said(self, photos: Path, nearest: Path, tmp_path: Path, bench: Bench) -> None:
        bench.see_gpus(0)
        result = restore(photos, "--out", tmp_path / "out", "--model", nearest)
        assert result.exit_code == 0
        assert result.stderr == ""


class TestBuild:
    """``--build``: for this machine's CPU, with the real builder."""

    def test_builds_once(self, photos: Path, nearest: Path, tmp_path: Path, bench: Bench) -> None:
        bench.see_gpus(0)
        arguments = (photos, "--out", tmp_path / "out", "--model", nearest, "--build", "--device", "cpu")
        first = restore(*arguments)
        assert first.exit_code == 0, first.output
        assert "building an engine of nearest.onnx for cpu" in first.stderr
        (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
        # a CPU with VNNI would get INT8, which this network has no scales for
        assert "has no calibration, so it is built in fp32" in first.stderr or "fp32" in engine.name
        check(photos, tmp_path / "out")
        changed = engine.stat().st_mtime_ns
        again = restore(*arguments, "--json")
        assert json.loads(again.stdout)["skipped"] == 3
        assert engine.stat().st_mtime_ns == changed

    def test_what_cannot_be_built(self, photos: Path, tmp_path: Path, bench: Bench) -> None:
        bench.see_gpus(0)
        checkpoint = tmp_path / "mine.safetensors"
        checkpoint.write_bytes(b"")
        result = restore(photos, "--out", tmp_path / "out", "--model", checkpoint, "--build")
        assert result.exit_code == 2
        assert f"bfsr-edge build-engine --model {checkpoint}" in result.stderr
        result = restore(photos, "--out", tmp_path / "out", "--build", "--device", "cuda")
        assert result.exit_code != 0
        assert "Traceback" not in result.output

    def test_an_engine_is_not_built_again(self, photos: Path, tmp_path: Path, bench: Bench) -> None:
        engine = write_engine(tmp_path / "tiny.engine", "10.3.0")
        assert restore(photos, "--out", tmp_path / "out", "--model", engine, "--build").exit_code == 0
        assert not (tmp_path / "cache").exists()
