"""The builder: against a fake with the names of each release, and with the real TensorRT-RTX where it is installed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bfsr_edge.engines import builder, graphs
from bfsr_edge.engines.builder import Order, Progress
from bfsr_edge.errors import BackendError, ModelError, UsageError
from bfsr_edge.runtime import trt
from bfsr_edge.weights import resolve
from tests.engines import helpers
from tests.engines.fake_builder import Script, fake_api

PLAIN = ("10.3.0", "10.7.0", "10.13.2", "11.4.0")
ROOT = Path(__file__).resolve().parents[2]
ORDER = Order(b"onnx", quantized=True, tile=(32, 32), batch=(1, 2, 4))


@pytest.mark.parametrize("release", PLAIN)
def test_strongly_typed_on_every_release(release: str, tmp_path: Path) -> None:
    script = Script(messages=[(2, "careful"), (2, "careful"), (3, "Total Weights Memory: 12 bytes"), (4, "detail")])
    phases: list[Any] = []
    progress = Progress(lambda *phase: phases.append(phase), lambda *step: phases.append(step))
    order = dataclasses.replace(
        ORDER, workspace_mib=512, tactic_dram_mib=1024, optimization_level=2, timing_cache=tmp_path / "a" / "timing"
    )
    api = fake_api(release, script)
    built = builder.build(api, order, progress)
    assert (built.plan, built.weakly_typed, built.warnings) == (b"plan", False, ("careful",))
    assert built.sizes == {"weights_bytes": 12}
    assert phases == [("Building", "", 2), ("Building", 0), ("Building", -1)]
    assert script.flags == [1 << api.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    (config,) = script.configs
    pools = api.module.MemoryPoolType
    assert config._limits == {pools.WORKSPACE: 512 * 2**20, pools.TACTIC_DRAM: 1024 * 2**20}
    assert config.builder_optimization_level == 2
    assert not config._set
    assert config._cleared == [api.module.BuilderFlag.TF32], "fp32 means 23 bits"
    assert (tmp_path / "a" / "timing").read_bytes() == b"timings"


@pytest.mark.parametrize("release", PLAIN)
def test_weak_typing_is_the_last_resort_before_11(release: str) -> None:
    script = Script(plans=[None, b"weak"], messages=[(1, "no implementation for this node")])
    api = fake_api(release, script)
    if release == "11.4.0":
        with pytest.raises(BackendError, match=r"tensorrt 11\.4\.0 cannot build") as raised:
            builder.build(api, ORDER)
        assert raised.value.why == ("no implementation for this node",)
        return
    built = builder.build(api, ORDER)
    assert (built.plan, built.weakly_typed) == (b"weak", True)
    assert script.configs[1]._set == [api.module.BuilderFlag.FP16, api.module.BuilderFlag.INT8]


def test_floating_point_has_no_last_resort() -> None:
    script = Script(plans=[None, b"weak"])
    with pytest.raises(BackendError, match="cannot build this graph"):
        builder.build(fake_api("10.3.0", script), dataclasses.replace(ORDER, quantized=False))
    assert len(script.flags) == 1


@pytest.mark.parametrize("release", [*PLAIN, "rtx-1.7.1"])
def test_every_parser_error_is_told_with_its_node(release: str) -> None:
    with pytest.raises(ModelError, match="cannot read this graph") as raised:
        builder.build(fake_api(release, Script(parses=False)), dataclasses.replace(ORDER, sm=("8.9",)))
    assert raised.value.why == ("node /body/Conv (Conv): kernel weights must be positive",) * 2


def test_an_incomplete_profile_is_an_error() -> None:
    for script in (Script(profile=False), Script(shapes=False)):
        with pytest.raises(BackendError, match="refuses batches of 1 to 4 with tiles of 32×32") as raised:
            builder.build(fake_api("10.3.0", script), ORDER)
        assert raised.value.why[-1] == "the graph's input is (-1, 3, 32, 32)"
    assert "inconsistent" in raised.value.why[0]


@pytest.mark.parametrize("release", [*PLAIN, "rtx-1.7.1"])
def test_no_usable_cuda(release: str) -> None:
    """TensorRT's own line is told, which it logs as a warning."""
    with pytest.raises(BackendError, match="cannot make a builder") as raised:
        builder.build(fake_api(release, Script(cuda=False)), ORDER)
    assert raised.value.why == ("CUDA initialization failure with error: 35",)


def test_a_damaged_timing_cache_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "timing"
    path.write_bytes(b"damaged")
    builder.build(fake_api("10.3.0", Script()), dataclasses.replace(ORDER, timing_cache=path))
    assert path.read_bytes() == b"timings"


def test_dla() -> None:
    order = dataclasses.replace(ORDER, dla_core=1)
    with pytest.raises(UsageError, match="there is no DLA core 1 here"):
        builder.build(fake_api("10.3.0", Script(dla_cores=1)), order)
    script = Script(dla_cores=2)
    api = fake_api("10.3.0", script)
    assert builder.build(api, order).weakly_typed
    (config,) = script.configs
    assert (config.DLA_core, config.default_device_type) == (1, api.module.DeviceType.DLA)
    assert api.module.BuilderFlag.GPU_FALLBACK in config._set
    assert api.module.BuilderFlag.INT8 in config._set
    # a DLA's graphs hold no Q/DQ nodes, and without them INT8 wants a calibrator
    script = Script(dla_cores=2)
    builder.build(fake_api("10.3.0", script), dataclasses.replace(order, quantized=False))
    assert api.module.BuilderFlag.FP16 in script.configs[0]._set
    assert api.module.BuilderFlag.INT8 not in script.configs[0]._set
    # from 11 on a DLA takes strongly typed networks
    assert not builder.build(fake_api("11.4.0", Script(dla_cores=2)), order).weakly_typed


def test_ctrl_c_abandons_the_build() -> None:
    """In a process of its own: what other tests left of OpenVINO makes any signal a crash (see auto.compare)."""
    code = (
        "import os, signal\n"
        "from bfsr_edge.engines import builder\n"
        "from tests.engines.fake_builder import Script, fake_api\n"
        "order = builder.Order(b'', quantized=True, tile=(32, 32), batch=(1, 2, 4))\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "script = Script(during=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "try:\n    builder.build(fake_api('10.3.0', script), order)\n"
        "except KeyboardInterrupt:\n    print('abandoned', signal.getsignal(signal.SIGINT) is before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout == "abandoned True\n", run.stderr


def test_builds_in_another_thread() -> None:
    plans: list[bytes] = []
    thread = threading.Thread(target=lambda: plans.append(builder.build(fake_api("10.3.0", Script()), ORDER).plan))
    thread.start()
    thread.join()
    assert plans == [b"plan"]


# ---- the real thing


@pytest.fixture
def rtx() -> trt.Api:
    pytest.importorskip("tensorrt_rtx", reason="the builder comes with: pip install 'bfsr-edge[rtx]'")
    return trt.load_api("tensorrt-rtx")


def order_of(path: Path, precision: str, *sm: str) -> Order:
    graph = graphs.prepare(graphs.read_source(resolve(path)), precision, (32, 32))
    return Order(graph.content, graph.quantized, (32, 32), (1, 2, 4), sm=sm)


@pytest.mark.parametrize("sm", [("8.6",), ("8.9",), ("12.0",), ("8.6", "12.0")])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rtx_builds(rtx: trt.Api, tmp_path: Path, precision: str, sm: tuple[str, ...]) -> None:
    path = helpers.network(tmp_path / "tiny.onnx")
    helpers.calibration(path)
    phases: list[str] = []
    built = builder.build(rtx, order_of(path, precision, *sm), Progress(lambda phase, *_: phases.append(phase)))
    assert len(built.plan) > 10_000
    assert not built.weakly_typed
    assert set(built.sizes) == set(builder.SIZES)
    assert phases


def test_rtx_does_not_know_orin(rtx: trt.Api, tmp_path: Path) -> None:
    path = helpers.network(tmp_path / "tiny.onnx")
    with pytest.raises(BackendError, match=r"cannot build for SM 8\.7"):
        builder.build(rtx, order_of(path, "fp32", "8.7"))


def test_rtx_names_the_node_that_it_cannot_read(rtx: trt.Api, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load(str(helpers.network(tmp_path / "tiny.onnx")))
    proto.graph.node[1].op_type = "Frobnicate"
    order = dataclasses.replace(ORDER, content=proto.SerializeToString(), sm=("8.9",))
    with pytest.raises(ModelError, match="cannot read this graph") as raised:
        builder.build(rtx, order)
    assert any("/head/Relu (Frobnicate)" in reason for reason in raised.value.why)
