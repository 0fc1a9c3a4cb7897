"""The TensorRT backend on a fake with the real names: five releases, two CUDA layers, and everything going wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import Engine, load, tensorrt
from tests.runtime.engine_files import SM, Bench, with_fields, write_engine
from tests.runtime.fake_cuda import CUresult
from tests.runtime.fake_trt import RELEASES, names_of

Noise = Callable[..., NDArray[np.float32]]


@pytest.fixture
def engine_file(tmp_path: Path, bench: Bench) -> Path:
    return write_engine(tmp_path / "tiny.engine", bench.release)


def nearest(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return batch.repeat(4, 2).repeat(4, 3)


@pytest.mark.parametrize("implementation", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("release", RELEASES)
def test_every_release(
    release: str, implementation: str, tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, release, implementation)
    engine = load(write_engine(tmp_path / "tiny.engine", release))
    info = engine.info
    rtx = release.startswith("rtx-")
    assert (info.backend, info.device) == ("tensorrt-rtx" if rtx else "tensorrt", "cuda:0")
    assert info.backend_version == release.removeprefix("rtx-")
    assert (info.precision, info.tile, info.scale, info.stride, info.batch) == ("fp16+int8", (32, 32), 4, 8, 2)
    for count in (1, 2, 3, 7, 2, 7):
        batch = noise(count, 3, 32, 32)
        before = batch.copy()
        result = engine.run(batch)
        np.testing.assert_array_equal(result, nearest(batch))
        np.testing.assert_array_equal(batch, before)
        assert result.flags.owndata or result.base is not None
    # RTX captures by itself, pycuda cannot; all others launch graphs by now
    assert ("launch" in bench.device.calls) == (not rtx and implementation == "cuda-python")
    engine.close()
    assert bench.device.left() == {}
    destroyed = [kind for kind in bench.mischief.destroyed if kind != "IRuntimeConfig"]
    # one context for each set of buffers, one for what remains; TensorRT never lets go of its logger
    cache = ["IRuntimeCache"] if rtx else []
    assert destroyed == ["IExecutionContext"] * 3 + cache + ["ICudaEngine", "Runtime"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("batch", [(1, 2, 4), (1, 1, 1), (2, 3, 3)])
def test_odd_counts(count: int, batch: tuple[int, int, int], tmp_path: Path, bench: Bench, noise: Noise) -> None:
    """Chunks of the best size; what remains is run alone, filled up to the smallest."""
    engine = load(write_engine(tmp_path / "tiny.engine", bench.release, batch=batch))
    tiles = noise(count, 3, 32, 32)
    for _ in range(3):  # plain, captured, launched
        np.testing.assert_array_equal(engine.run(tiles), nearest(tiles))


def test_copies_overlap_computing(
    engine_file: Path, bench: Bench, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next chunk is on its way in before anybody waits for the last one's result."""
    order: list[str] = []
    device = bench.device
    copy, wait_for = device.copy, device.wait_for

    def told_copy(kind: str, *rest: Any) -> None:
        order.append(kind)
        copy(kind, *rest)

    def told_wait(event: Any) -> None:
        order.append("wait")
        wait_for(event)

    monkeypatch.setattr(device, "copy", told_copy)
    monkeypatch.setattr(device, "wait_for", told_wait)
    load(engine_file).run(noise(8, 3, 32, 32))
    first_wait = order.index("wait")
    assert order[:first_wait].count("copy_in") == 2
    assert order.count("copy_in") == order.count("copy_out") == order.count("wait") == 4
    # between two waits one more chunk was sent
    assert order[first_wait:][:3] == ["wait", "copy_in", "copy_out"]


def test_only_full_chunks_are_captured(engine_file: Path, bench: Bench, noise: Noise) -> None:
    engine = load(engine_file)
    tiles = noise(5, 3, 32, 32)  # two tiles in slot 0, two in slot 1, one in slot 0
    engine.run(tiles)
    assert "begin_capture" not in bench.device.calls
    engine.run(tiles)
    assert bench.device.calls["begin_capture"] == bench.device.calls["end_capture"] == 2
    plain = bench.mischief.counts["execute_async_v3"]
    np.testing.assert_array_equal(engine.run(1 - tiles), nearest(1 - tiles))
    assert bench.device.calls["launch"] == 2
    assert bench.mischief.counts["execute_async_v3"] == plain + 1


def test_what_remains_does_not_spoil_a_captured_graph(engine_file: Path, bench: Bench, noise: Noise) -> None:
    """A graph is wrong as soon as its context was given another shape or address: so none ever is."""
    engine = load(engine_file)
    for count in (4, 4, 1, 4, 3, 4, 7, 1, 4):
        tiles = noise(count, 3, 32, 32)
        np.testing.assert_array_equal(engine.run(tiles), nearest(tiles))
    assert bench.device.calls["launch"] > 5


def test_rtx_captures_each_context_once(tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """It captures anew whenever shape or address changes; the context for what remains does not capture."""
    bench = Bench(monkeypatch, "rtx-1.7.1")
    engine = load(write_engine(tmp_path / "tiny.engine", "rtx-1.7.1"))
    for count in (4, 1, 5, 4, 7):
        engine.run(noise(count, 3, 32, 32))
    assert len(bench.mischief.captured_by_itself) == 2


def test_a_single_face_makes_one_context(tmp_path: Path, bench: Bench, noise: Noise) -> None:
    engine = load(write_engine(tmp_path / "tiny.engine", bench.release, batch=(1, 1, 4)))
    for _ in range(3):
        engine.run(noise(1, 3, 32, 32))
    assert bench.mischief.counts["create_execution_context"] == 1


def test_several_threads(engine_file: Path, bench: Bench, noise: Noise) -> None:
    engine = load(engine_file)
    batches = [noise(count, 3, 32, 32) for count in (1, 2, 3, 5)] * 6
    with ThreadPoolExecutor(4) as pool:
        for batch, result in zip(batches, pool.map(engine.run, batches), strict=True):
            np.testing.assert_array_equal(result, nearest(batch))


def test_two_engines_at_once(engine_file: Path, tmp_path: Path, bench: Bench, noise: Noise) -> None:
    first, second = load(engine_file), load(write_engine(tmp_path / "other.engine", bench.release, tile=(8, 16)))
    one, other = noise(3, 3, 32, 32), noise(5, 3, 8, 16)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(each.run, tiles) for each, tiles in [(first, one), (second, other)] * 5]
        for future, expected in zip(futures, [one, other] * 5, strict=True):
            np.testing.assert_array_equal(future.result(), nearest(expected))


def test_results_belong_to_the_caller(engine_file: Path, bench: Bench, noise: Noise) -> None:
    engine = load(engine_file)
    first = engine.run(noise(2, 3, 32, 32))
    kept = first.copy()
    engine.run(1 - noise(2, 3, 32, 32))
    engine.close()
    np.testing.assert_array_equal(first, kept)


class TestUint8:
    def test_rounded_and_back(self, tmp_path: Path, bench: Bench, noise: Noise) -> None:
        engine = load(write_engine(tmp_path / "tiny.engine", bench.release, io="uint8"))
        batch = noise(3, 3, 32, 32)
        batch[0, 0, 0, :3] = (-0.0005, 1.0005, 0.5)
        expected = np.clip(np.rint(batch * np.float32(255)), 0, 255).astype(np.uint8)
        np.testing.assert_allclose(engine.run(batch), nearest(expected) / np.float32(255), atol=1e-7)

    def test_a_quarter_of_the_bytes(self, tmp_path: Path, bench: Bench) -> None:
        engine = load(write_engine(tmp_path / "tiny.engine", bench.release, io="uint8"))
        assert engine.info.batch == 2
        assert bench.device.used == 2 * 2 * 3 * (32 * 32 + 128 * 128)

    def test_nan_cannot_hide(self, tmp_path: Path, bench: Bench, noise: Noise) -> None:
        engine = load(write_engine(tmp_path / "tiny.engine", bench.release, io="uint8"))
        batch = noise(3, 3, 32, 32)
        batch[1, 0, 0, 0] = np.nan
        with pytest.raises(BackendError, match="NaN or Inf in 1 of"):
            engine.run(batch)


class TestMischief:
    @pytest.mark.parametrize(
        ("method", "what"),
        [
            ("set_input_shape", "take an input of 2×3×32×32"),
            ("set_tensor_address", "take the address of its input"),
            ("execute_async_v3", "run the network"),
        ],
    )
    def test_false_while_running(self, engine_file: Path, bench: Bench, noise: Noise, method: str, what: str) -> None:
        engine = load(engine_file)
        bench.mischief.false.add(method)
        with pytest.raises(BackendError, match=f"would not {what}"):
            engine.run(noise(3, 3, 32, 32))
        # and the engine is none the worse for it
        bench.mischief.false.clear()
        batch = noise(5, 3, 32, 32)
        np.testing.assert_array_equal(engine.run(batch), nearest(batch))

    @pytest.mark.parametrize("release", ["10.3.0", "rtx-1.7.1"])
    def test_none_and_false_while_loading(self, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_engine(tmp_path / "tiny.engine", release)
        cases = [("none", "deserialize_cuda_engine", "cannot load"), ("none", "create_execution_context", "context")]
        cases.append(("false", "set_optimization_profile_async", "choose the plan's profile"))
        if release.startswith("rtx-"):
            cases.append(("none", "create_runtime_config", "context"))
        for kind, method, message in cases:
            bench = Bench(monkeypatch, release)
            getattr(bench.mischief, kind).add(method)
            with pytest.raises((BackendError, ModelError), match=message):
                load(path)
            assert bench.device.left() == {}, method

    def test_closed_while_an_error_is_on_its_way(self, engine_file: Path, bench: Bench, noise: Noise) -> None:
        """Contexts and engine go before their memory, though the traceback still holds the frames that used them."""
        engine = load(engine_file)
        bench.mischief.false.add("execute_async_v3")
        with pytest.raises(BackendError, match="run the network") as caught:
            engine.run(noise(3, 3, 32, 32))
        engine.close()
        assert bench.mischief.destroyed == ["IExecutionContext", "ICudaEngine", "Runtime"]
        assert bench.device.left() == {}
        assert caught.tb is not None  # it was alive all the time

    def test_cuda_refuses_to_destroy_a_graph(self, engine_file: Path, bench: Bench, noise: Noise) -> None:
        """The rest is given back all the same."""
        engine = load(engine_file)
        for _ in range(3):
            engine.run(noise(4, 3, 32, 32))
        bench.device.fail["destroy_graph"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        engine.close()
        assert bench.device.left() == {"graphs": 2}

    def test_nan(self, engine_file: Path, bench: Bench, noise: Noise) -> None:
        engine = load(engine_file)
        bench.mischief.nan = True
        with pytest.raises(BackendError, match="NaN or Inf in 2 of 3 tiles"):  # the last of each chunk
            engine.run(noise(3, 3, 32, 32))

    def test_an_exception_in_the_middle_of_a_capture(
        self, engine_file: Path, bench: Bench, noise: Noise, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The capture is ended, the picture is right, and the engine goes on without graphs and says so."""
        engine = load(engine_file)
        bench.mischief.raises_in_capture = True
        batch = noise(4, 3, 32, 32)
        for _ in range(4):
            np.testing.assert_array_equal(engine.run(batch), nearest(batch))
        assert bench.device.calls["begin_capture"] == bench.device.calls["end_capture"] == 1
        assert "launch" not in bench.device.calls
        assert all(stream.capture is None for stream in bench.device.streams.values())
        assert "without CUDA graphs: something broke while capturing" in caplog.text

    @pytest.mark.parametrize("call", ["end_capture", "instantiate"])
    def test_cuda_refuses_a_capture(self, engine_file: Path, bench: Bench, noise: Noise, call: str) -> None:
        engine = load(engine_file)
        bench.device.fail[call] = CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        batch = noise(4, 3, 32, 32)
        engine.run(batch)
        if call == "end_capture":  # the fake ends it all the same, as CUDA does
            for stream in bench.device.streams.values():
                stream.capture = None
        for _ in range(2):
            engine.run(batch) if call == "instantiate" else None
        assert "launch" not in bench.device.calls

    @pytest.mark.parametrize("call", ["copy_in", "copy_out", "record", "wait", "wait_for"])
    def test_cuda_fails(self, engine_file: Path, bench: Bench, noise: Noise, call: str) -> None:
        engine = load(engine_file)
        bench.device.fail[call] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        with pytest.raises(BackendError, match="CUDA failed in cu") as caught:
            engine.run(noise(5, 3, 32, 32))
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in caught.value.why[0]
        bench.device.fail.clear()
        batch = noise(5, 3, 32, 32)
        np.testing.assert_array_equal(engine.run(batch), nearest(batch))

    def test_memory_is_too_small(self, engine_file: Path, bench: Bench) -> None:
        bench.device.memory = 300_000
        with pytest.raises(BackendError, match="cuMemAlloc") as caught:
            load(engine_file)
        assert "OUT_OF_MEMORY" in caught.value.why[0]
        assert bench.device.left() == {}

    def test_interrupted(self, engine_file: Path, bench: Bench, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C in the middle leaves no copy behind that would write over the next batch."""
        engine = load(engine_file)
        wait_for = bench.device.wait_for

        def interrupt(_event: Any) -> None:
            monkeypatch.setattr(bench.device, "wait_for", wait_for)
            raise KeyboardInterrupt

        monkeypatch.setattr(bench.device, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.run(noise(8, 3, 32, 32))
        assert not any(stream.queue for stream in bench.device.streams.values())
        batch = noise(3, 3, 32, 32)
        np.testing.assert_array_equal(engine.run(batch), nearest(batch))


class TestLoading:
    def test_what_the_sidecar_cannot_know(self, tmp_path: Path, bench: Bench) -> None:
        """TensorRT's own reason is passed on, with the command that builds the plan again."""
        path = write_engine(tmp_path / "tiny.engine", bench.release, plan={"release": "10.7.0"})
        with pytest.raises(ModelError, match="cannot load") as caught:
            load(path)
        assert "plan is of 10.7.0" in caught.value.why[0]
        assert caught.value.fix.endswith("bfsr-edge build-engine --model tiny.onnx --int8")

    @pytest.mark.parametrize("release", RELEASES)
    def test_no_usable_cuda(self, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """TensorRT's own line is told, which it logs as a warning."""
        bench = Bench(monkeypatch, release)
        bench.mischief.no_cuda = True
        with pytest.raises(BackendError, match="cannot make a runtime") as caught:
            load(write_engine(tmp_path / "tiny.engine", release))
        assert caught.value.why == ("CUDA initialization failure with error: 35",)
        assert bench.device.left() == {}

    def test_a_plan_for_a_dla(self, tmp_path: Path, bench: Bench, noise: Noise) -> None:
        """It is loaded for the core that it was built for."""
        path = write_engine(tmp_path / "tiny.engine", bench.release, plan={"dla_core": 1}, options={"dla_core": 1})
        batch = noise(2, 3, 32, 32)
        np.testing.assert_array_equal(load(path).run(batch), nearest(batch))
        with_fields(path, options={})
        with pytest.raises(ModelError, match="cannot load") as caught:
            load(path)
        assert "DLA core 1" in caught.value.why[0]

    def test_precision_is_what_the_graph_holds(self, tmp_path: Path, bench: Bench) -> None:
        shares = {"int8": 0.9, "fp16": 0.0, "fp32": 0.1}
        path = write_engine(tmp_path / "tiny.engine", bench.release, options={"mac_shares": shares})
        assert load(path).info.precision == "fp32+int8"

    def test_rtx_says_no_before_loading(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench(monkeypatch, "rtx-1.7.1")
        path = write_engine(tmp_path / "tiny.engine", "rtx-1.7.1")
        bench.mischief.invalid = True
        with pytest.raises(ModelError, match="cannot load") as caught:
            load(path)
        assert "UNSUPPORTED_CC" in caught.value.why[0]
        assert "deserialize_cuda_engine" not in bench.mischief.counts

    @pytest.mark.parametrize(
        ("different", "message"),
        [
            ({"tile": [16, 32]}, "the tile is 16×32, the sidecar says 32×32"),
            ({"batch": [1, 2, 8]}, "the batch is 1×2×8, the sidecar says 1×2×4"),
            ({"io": "uint8"}, "the type of its input is uint8, the sidecar says float32"),
        ],
    )
    def test_a_sidecar_of_another_plan(
        self, tmp_path: Path, bench: Bench, different: dict[str, Any], message: str
    ) -> None:
        path = write_engine(tmp_path / "tiny.engine", bench.release, plan=different)
        with pytest.raises(ModelError, match="is not what its sidecar says") as caught:
            load(path)
        assert message in caught.value.why
        assert bench.device.left() == {}
        assert bench.mischief.destroyed == ["ICudaEngine", "Runtime"]  # before the exception's frames are gone

    def test_two_inputs(self, tmp_path: Path, bench: Bench) -> None:
        path = write_engine(tmp_path / "tiny.engine", bench.release, plan={"modes": ["INPUT", "INPUT"]})
        with pytest.raises(ModelError, match="2 inputs and 0 outputs"):
            load(path)

    def test_it_is_checked_before_it_is_loaded(self, engine_file: Path, bench: Bench) -> None:
        with_fields(engine_file, flavour_version="10.7.0", sm=("8.6",))
        with pytest.raises(ModelError, match="cannot run on this machine") as caught:
            load(engine_file)
        assert len(caught.value.why) == 2
        assert "deserialize_cuda_engine" not in bench.mischief.counts
        assert bench.device.left() == {}

    def test_soft_differences_are_warned_of(
        self, engine_file: Path, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        with_fields(engine_file, gpu="Another GPU", sm=(SM, "8.6"))
        with caplog.at_level(logging.WARNING, "bfsr_edge"):
            load(engine_file)
        assert "built with GPU Another GPU, running with Fake GPU 0" in caplog.text

    def test_second_gpu(self, engine_file: Path, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        with_fields(engine_file, gpu="Fake GPU 0")
        assert load(engine_file, device="cuda:1").info.device == "cuda:1"
        assert "running with Fake GPU 1" in caplog.text
        with pytest.raises(BackendError, match="no cuda:2"):
            load(engine_file, device="cuda:2")

    def test_other_tiles_and_precisions(self, engine_file: Path, bench: Bench) -> None:
        assert load(engine_file, tile=32, precision="auto").info.tile == (32, 32)
        with pytest.raises(UsageError, match="tiles of 32×32, not 64×64") as caught:
            load(engine_file, tile=64)
        assert "build-engine" in caught.value.fix
        with pytest.raises(UsageError, match="built for int8, and fp32"):
            load(engine_file, precision="fp32")
        with pytest.raises(UsageError, match="does not fit"):
            load(engine_file, tile=33)

    def test_closed(self, engine_file: Path, bench: Bench, noise: Noise) -> None:
        engine = load(engine_file)
        engine.close()
        engine.close()
        with pytest.raises(UsageError, match="was closed"):
            engine.run(noise(1, 3, 32, 32))
        assert bench.device.left() == {}

    def test_forgotten(self, engine_file: Path, bench: Bench, noise: Noise) -> None:
        engine: Engine | None = load(engine_file)
        assert engine is not None
        engine.run(noise(1, 3, 32, 32))
        engine = None
        assert bench.device.left() == {}

    def test_missing_packages(self, engine_file: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendError, match="tensorrt cannot be used here") as caught:
            load(engine_file)
        assert "pip install" in caught.value.fix


def test_names_touched_here_are_in_every_release() -> None:
    """What differs between releases is touched in trt.py alone."""
    source = Path(tensorrt.__file__).read_text("utf-8")
    code = source[source.index("class Engine") :].replace("module.load", "")
    touched = set(re.findall(r"\b(?:engine|context|runtime|module)\.(\w+)", code)) - {"load"}
    assert {"execute_async_v3", "set_tensor_address", "get_tensor_profile_shape", "TensorIOMode"} <= touched
    for release in RELEASES:
        last = {name.removesuffix("()").rpartition(".")[2] for name in names_of(release)}
        assert touched <= last, release
