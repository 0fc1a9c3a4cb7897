"""Where Q/DQ nodes stand, that backends execute them as integers and agree, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bfsr_edge import images, weights
from bfsr_edge.calibration import SMALLEST, Calibration, Drop, Layer
from bfsr_edge.errors import ModelError
from bfsr_edge.metrics import psnr
from bfsr_edge.precision import QUANTIZERS, mac_shares, plain, to_fp16
from bfsr_edge.quantization import check, end_convolutions, graph_sha256, layers_of, place, read, source_tensors
from bfsr_edge.runtime import load
from tests.calibrate.helpers import (
    GRAPHS,
    NETWORKS,
    SHIPPED,
    TILE,
    calibration,
    dequantized,
    exported,
    graph,
    noise,
    save,
)


def shipped() -> Calibration:
    return Calibration.load(weights.resolve(weights.DEFAULT, kind="calibration").path)


def floating(name: str) -> set[str]:
    """The convolutions that stay in floating point: the ends, unless the shipped calibration takes one in."""
    return set(shipped().excluded) if name == SHIPPED else end_convolutions(graph(name))


def quantized(name: str) -> onnx.ModelProto:
    proto = graph(name)
    return place(proto, shipped() if name == SHIPPED else calibration(proto))


# ---- placement


@pytest.mark.parametrize("name", GRAPHS)
def test_rules(name: str) -> None:
    proto = quantized(name)
    onnx.checker.check_model(proto, full_check=True)
    nodes = list(proto.graph.node)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made = {output: node for node in nodes for output in node.output}
    for node in nodes:
        if node.op_type in QUANTIZERS:
            scale, zero = stored[node.input[1]], stored[node.input[2]]
            assert scale.dtype == np.float16
            assert scale.min() >= SMALLEST > 6.1e-5
            assert zero.dtype == np.int8
            assert not zero.any()
    ends = floating(name)
    seen = 0
    for node in nodes:
        if node.op_type != "Conv":
            continue
        activation, weight = (dequantized(proto, entry) for entry in node.input[:2])
        if node.name in ends:
            assert activation is None
            assert weight is None
            continue
        seen += 1
        assert activation is not None
        assert weight is not None
        assert stored[activation.input[1]].shape == ()
        values = stored[weight.input[0]]
        assert values.dtype == np.int8
        assert abs(values.astype(int)).max() <= 127
        assert helper.get_node_attr_value(weight, "axis") == 0
        assert stored[weight.input[1]].shape == (len(values),)
        assert stored[node.input[2]].dtype == np.float16
    assert seen == len([node for node in nodes if node.op_type == "Conv"]) - len(ends) > 0
    # one pair a tensor
    tensors = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(tensors) == len(set(tensors))
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            (reader,) = [other for other in nodes if node.output[0] in other.input]
            assert reader.op_type == "DequantizeLinear"
            assert node.input[1:] == reader.input[1:]
        if node.op_type == "Add":  # the branch that skips, and that one only
            assert sum(entry in made and made[entry].op_type == "DequantizeLinear" for entry in node.input) <= 1


@pytest.mark.parametrize("name", GRAPHS)
def test_skips_share_the_pair_of_the_next_convolution(name: str) -> None:
    proto = quantized(name)
    made = {output: node for node in proto.graph.node for output in node.output}
    shared = 0
    for node in proto.graph.node:
        if node.op_type == "Add":
            for entry in node.input:
                if entry in made and made[entry].op_type == "DequantizeLinear":
                    readers = [other for other in proto.graph.node if entry in other.input]
                    assert any(other.op_type == "Conv" for other in readers)
                    shared += 1
    assert shared >= 2
    plain_adds = dataclasses.replace(calibration(graph(name)), quantized_skips=False)
    alone = place(graph(name), plain_adds)
    made = {output: node for node in alone.graph.node for output in node.output}
    for node in alone.graph.node:
        if node.op_type == "Add":
            assert not any(entry in made and made[entry].op_type in QUANTIZERS for entry in node.input)


def paths(proto: onnx.ModelProto) -> Iterator[list[onnx.NodeProto]]:
    """Every way from output to input with at most one convolution on it: the global skip."""
    made = {output: node for node in proto.graph.node for output in node.output}

    def back(name: str, way: list[onnx.NodeProto]) -> Iterator[list[onnx.NodeProto]]:
        if name == proto.graph.input[0].name:
            yield way
        elif name in made:
            longer = [*way, made[name]]
            if sum(node.op_type == "Conv" for node in longer) <= 1:
                for entry in made[name].input:
                    yield from back(entry, longer)

    yield from back(proto.graph.output[0].name, [])


@pytest.mark.parametrize("name", GRAPHS)
def test_no_quantizer_on_the_global_skip(name: str) -> None:
    found = list(paths(quantized(name)))
    assert bool(found) == (name != "edsr")  # EDSR skips inside the network only
    for way in found:
        assert not [node.name for node in way if node.op_type in QUANTIZERS]


def test_the_search_for_the_global_skip_sees_a_quantizer() -> None:
    """The test above can fail."""
    proto = quantized("msrresnet")
    resize = next(node for node in proto.graph.node if node.op_type == "Resize")
    reader = next(node for node in proto.graph.node if resize.output[0] in node.input)
    reader.input[list(reader.input).index(resize.output[0])] = "spoilt"
    pair = ["conv_first.weight.fp16", "int8.zero"]
    proto.graph.node.append(helper.make_node("QuantizeLinear", [resize.output[0], *pair], ["spoilt.int8"], name="q"))
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["spoilt.int8", *pair], ["spoilt"], name="dq"))
    assert any(node.op_type in QUANTIZERS for way in paths(proto) for node in way)


def test_activation_before_pixelshuffle() -> None:
    """Convolution, LeakyReLU and quantization stay together; the shuffle moves what was quantized."""
    proto = quantized("msrresnet")
    made = {output: node for node in proto.graph.node for output in node.output}
    shuffles = [node for node in proto.graph.node if node.op_type == "DepthToSpace"]
    assert len(shuffles) == 2
    for shuffle in shuffles:
        way = [made[shuffle.input[0]]]
        while way[-1].op_type != "Conv":
            way.append(made[way[-1].input[0]])
        assert [node.op_type for node in way] == ["DequantizeLinear", "QuantizeLinear", "LeakyRelu", "Conv"]


SHARES = [
    (SHIPPED, "{}", 0.8),
    ("msrresnet", json.dumps({"blocks": 24}), 0.98),
    ("msrresnet", json.dumps({"blocks": 26}), 0.98),
    ("edsr", json.dumps({"blocks": 20}), 0.98),
]


@pytest.mark.parametrize(("name", "settings", "least"), SHARES, ids=["default", "srresnet24", "srgan26", "edsr20"])
def test_share_of_the_work_in_int8(name: str, settings: str, least: float) -> None:
    """Of the networks as they are used; the convolution behind the last PixelShuffle is a fifth of an SRResNet."""
    proto = graph(name) if name == SHIPPED else onnx.load_from_string(exported(name, settings))
    made = shipped() if name == SHIPPED else calibration(proto)
    shares = mac_shares(place(proto, made))
    assert shares["int8"] >= least
    assert shares["fp32"] == 0
    layers = layers_of(proto, made.excluded)
    assert sum(layer.share for layer in layers if layer.precision == "int8") == pytest.approx(shares["int8"])
    if name == "msrresnet":
        assert {"/conv_hr/Conv"} & {layer.name for layer in layers if layer.precision == "int8" and layer.share > 0.15}


def test_other_layers_can_be_left_out() -> None:
    proto = graph("edsr")
    made = calibration(proto)
    one = "/body/body.0/conv1/Conv"
    more = place(proto, dataclasses.replace(made, excluded=(*made.excluded, one)))
    (node,) = [entry for entry in more.graph.node if entry.name == one]
    assert dequantized(more, node.input[0]) is None
    assert mac_shares(more)["int8"] < mac_shares(place(proto, made))["int8"]
    everything = place(proto, dataclasses.replace(made, excluded=()))
    assert mac_shares(everything)["int8"] == 1


def test_float32_instead_of_fp16() -> None:
    proto = graph("msrresnet")
    wide = place(proto, calibration(proto, floating="fp32"))
    onnx.checker.check_model(wide, full_check=True)
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in wide.graph.initializer}
    assert mac_shares(wide)["fp32"] > 0


def test_the_same_every_time(tmp_path: Path) -> None:
    proto = graph("edge-unet")
    layers = (Layer("/head/Conv", "input", 0.5, "fp16", 0.1, 0.2),)
    drop = Drop(0.01, 0.05, "a.png", 3, 29.0, 28.99, "openvino 1")
    made = calibration(proto, layers=layers, drop=drop, faces=("ab",), versions={"onnx": "1"})
    before = proto.SerializeToString()
    made.save(tmp_path / "it.calibration.json")
    again = Calibration.load(tmp_path / "it.calibration.json")
    assert again == made
    results = {place(proto, entry).SerializeToString(deterministic=True) for entry in (made, made, again)}
    assert len(results) == 1
    assert proto.SerializeToString() == before
    assert [path.name for path in tmp_path.iterdir()] == ["it.calibration.json"]
    kept = {entry.key: entry.value for entry in place(proto, made).metadata_props}
    assert kept == {entry.key: entry.value for entry in proto.metadata_props}


# ---- execution


def executed(proto: onnx.ModelProto, tile: int) -> list[str]:
    """The precisions of the convolutions in the graph that OpenVINO really runs."""
    openvino: Any = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.read_model(proto.SerializeToString())
    model.reshape([1, 3, tile, tile])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return [node["runtimePrecision"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"]


@pytest.mark.parametrize("name", GRAPHS)
def test_openvino_executes_every_quantized_convolution_in_integers(name: str) -> None:
    proto = quantized(name)
    precisions = executed(proto, 128 if name == SHIPPED else TILE)
    integer = [precision for precision in precisions if precision in ("i8", "u8")]
    assert len(integer) == len(source_tensors(graph(name))) - len(floating(name))
    assert len(precisions) - len(integer) == len(floating(name))


def low(path: Path) -> NDArray[np.float32]:
    pixels = images.read(path).pixels
    batch: NDArray[np.float32] = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return batch


def test_backends_agree_on_real_pixels(tmp_path: Path, samples: Path) -> None:
    """INT8 in integers (OpenVINO) and in the graph's own arithmetic (ONNX Runtime): the same PSNR."""
    onnxruntime = pytest.importorskip("onnxruntime")
    made = shipped()
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31):
        # 1.23 is 0.2 dB off where FP16 stands between quantized layers (calibrate/README.md); 1.31 is not
        made = dataclasses.replace(made, floating="fp32")
    path = save(place(graph(SHIPPED), made), tmp_path / "edge.int8.onnx")
    found: dict[str, list[float]] = {"openvino": [], "onnxruntime": []}
    for name in ("hopper-face.png", "astronaut-face.png"):
        truth = images.read(samples / "gt" / name).pixels
        batch = low(samples / "lq" / name)
        for backend, scores in found.items():
            engine = load(path, backend=backend, device="cpu", tile=(batch.shape[2], batch.shape[3]))
            scores.append(psnr(engine.run(batch)[0].transpose(1, 2, 0), truth))
    ours, theirs = found.values()
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_computes_what_float32_does(name: str, tmp_path: Path) -> None:
    """With steps that fit its activations, an untrained network loses as much as 8 bits cost and not more."""
    from bfsr_edge.calibrate.ranges import scales

    proto = graph(name)
    batch = noise(1, 3, TILE, TILE)
    picture = np.rint(batch[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    ranges = scales(proto, list(source_tensors(proto).values()), [picture], ["max"], 99.999)["max"]
    int8 = place(proto, calibration(proto, scales=ranges))
    expected = load(save(proto, tmp_path / "a.onnx"), backend="openvino", device="cpu").run(batch)
    result = load(save(int8, tmp_path / "b.onnx"), backend="openvino", device="cpu").run(batch)
    fidelity = 10 * np.log10(np.var(expected) / np.mean(np.square(result - expected)))
    assert 25 < fidelity < 80


# ---- the shipped calibration


def test_the_shipped_calibration_belongs_to_the_shipped_onnx() -> None:
    found = weights.resolve(weights.DEFAULT, kind="calibration")
    made = shipped()
    assert found.kind == "calibration"
    assert made.graph_sha256 == graph_sha256(graph(SHIPPED))
    assert made.drop is not None
    assert made.drop.count == 100
    assert made.drop.mean <= 0.03
    assert made.drop.worst <= 0.1
    assert not made.over_budget
    assert len(made.faces) >= 64
    assert made.int8_share >= 0.8


def test_shipped_drop_on_public_samples(tmp_path: Path, samples: Path) -> None:
    path = save(quantized(SHIPPED), tmp_path / "edge.int8.onnx")
    for name in ("hopper-face.png", "astronaut-face.png"):
        truth, batch = images.read(samples / "gt" / name).pixels, low(samples / "lq" / name)
        tile = (batch.shape[2], batch.shape[3])
        models = (weights.DEFAULT, path)
        before, after = (
            psnr(load(model, backend="openvino", device="cpu", tile=tile).run(batch)[0].transpose(1, 2, 0), truth)
            for model in models
        )
        assert before - after < 0.1


@pytest.mark.slow
def test_shipped_drop_on_the_pairs(shared_data: Path) -> None:
    """What ``edge.calibration.json`` says, measured again through both compiled engines."""
    from bfsr_edge.calibrate.measure import compare, read_pairs, score

    pairs, _ = read_pairs(shared_data / "val" / "LQ", shared_data / "val" / "GT")
    proto = graph(SHIPPED)
    drop = compare(score(proto, pairs), score(place(proto, shipped()), pairs), pairs)
    assert drop.mean <= 0.03
    assert drop.worst <= 0.1
    said = shipped().drop
    assert said is not None
    assert drop.mean == pytest.approx(said.mean, abs=0.005)


# ---- what a graph is


def test_hash_is_of_what_is_computed(tmp_path: Path) -> None:
    """Not of how numbers are stored, what nodes are called, the tile, or the metadata."""
    proto = graph("edge-unet")
    known = graph_sha256(proto)
    assert graph_sha256(plain(proto)) == known
    other = graph("edge-unet")
    for place_ in (2, 3):
        other.graph.input[0].type.tensor_type.shape.dim[place_].dim_value = 64
    for index, node in enumerate(other.graph.node):
        node.name = f"node {index}"
    del other.metadata_props[:]
    for tensor in other.graph.initializer:
        renamed = f"another.{tensor.name}"
        for node in other.graph.node:
            for index, entry in enumerate(node.input):
                if entry == tensor.name:
                    node.input[index] = renamed
        tensor.name = renamed
    assert graph_sha256(other) == known
    onnx.save(proto, str(tmp_path / "it.onnx"), save_as_external_data=True, location="it.weights", size_threshold=0)
    assert (tmp_path / "it.weights").stat().st_size > 1000
    assert graph_sha256(read(tmp_path / "it.onnx")) == known


def test_hash_sees_a_weight_and_an_attribute() -> None:
    known = graph_sha256(graph("edsr"))
    weight = graph("edsr")
    tensor = next(entry for entry in weight.graph.initializer if entry.name == "conv_last.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-6), tensor.name))
    attribute = graph("edsr")
    node = next(entry for entry in attribute.graph.node if entry.op_type == "DepthToSpace")
    next(entry for entry in node.attribute if entry.name == "mode").s = b"DCR"
    assert len({known, graph_sha256(weight), graph_sha256(attribute)}) == 3


def test_hash_of_fp16_storage() -> None:
    """A weight kept as FP16 with a Cast counts as the float32 values that it stands for."""
    proto = graph("edsr")
    folded = plain(proto)
    for tensor in folded.graph.initializer:
        if len(tensor.dims) == 4:
            rounded = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), tensor.name))
    stored = onnx.ModelProto()
    stored.CopyFrom(folded)
    casts = []
    for tensor in stored.graph.initializer:
        if len(tensor.dims) == 4:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}/Cast", to=TensorProto.FLOAT))
    nodes = [*casts, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in stored.graph.node)]
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    onnx.checker.check_model(stored)
    assert graph_sha256(stored) == graph_sha256(folded) != graph_sha256(proto)


# ---- what is refused


def test_another_graph_is_refused() -> None:
    with pytest.raises(ModelError, match="does not belong to this graph") as caught:
        place(graph("edsr"), calibration(graph("edge-unet")))
    assert "bfsr-edge calibrate" in caught.value.fix


def test_a_scale_of_zero() -> None:
    proto = graph("edsr")
    made = calibration(proto)
    bad = dataclasses.replace(made, scales={**made.scales, next(iter(made.scales)): 0.0})
    with pytest.raises(ModelError, match=r"the calibration's scale of .* is "):
        place(proto, bad)


def test_calibrations_that_do_not_fit() -> None:
    proto = graph("edsr")
    made = calibration(proto)
    with pytest.raises(ModelError, match="excludes a layer that is not there: /nothing"):
        place(proto, dataclasses.replace(made, excluded=("/nothing",)))
    fewer = dict(list(made.scales.items())[:-2])
    with pytest.raises(ModelError, match="has no scale for"):
        place(proto, dataclasses.replace(made, scales=fewer))


def test_graphs_that_are_refused(tmp_path: Path) -> None:
    content = exported("edsr")
    for size in (0, 10, len(content) // 2, len(content) - 100):
        (tmp_path / "cut.onnx").write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            read(tmp_path / "cut.onnx")
    for opset in (18, 23):
        newer = graph("edsr")
        newer.opset_import[0].version = opset
        with pytest.raises(ModelError, match=rf"is written in ONNX opset {opset}, and INT8 needs 19 or 20"):
            read(save(newer, tmp_path / "opset.onnx"))
    for value in ("input", "output"):
        fixed = graph("edsr")
        getattr(fixed.graph, value)[0].type.tensor_type.shape.dim[0].dim_value = 1
        with pytest.raises(ModelError, match=f"no dynamic batch axis: {value} is fixed to 1"):
            check(fixed)
    with pytest.raises(ModelError, match="quantized already"):
        check(quantized("edsr"))
    pixels = graph("edsr")
    pixels.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(ModelError, match="input of the graph is not float32"):
        check(pixels)
    with pytest.raises(ModelError, match="belong to this graph"):
        place(to_fp16(graph("edsr")), calibration(graph("edsr")))
