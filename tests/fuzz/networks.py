"""Weights, graphs, engines and tars of faces: whole ones, for the mutations to damage, and ones made to do harm."""

from __future__ import annotations

import functools
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz import mutations, real

SETTINGS = {"blocks": 1, "channels": 4}
TILE = 32


def nearest() -> onnx.ModelProto:
    """A network that repeats each pixel 4×4, so that its results are known."""
    weight = np.zeros((48, 3, 1, 1), np.float32)
    weight[np.arange(48), np.arange(48) // 16] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "weight"], ["conv"]),
            helper.make_node("DepthToSpace", ["conv"], ["output"], blocksize=4, mode="CRD"),
        ],
        "nearest",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, TILE, TILE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 3, 4 * TILE, 4 * TILE])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    about = {"scale": 4, "stride": 1, "receptive_field": 1, "name": "nearest"}
    helper.set_model_props(model, {f"bfsr_edge.{key}": str(value) for key, value in about.items()})
    return model


def onnx_file(random: random.Random) -> bytes:
    """``nearest`` with one field changed through protobuf, or its bytes damaged."""
    model = nearest()
    graph = model.graph
    weight = graph.initializer[0]
    number = random.choice(mutations.NUMBERS)

    def dim(value: onnx.ValueInfoProto) -> None:
        random.choice(value.type.tensor_type.shape.dim).dim_value = number

    def external() -> None:
        weight.data_location = TensorProto.EXTERNAL
        weight.ClearField("raw_data")
        where = ("../../../../etc/passwd", "/etc/passwd", "weights.bin", "", ".", "a/../../x", "\0", "x" * 5000)
        for key, value in (("location", random.choice(where)), ("offset", str(number)), ("length", str(-number))):
            weight.external_data.add(key=key, value=value)

    def attribute() -> None:
        for node in graph.node:
            for entry in node.attribute:
                entry.i = number

    def property_() -> None:
        random.choice(model.metadata_props).value = random.choice((str(number), f"-{number}", "1e9", "", "9" * 5000))

    changes: list[Callable[[], object]] = [
        lambda: dim(graph.input[0]),
        lambda: dim(graph.output[0]),
        lambda: weight.dims.__setitem__(random.randrange(4), number),
        lambda: weight.dims.append(number),
        lambda: setattr(weight, "data_type", random.randrange(30)),
        lambda: setattr(weight, "raw_data", weight.raw_data[: random.randrange(576)]),
        external,
        external,
        attribute,
        property_,
        property_,
        lambda: graph.node.reverse(),
        lambda: graph.node.pop(),
        lambda: graph.node[0].input.append("output"),
        lambda: setattr(graph.node[0], "op_type", random.choice(("If", "Loop", "Div", "Reshape", "Nothing", ""))),
        lambda: setattr(model.opset_import[0], "version", number),
        lambda: setattr(graph.input[0].type.tensor_type, "elem_type", random.randrange(30)),
        lambda: graph.input.append(graph.input[0]),
        lambda: graph.ClearField("output"),
    ]
    if random.random() < 0.6:
        random.choice(changes)()
        return bytes(model.SerializeToString())
    return mutations.mutate(model.SerializeToString(), "", (), random)


def safetensors_file(random: random.Random) -> bytes:
    """A checkpoint of ours with one thing in its header changed, or its bytes damaged."""
    content = checkpoint()
    (size,) = struct.unpack_from("<Q", content)
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    about = header["__metadata__"]
    names = [name for name in header if name != "__metadata__"]
    number = random.choice(mutations.NUMBERS)
    settings: tuple[object, ...] = (
        {"blocks": number, "channels": 4}, {"blocks": 1, "channels": number}, {"blocks": -1}, {"blocks": 1.5}, {"x": 1},
        [], None, {"blocks": "1"}, {"mean": [1], "std": [0, 0, 0]}, {"dropout": float("nan")}, {"channels": [4]},
    )  # fmt: skip

    def entry(key: str, value: object) -> None:
        header[random.choice(names)][key] = value

    changes: list[Callable[[], object]] = [
        lambda: about.update(settings=json.dumps(random.choice(settings))),
        lambda: about.update(settings=json.dumps(random.choice(settings))),
        lambda: about.update(settings="[" * 100_000),
        lambda: about.update(architecture=random.choice(("edsr", "edge-unet", "", "../x"))),
        lambda: (
            about.update(settings=json.dumps({"widths": [number] * 3, "encoder": [1] * 3, "decoder": [1] * 2}))
            or about.update(architecture="edge-unet")
        ),
        lambda: about.pop(random.choice(sorted(about))),
        lambda: entry("shape", [number, number]),
        lambda: entry("data_offsets", [0, number]),
        lambda: entry("dtype", random.choice(("F64", "I8", "BF16", "F8_E4M3", "X"))),
        lambda: header.pop(random.choice(names)),
        lambda: header.update({"more": header[names[0]]}),
    ]
    if random.random() < 0.6:
        random.choice(changes)()
        written = json.dumps(header).encode()
        return struct.pack("<Q", len(written)) + written + content[8 + size :]
    if random.random() < 0.2:
        return struct.pack("<Q", random.choice((*mutations.NUMBERS, 1 << 40, (1 << 64) - 1))) + content[8:]
    return mutations.mutate(content, "", (), random)


@functools.cache
def checkpoint() -> bytes:
    """A small checkpoint of ours, in safetensors, made without torch."""
    from safetensors.numpy import save

    tensors = {name: np.zeros(shape, np.float32) for name, shape in _shapes().items()}
    about = {"format": "bfsr-edge", "version": "1", "architecture": "msrresnet", "settings": json.dumps(SETTINGS)}
    content = bytes(save(tensors, about))
    (size,) = struct.unpack_from("<Q", content)
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()  # else in an order by chance
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _shapes() -> dict[str, tuple[int, ...]]:
    width = SETTINGS["channels"]
    layers = {
        "conv_first": (width, 3), "trunk_net.0.conv1": (width, width), "trunk_net.0.conv2": (width, width),
        "upsample1.upsample_conv": (4 * width, width), "upsample2.upsample_conv": (4 * width, width),
        "conv_hr": (width, width), "conv_last": (3, width),
    }  # fmt: skip
    weights = {f"{name}.weight": (*sides, 3, 3) for name, sides in layers.items()}
    return {**weights, **{f"{name}.bias": (sides[0],) for name, sides in layers.items()}}


def published_file(random: random.Random) -> bytes:
    """A .pth with tensors of odd names and shapes, or its bytes damaged. Needs torch."""
    import torch

    tensors = {name: torch.zeros(shape) for name, shape in _shapes().items()}
    number = random.choice(mutations.NUMBERS)
    changes: list[Callable[[], object]] = [
        lambda: tensors.update({f"trunk_net.{number}.conv1.weight": torch.zeros(4, 4, 3, 3)}),
        lambda: tensors.update({"conv_first.weight": torch.zeros(1).expand(number, 3, 3, 3)}),
        lambda: tensors.update({"conv_first.weight": torch.zeros(random.choice(((), (3,), (0, 3, 3, 3))))}),
        lambda: tensors.pop(random.choice(sorted(tensors))),
        lambda: tensors.update({"conv_hr.bias": torch.zeros(4, dtype=torch.complex64)}),
    ]
    random.choice(changes)()
    content = io.BytesIO()
    torch.save({"state_dict": tensors}, content)
    if random.random() < 0.5:
        return mutations.mutate(content.getvalue(), "", (), random)
    return content.getvalue()


def tar_file(random: random.Random) -> bytes:
    """A tar of faces with odd members, or its bytes damaged."""
    content = io.BytesIO()
    face = real.pictures()["ours.png"]
    with tarfile.open(
        fileobj=content, mode="w:", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as tar:
        for name in random.sample(
            ("a.png", "../../escape.png", "/tmp.png", "b" * 300 + ".png", "é.png", "sub/c.jpg", "d.txt"), 3
        ):
            member = tarfile.TarInfo(name)
            member.size = len(face)
            tar.addfile(member, io.BytesIO(face))
        member = tarfile.TarInfo(random.choice(("link.png", "device.png", "folder.png")))
        member.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"Z"))
        member.linkname = "/etc/passwd"
        tar.addfile(member)
        empty = tarfile.TarInfo("empty.png")
        tar.addfile(empty)
    if random.random() < 0.6:
        return mutations.mutate(content.getvalue(), "", (), random)
    return content.getvalue()


@functools.cache
def calibration() -> dict[str, Any]:
    """What ships, shortened."""
    path = Path(__file__).resolve().parents[2] / "bfsr_edge" / "weights" / "edge.calibration.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {**content, "faces": content["faces"][:2], "layers": content["layers"][:2]}


def sidecar() -> dict[str, Any]:
    """Of an engine for this machine."""
    from bfsr_edge.runtime import machine

    return {
        "version": 1, "name": "edge", "flavour": "openvino", "flavour_version": "2026.1.0", "precision": "fp32",
        "plan_sha256": "0" * 64, "onnx_sha256": "0" * 64, "tile": [32, 32], "batch": [1, 1, 1], "scale": 4, "stride": 1,
        "receptive_field": 1, "system": machine.system(), "target": "cpu", "rebuild": "bfsr-edge build-engine",
        "io": "float32", "sm": [], "gpu": "", "cuda": "", "driver": "", "version_compatible": False,
        "weakly_typed": False, "calibration_sha256": "", "options": {}, "psnr_drop": None, "created": "",
        "bfsr_edge": "",
    }  # fmt: skip
