"""Checkpoints: ours round, published ones in, everything else refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bfsr_edge.errors import ModelError
from bfsr_edge.models import create, load_checkpoint, read_header, save_checkpoint


def outputs_agree(a: torch.nn.Module, b: torch.nn.Module, tolerance: float = 0.0) -> bool:
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max()) <= tolerance


def test_round_trip_keeps_weights_settings_and_provenance(tmp_path: Path) -> None:
    network = create("edge-unet", widths=[4, 8], encoder=[0, 1], decoder=[1]).eval()
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, network, {"recipe": "mine"})
    assert outputs_agree(load_checkpoint(path), network)
    header = read_header(path)
    assert header["recipe"] == "mine"
    assert json.loads(header["settings"])["widths"] == [4, 8]
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"], "a temporary file was left"


def test_half_precision_is_half_the_size_and_loads_as_float32(tmp_path: Path) -> None:
    network = create("msrresnet", blocks=2, channels=16).eval()
    save_checkpoint(tmp_path / "full.safetensors", network)
    save_checkpoint(tmp_path / "half.safetensors", network, half=True)
    loaded = load_checkpoint(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert outputs_agree(loaded, network, 1e-3)
    assert os.path.getsize(tmp_path / "half.safetensors") < 0.6 * os.path.getsize(tmp_path / "full.safetensors")


def test_a_value_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    network = create("msrresnet", blocks=1, channels=4)
    with torch.no_grad():
        next(network.parameters())[0] = 1e6  # fits fp32, not fp16
    save_checkpoint(tmp_path / "full.safetensors", network)
    with pytest.raises(ModelError, match="not a finite"):
        save_checkpoint(tmp_path / "half.safetensors", network, half=True)
    assert not (tmp_path / "half.safetensors").exists()


def mmediting(blocks: int, channels: int = 8) -> dict[str, Tensor]:
    """The real key names of mmediting's MSRResNet."""
    names = ["conv_first"]
    names += [f"trunk_net.{i}.conv{j}" for i in range(blocks) for j in (1, 2)]
    names += ["upsample1.upsample_conv", "upsample2.upsample_conv", "conv_hr", "conv_last"]
    return _tensors(names, channels)


def mmediting_edsr(blocks: int, channels: int = 8) -> dict[str, Tensor]:
    names = ["conv_first", *(f"body.{i}.conv{j}" for i in range(blocks) for j in (1, 2)), "conv_after_body"]
    return _tensors([*names, "upsample.0.upsample_conv", "upsample.1.upsample_conv", "conv_last"], channels)


def basicsr(blocks: int, channels: int = 8) -> dict[str, Tensor]:
    names = ["conv_first", *(f"body.{i}.conv{j}" for i in range(blocks) for j in (1, 2))]
    return _tensors([*names, "upconv1", "upconv2", "conv_hr", "conv_last"], channels)


def basicsr_edsr(blocks: int, channels: int = 8) -> dict[str, Tensor]:
    names = ["conv_first", *(f"body.{i}.conv{j}" for i in range(blocks) for j in (1, 2)), "conv_after_body"]
    return _tensors([*names, "upsample.0", "upsample.2", "conv_last"], channels)


def _tensors(names: list[str], channels: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    out: dict[str, Tensor] = {}
    for name in names:
        last = name.split(".")[-1] in ("upsample_conv", "upconv1", "upconv2") or name in ("upsample.0", "upsample.2")
        shape = (3 if name == "conv_last" else channels * (4 if last else 1), 3 if name == "conv_first" else channels)
        out[f"{name}.weight"] = torch.randn(*shape, 3, 3, generator=generator) * 0.1
        out[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return out


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


OTHER = {"discriminator.conv.weight": torch.zeros(1), "step_counter": torch.zeros(1)}


@pytest.mark.parametrize(
    ("content", "architecture"),
    [
        ({"state_dict": prefixed("generator.", mmediting(3)) | OTHER, "meta": {"epoch": 3}}, "msrresnet"),
        (
            {
                "state_dict": prefixed("generator.", _tensors(["conv_first"], 8))
                | prefixed("generator_ema.", mmediting(3))
            },
            "msrresnet",
        ),
        ({"state_dict": prefixed("generator.", mmediting_edsr(3))}, "edsr"),
        ({"params": {}, "params_ema": basicsr(3)}, "msrresnet"),
        ({"params": basicsr(3)}, "msrresnet"),
        ({"params": basicsr_edsr(3)}, "edsr"),
        (mmediting(3), "msrresnet"),
        (prefixed("module.", mmediting(3)), "msrresnet"),
    ],
    ids=["mmediting", "mmagic-ema", "mmediting-edsr", "basicsr-ema", "basicsr", "basicsr-edsr", "bare", "module"],
)
def test_published_checkpoints_load(tmp_path: Path, content: dict[str, Any], architecture: str) -> None:
    path = tmp_path / "published.pth"
    torch.save(content, path)
    network = load_checkpoint(path)
    assert network.architecture == architecture
    assert network.settings == {"blocks": 3, "channels": 8}
    reference = mmediting(3) if architecture == "msrresnet" else mmediting_edsr(3)
    scaled = 255.0 if "upsample.2.weight" in content.get("params", {}) else 1.0
    state = network.state_dict()
    assert torch.equal(state["conv_first.weight"], reference["conv_first.weight"] * scaled)
    middle = "trunk_net.2.conv2.weight" if architecture == "msrresnet" else "body.2.conv2.weight"
    assert torch.equal(state[middle], reference[middle])


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.target, "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "evil.pth", tmp_path / "victim"
    torch.save({"state_dict": Evil(str(victim))}, path)
    with pytest.raises(ModelError, match="weights only"):
        load_checkpoint(path)
    assert not victim.exists()


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"params": {"layer.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not an MSRResNet or EDSR"):
        load_checkpoint(tmp_path / "other.pth")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(tmp_path / "text.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="something else"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="no checkpoint"):
        load_checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("settings", ["{", '"text"', '{"depth": 3}'])
def test_a_damaged_header_is_an_error_of_ours(tmp_path: Path, settings: str) -> None:
    header = {"format": "bfsr-edge", "version": "1", "architecture": "msrresnet", "settings": settings}
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors", header)
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "x.safetensors")


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    header = {"format": "bfsr-edge", "version": "1", "architecture": "msrresnet", "settings": '{"blocks": 2}'}
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors", header)
    with pytest.raises(ModelError, match="do not fit"):
        load_checkpoint(tmp_path / "x.safetensors")
