"""Every exported graph parses and builds in TensorRT-RTX, whose builder needs no GPU: the gate for TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
trt: Any = pytest.importorskip("tensorrt_rtx", reason="the builder comes with: pip install 'bfsr-edge[rtx]'")


def build(path: Path, tile: int) -> bytes:
    """A strongly typed engine for batches of 1 to 8; every failure is an assertion with TensorRT's own words."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(path.read_bytes())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    assert network.get_input(0).dtype == network.get_output(0).dtype == trt.float32
    assert tuple(network.get_output(0).shape) == (-1, 3, 4 * tile, 4 * tile)
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *((count, 3, tile, tile) for count in (1, 4, 8)))
    assert bool(profile)
    config = builder.create_builder_config()
    assert config.add_optimization_profile(profile) != -1
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, "TensorRT-RTX refused to build the network"
    return bytes(plan)


@pytest.mark.parametrize("fp16_weights", [False, True], ids=["fp32", "fp16-weights"])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("edge-unet", {}), ("msrresnet", {"blocks": 2}), ("edsr", {"blocks": 2})],
    ids=["edge-unet", "msrresnet", "edsr"],
)
def test_build(architecture: str, settings: dict[str, Any], fp16_weights: bool, tmp_path: Path) -> None:
    from bfsr_edge.export import export
    from bfsr_edge.models import create, save_checkpoint

    checkpoint = tmp_path / "it.safetensors"
    save_checkpoint(checkpoint, create(architecture, **settings))
    done = export(checkpoint, tmp_path / "it.onnx", tile=32, fp16_weights=fp16_weights)
    assert len(build(done.path, 32)) > 1000
