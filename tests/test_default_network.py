"""The network that ships: as good as its documents say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bfsr_edge import weights
from bfsr_edge.cli import main

ROOT = Path(__file__).resolve().parent.parent


def evaluate(low: Path, truth: Path) -> dict[str, float]:
    result = CliRunner().invoke(main, ["evaluate", "--lq", str(low), "--gt", str(truth), "--json"])
    assert result.exit_code == 0, result.output
    summary: dict[str, float] = json.loads(result.stdout)["summary"]
    return summary


@pytest.mark.slow
def test_it_scores_what_its_manifest_and_documents_say(shared_data: Path) -> None:
    summary = evaluate(shared_data / "val" / "LQ", shared_data / "val" / "GT")
    assert summary["n"] == 100
    assert summary["bicubic_psnr"] == pytest.approx(27.266, abs=0.001)
    assert summary["psnr"] >= 29.0
    (entry,) = [model for model in weights.list_models() if model.name == weights.DEFAULT]
    assert entry.scores["val_psnr"] == pytest.approx(summary["psnr"], abs=0.006)
    for document in ("README.md", "train/README.md", "bfsr_edge/weights/MODEL_CARD.md"):
        assert f"{summary['psnr']:.2f} dB" in (ROOT / document).read_text("utf-8"), document


def test_it_beats_bicubic_on_every_public_sample(samples: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", "--lq", str(samples / "lq"), "--gt", str(samples / "gt"), "--json"])
    images = json.loads(result.stdout)["images"]
    assert len(images) == 3
    for image in images:
        assert image["psnr"] > image["bicubic_psnr"] + 0.5, image["name"]


def test_the_recipe_for_going_on_begins_from_it() -> None:
    torch = pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint
    from bfsr_edge.resources import find_toml
    from bfsr_edge.train.begin import new_training
    from bfsr_edge.train.recipe import load_recipe

    training = new_training(load_recipe(find_toml("train", "edge-finetune")), torch.device("cpu"))
    shipped = load_checkpoint(weights.resolve("edge", kind="checkpoint").path).state_dict()
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, shipped[name]), name


def test_both_files_hold_the_same_network() -> None:
    """Shipped as safetensors for torch and as ONNX for the other backends."""
    torch = pytest.importorskip("torch")
    import numpy as np

    from bfsr_edge import load

    assert torch is not None
    batch = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    results = [load("edge", backend=backend).run(batch) for backend in ("openvino", "onnxruntime", "torch")]
    for other in results[1:]:
        assert float(np.abs(other - results[0]).max()) < 0.1 / 255
