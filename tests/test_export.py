"""Checkpoint to ONNX: what the file holds, what is checked, and that nothing is left of a failed export."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from bfsr_edge import export as exporting
from bfsr_edge import weights
from bfsr_edge.cli import main
from bfsr_edge.errors import BfsrError, ModelError, UsageError
from bfsr_edge.export import Exported, export
from bfsr_edge.runtime import load
from bfsr_edge.weights import sha256_of

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parent.parent

NETWORKS: dict[str, dict[str, Any]] = {
    "edge-unet": {"widths": [4, 4, 8, 8], "encoder": [0, 0, 0, 1], "decoder": [1, 0, 0]},
    "msrresnet": {"blocks": 1, "channels": 8},
    "edsr": {"blocks": 1, "channels": 8},
}
PLAIN = {"Add", "Cast", "Concat", "Constant", "Conv", "DepthToSpace", "LeakyRelu", "Mul", "Relu", "Resize", "Sub"}


@pytest.fixture(params=NETWORKS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny network of each architecture, random but for its zero biases."""
    return make(request.param, tmp_path)


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    return make("edge-unet", tmp_path)


def make(architecture: str, folder: Path) -> Path:
    import torch

    from bfsr_edge.models import create, save_checkpoint

    torch.manual_seed(1)
    path = folder / f"{architecture}.safetensors"
    save_checkpoint(path, create(architecture, **NETWORKS[architecture]), {"recipe": "none"})
    return path


def metadata(path: Path) -> dict[str, str]:
    return {entry.key.removeprefix("bfsr_edge."): entry.value for entry in onnx.load(path).metadata_props}


def shape(value: onnx.ValueInfoProto) -> list[Any]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("fp16_weights", [False, True], ids=["fp32", "fp16"])
def test_the_file(checkpoint: Path, tmp_path: Path, fp16_weights: bool) -> None:
    done = export(checkpoint, tmp_path / "out" / "it.onnx", tile=(32, 48), fp16_weights=fp16_weights)
    proto = onnx.load(done.path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    assert (proto.graph.input[0].name, shape(proto.graph.input[0])) == ("input", ["N", 3, 32, 48])
    assert (proto.graph.output[0].name, shape(proto.graph.output[0])) == ("output", ["N", 3, 128, 192])
    assert {node.op_type for node in proto.graph.node} <= PLAIN
    assert all(node.name for node in proto.graph.node)
    assert {
        onnx.helper.get_node_attr_value(node, "mode") for node in proto.graph.node if node.op_type == "DepthToSpace"
    } == {b"CRD"}
    told = metadata(done.path)
    assert told.pop("settings")
    assert (told["architecture"], told["name"], told["scale"]) == (checkpoint.stem, checkpoint.stem, "4")
    assert told["checkpoint_sha256"] == sha256_of(checkpoint)
    assert (done.sha256, done.size) == (sha256_of(done.path), done.path.stat().st_size)
    assert set(done.errors) == {"openvino", "onnxruntime"}
    assert max(done.errors.values()) < 0.01
    assert (done.rounding is not None) == fp16_weights
    assert [entry.name for entry in done.path.parent.iterdir()] == ["it.onnx"]


def test_settings_rebuild_the_network(edge: Path, tmp_path: Path) -> None:
    from bfsr_edge.models import create

    told = metadata(export(edge, tmp_path / "it.onnx", tile=32).path)
    network: Any = create(told["architecture"], **json.loads(told["settings"]))
    assert (str(network.stride), str(network.receptive_field)) == (told["stride"], told["receptive_field"])


def test_nodes_are_named_after_their_modules(edge: Path, tmp_path: Path) -> None:
    names = [node.name for node in onnx.load(export(edge, tmp_path / "it.onnx", tile=32).path).graph.node]
    assert "/head/Conv" in names
    assert "/encoder.3/encoder.3.0/conv2/Conv" in names


def test_the_same_checkpoint_gives_the_same_file(edge: Path, tmp_path: Path) -> None:
    first, second = (export(edge, tmp_path / f"{name}.onnx", tile=32, name="it") for name in "ab")
    assert first.sha256 == second.sha256


def test_fp16_weights(edge: Path, tmp_path: Path) -> None:
    """Half the bytes, and the numbers of a network whose weights were rounded to fp16 beforehand."""
    from bfsr_edge.models import load_checkpoint, save_checkpoint

    half = tmp_path / "half.safetensors"
    save_checkpoint(half, load_checkpoint(edge), half=True)
    small = export(edge, tmp_path / "small.onnx", tile=32, fp16_weights=True).path
    large = export(half, tmp_path / "large.onnx", tile=32).path
    stored = {tensor.data_type for tensor in onnx.load(small).graph.initializer if len(tensor.dims)}
    assert stored == {onnx.TensorProto.FLOAT16}
    batch = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    for backend in ("openvino", "onnxruntime"):
        engine = load(small, backend=backend)
        assert engine.info.precision == "fp32"
        np.testing.assert_allclose(engine.run(batch), load(large, backend=backend).run(batch), atol=1e-6)


def test_weights_too_large_for_fp16(edge: Path, tmp_path: Path) -> None:
    import torch

    from bfsr_edge.models import load_checkpoint, save_checkpoint

    network: Any = load_checkpoint(edge)
    with torch.no_grad():
        network.head.bias[0] = 1e6
    save_checkpoint(edge, network)
    with pytest.raises(ModelError, match=r"head\.bias is too large for fp16"):
        export(edge, tmp_path / "it.onnx", tile=32, fp16_weights=True)


def test_default_name(edge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(edge, tile=32).path == Path("edge-unet.onnx")


def test_a_graph_that_differs_is_not_written(edge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong translation is simulated by one changed weight; the older file stays."""
    out = tmp_path / "it.onnx"
    out.write_bytes(b"older")
    describe = exporting._describe

    def spoil(proto: onnx.ModelProto, *rest: Any) -> None:
        tensor = next(entry for entry in proto.graph.initializer if entry.name == "tail.bias")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.001), tensor.name))
        describe(proto, *rest)

    monkeypatch.setattr(exporting, "_describe", spoil)
    with pytest.raises(ModelError, match=r"differs from torch by 0\.255/255 in openvino"):
        export(edge, out, tile=32)
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge-unet.safetensors", "it.onnx"]


def test_a_network_that_cannot_be_traced(edge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bfsr_edge import models

    network: Any = models.load_checkpoint(edge)
    network.forward = lambda _x: 1 / 0
    monkeypatch.setattr(models, "load_checkpoint", lambda _path: network)
    with pytest.raises(ModelError, match="edge-unet cannot be exported"):
        export(edge, tmp_path / "it.onnx", tile=32)
    assert not (tmp_path / "it.onnx").exists()


def test_wrong_usage(edge: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        export(edge, tmp_path / "it.pb")
    with pytest.raises(UsageError, match="does not fit this network"):
        export(edge, tmp_path / "it.onnx", tile=20)
    graph = export(edge, tmp_path / "it.onnx", tile=32).path
    with pytest.raises(UsageError, match="is not a checkpoint"):
        export(graph, tmp_path / "again.onnx")


def test_command(edge: Path, tmp_path: Path) -> None:
    out = tmp_path / "it.onnx"
    done = CliRunner().invoke(
        main, ["export", "--model", str(edge), "--out", str(out), "--tile", "32", "--fp16-weights"]
    )
    assert done.exit_code == 0, done.output
    assert "edge-unet: " in done.output
    assert "parameters" in done.output
    assert "GMAC at 32×32" in done.output
    assert "/255 in openvino" in done.output
    assert f"sha256 {sha256_of(out)}" in done.output
    wrong = CliRunner().invoke(main, ["export", "--model", "nothing.safetensors"])
    assert (wrong.exit_code, "no file nothing.safetensors" in wrong.output) == (2, True)


def test_a_place_that_cannot_be_written_to(edge: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    words = ["export", "--model", str(edge), "--interpolate", str(edge), "--alpha", "0.5", "--out"]
    for name in ("it.onnx", "it.safetensors"):
        done = CliRunner().invoke(main, [*words, str(blocked / name)])
        assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
        assert f"cannot write {blocked / name}\n" in done.output
        assert "choose another --out" in done.output


@pytest.mark.parametrize("name", ["it.onnx", "it.safetensors"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk(edge: Path, tmp_path: Path, name: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays, and no temporary file does."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / name
    target.write_text("earlier")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(BfsrError, match="cannot write") as caught:
        export(edge, target, interpolate=edge, alpha=0.5)
    assert caught.value.why == ("No space left on device",)
    assert target.read_text() == "earlier"
    assert [path.name for path in target.parent.iterdir()] == [name]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two networks of one architecture, no weight of which is the same."""
    import torch

    from bfsr_edge.models import create, save_checkpoint

    paths = []
    for seed, name in enumerate(("psnr", "gan")):
        torch.manual_seed(seed)
        network = create("edge-unet", **NETWORKS["edge-unet"])
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.01 * torch.randn(weight.shape))
        paths.append(tmp_path / f"{name}.safetensors")
        save_checkpoint(paths[-1], network, {"recipe": name})
    return paths[0], paths[1]


def test_interpolated(two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is that of the interpolated weights, is checked like any other, and says what it was made from."""
    import torch

    from bfsr_edge.models import load_checkpoint
    from bfsr_edge.models.interpolate import interpolate

    psnr, gan = two
    monkeypatch.chdir(tmp_path)
    done = export(psnr, tile=32, interpolate=gan, alpha=0.25)
    assert done.path == Path("psnr-gan-0.25.onnx")
    assert set(done.errors) == {"openvino", "onnxruntime"}
    told = metadata(done.path)
    assert told["name"] == "psnr-gan-0.25"
    assert told["checkpoint_sha256"] == sha256_of(psnr)
    assert told["interpolated_sha256"] == sha256_of(gan)
    assert float(told["interpolation_alpha"]) == 0.25
    batch = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = interpolate(load_checkpoint(psnr), load_checkpoint(gan), 0.25)(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(load(done.path).run(batch), expected, atol=1e-5)


def test_interpolated_checkpoint(two: tuple[Path, Path], tmp_path: Path) -> None:
    """At alpha 0 and 1 it holds one end's weights bit for bit; it can be exported like any other."""
    from safetensors.numpy import load_file

    from bfsr_edge.models import read_header

    psnr, gan = two
    for alpha, end in ((0.0, psnr), (1.0, gan)):
        out = tmp_path / f"at-{alpha:g}.safetensors"
        assert export(psnr, out, interpolate=gan, alpha=alpha).errors == {}
        ours, theirs = load_file(out), load_file(end)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        header = read_header(out)
        assert (header["checkpoint_sha256"], header["interpolated_sha256"]) == (sha256_of(psnr), sha256_of(gan))
        assert float(header["interpolation_alpha"]) == alpha
        assert "recipe" not in header  # it was trained by neither
    half = export(psnr, tmp_path / "half.safetensors", interpolate=gan, alpha=0.5, fp16_weights=True)
    assert {tensor.dtype for tensor in load_file(half.path).values()} == {np.dtype(np.float16)}
    assert half.rounding is not None
    assert metadata(export(out, tmp_path / "again.onnx", tile=32).path)["checkpoint_sha256"] == sha256_of(out)


def test_what_cannot_be_interpolated(two: tuple[Path, Path], tmp_path: Path) -> None:
    psnr, gan = two
    out = tmp_path / "it.onnx"
    with pytest.raises(ModelError, match="no weights in common"):
        export(psnr, out, tile=32, interpolate=make("msrresnet", tmp_path), alpha=0.5)
    halves: tuple[dict[str, Any], ...] = ({"interpolate": gan}, {"alpha": 0.5})
    for half in halves:
        with pytest.raises(UsageError, match="both another model and its weight"):
            export(psnr, out, tile=32, **half)
    both: dict[str, Any] = {"interpolate": gan, "alpha": 0.5}
    with pytest.raises(UsageError, match="neither a name nor a tile"):
        export(psnr, tmp_path / "it.safetensors", name="it", **both)
    before = sha256_of(gan)
    with pytest.raises(UsageError, match="is one of the two checkpoints"):
        export(psnr, gan, **both)
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        export(psnr, tmp_path / "it.safetensors")
    assert sha256_of(gan) == before
    assert not out.exists()
    assert not (tmp_path / "it.safetensors").exists()


def test_interpolating_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    psnr, gan = map(str, two)
    out = tmp_path / "between.safetensors"
    words = ["export", "--model", psnr, "--interpolate", gan, "--out", str(out)]
    done = CliRunner().invoke(main, [*words, "--alpha", "0.2"])
    assert done.exit_code == 0, done.output
    assert f"wrote {out}" in done.output
    assert "maximum error" not in done.output  # a checkpoint has no graph to compare
    assert CliRunner().invoke(main, words).exit_code == 2
    assert CliRunner().invoke(main, [*words, "--alpha", "1.5"]).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["edge-unet", "msrresnet", "edsr"])
def test_full_size(architecture: str, tmp_path: Path) -> None:
    """The networks as they are trained, at the default tile."""
    from bfsr_edge.models import create, save_checkpoint

    path = tmp_path / "it.safetensors"
    save_checkpoint(path, create(architecture))
    done: Exported = export(path, tmp_path / "it.onnx", fp16_weights=True)
    assert done.tile == (128, 128)
    assert done.size < 2.2 * done.parameters
    assert max(done.errors.values()) < 0.01


def test_shipping(edge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tools/ship_weights.py writes what ``weights`` and ``runtime`` accept."""
    found = importlib.util.spec_from_file_location("ship_weights", ROOT / "tools" / "ship_weights.py")
    assert found
    assert found.loader
    tool = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"version": 1, "models": []}')
    monkeypatch.setattr(weights, "FOLDER", folder)
    arguments = [str(edge), "--name", "tiny", "--summary", "for tests", "--score", "val_psnr=29.5"]
    assert tool.main(arguments) == 0
    assert tool.main([*arguments[:-1], "val_psnr=30"]) == 0  # replaced, not added
    (entry,) = weights.list_models()
    assert (entry.name, entry.scores, entry.architecture) == ("tiny", {"val_psnr": 30}, "edge-unet")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tiny.onnx", "tiny.safetensors"]
    assert metadata(folder / "tiny.onnx")["checkpoint_sha256"] == entry.files["checkpoint"].sha256
    batch = np.random.default_rng(0).random((1, 3, 128, 128), dtype=np.float32)
    np.testing.assert_allclose(load("tiny").run(batch), load("tiny", backend="torch").run(batch), atol=2e-5)
    assert (folder / "tiny.onnx").stat().st_size < 0.1 * (folder / "tiny.safetensors").stat().st_size + 20_000
    (folder / "tiny.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"tiny\.safetensors is not what the manifest lists"):
        load("tiny")
    assert tool.main([*arguments[:-1], "29.5"]) == 2
    assert tool.main(["nothing.safetensors", "--summary", ""]) == 1
