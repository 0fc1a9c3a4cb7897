"""The sharper network that ships: what its model card promises."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from bfsr_edge import images, load, restore, weights
from bfsr_edge.cli import main
from bfsr_edge.metrics import psnr

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "bfsr_edge/weights/MODEL_CARD-edge-sharp.md"


def sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian, as benchmarks/naturalness.py has it."""
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


@pytest.mark.parametrize("name", ["astronaut-face.png", "hopper-face.png"])
def test_it_is_sharper_than_edge_and_still_close_to_it(name: str, samples: Path) -> None:
    low = np.asarray(images.read(samples / "lq" / name).pixels[:, :, :3])
    faithful, sharp = (np.asarray(restore(low, load(model), scale=4), np.uint8) for model in ("edge", "edge-sharp"))
    assert sharpness(sharp) > 1.3 * sharpness(faithful)
    assert psnr(sharp, faithful) > 28


def test_what_its_recipe_freezes_is_edges() -> None:
    torch = pytest.importorskip("torch")
    from bfsr_edge.models import load_checkpoint
    from bfsr_edge.resources import find_toml
    from bfsr_edge.train.begin import new_training
    from bfsr_edge.train.recipe import load_recipe

    network = new_training(load_recipe(find_toml("train", "edge-sharp")), torch.device("cpu")).network
    moving = {name: weight.numel() for name, weight in network.named_parameters() if weight.requires_grad}
    mine, edges = (
        load_checkpoint(weights.resolve(n, kind="checkpoint").path).state_dict() for n in ("edge-sharp", "edge")
    )
    assert {name for name in mine if not torch.equal(mine[name], edges[name])} == set(moving)
    for document in (CARD, ROOT / "train/README.md"):
        assert f"{sum(moving.values()):,}" in document.read_text("utf-8"), document


@pytest.mark.slow
def test_it_scores_what_its_manifest_and_documents_say(shared_data: Path) -> None:
    pairs = ["--lq", str(shared_data / "val" / "LQ"), "--gt", str(shared_data / "val" / "GT")]
    result = CliRunner().invoke(main, ["evaluate", *pairs, "--model", "edge-sharp", "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)["summary"]
    (entry,) = [model for model in weights.list_models() if model.name == "edge-sharp"]
    assert entry.scores["val_psnr"] == pytest.approx(summary["psnr"], abs=0.006)
    for document in (CARD, ROOT / "train/README.md", ROOT / "CHANGELOG.md"):
        assert f"{summary['psnr']:.2f} dB" in document.read_text("utf-8"), document
