"""benchmarks/dead_channels.py: dead channels are found, and revived without a change of what the network makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bfsr_edge.models import create, load_checkpoint, save_checkpoint
from bfsr_edge.models.blocks import ResidualBlock

ROOT = Path(__file__).parents[2]
DEAD = [1, 4, 5]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "lq"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (16, 16, 3), np.uint8))
    return folder


@pytest.fixture
def half_dead(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    network = create("edge-unet", widths=[4, 8], encoder=[0, 1], decoder=[1])
    block: Any = network.get_submodule("encoder.1.0")
    with torch.no_grad():
        block.conv1.bias[DEAD] = -1000
    path = tmp_path / "half-dead.safetensors"
    save_checkpoint(path, network)
    return path


def run(*words: str | Path, status: int = 0) -> str:
    """What it prints, on stderr where it fails."""
    command = [sys.executable, str(ROOT / "benchmarks" / "dead_channels.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_dead_channels_are_revived_and_the_function_stays(pictures: Path, half_dead: Path, tmp_path: Path) -> None:
    revived = tmp_path / "revived.safetensors"
    assert "| `encoder.1.0` | 3 | 8 |" in run("--lq", pictures, "--model", half_dead, "--revive", revived)
    assert "| `encoder.1.0` | 0 | 8 |" in run("--lq", pictures, "--model", revived)
    before, after = load_checkpoint(half_dead), load_checkpoint(revived)
    x = torch.from_numpy(cv2.imread(str(pictures / "a.png"))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(after(x), before(x))
    block = after.get_submodule("encoder.1.0")
    assert isinstance(block, ResidualBlock)
    after(x).square().mean().backward()
    gradient = block.conv2.weight.grad
    assert gradient is not None
    assert bool((gradient[:, DEAD].abs().sum(dim=(0, 2, 3)) > 0).all()), "what was dead learns again"


def test_without_pictures_it_says_so(tmp_path: Path, half_dead: Path) -> None:
    said = run("--lq", tmp_path, "--model", half_dead, status=2)
    assert "there is no PNG" in said
    assert "Traceback" not in said


def test_a_leaky_network_becomes_one_of_relus(pictures: Path, half_dead: Path, tmp_path: Path) -> None:
    given = load_checkpoint(half_dead)
    leaky = create("edge-unet", **given.settings, slope=0.1)
    leaky.load_state_dict(given.state_dict())
    path, plain = tmp_path / "leaky.safetensors", tmp_path / "plain.safetensors"
    save_checkpoint(path, leaky)
    run("--lq", pictures, "--model", path, "--relu", "--revive", plain)
    made = load_checkpoint(plain)
    assert made.settings == given.settings
    x = torch.from_numpy(cv2.imread(str(pictures / "b.png"))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(made(x), given(x))
        assert not torch.allclose(leaky.eval()(x), given(x))
