"""tools/mean_weights.py: the mean of what differs, and bit by bit what is equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from bfsr_edge.models import Network, create, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
SETTINGS = {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]}


def run(*words: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/mean_weights.py"), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_mean_of_two_networks(tmp_path: Path) -> None:
    networks: list[Network] = []
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        network = create("edge-unet", **SETTINGS)
        if networks:
            with torch.no_grad():
                dict(network.named_parameters())["head.weight"].copy_(networks[0].state_dict()["head.weight"])
        save_checkpoint(tmp_path / f"{name}.safetensors", network)
        networks.append(network)
    done = run(*(tmp_path / f"{name}.safetensors" for name in ("mean", "a", "b")))
    assert done.returncode == 0, done.stderr
    found = load_checkpoint(tmp_path / "mean.safetensors").state_dict()
    one, other = (network.state_dict() for network in networks)
    assert torch.equal(found["head.weight"], one["head.weight"])
    for name, weight in found.items():
        torch.testing.assert_close(weight, (one[name] + other[name]) / 2)
    assert not torch.equal(found["tail.weight"], one["tail.weight"])


def test_other_networks_and_missing_files_are_refused(tmp_path: Path) -> None:
    for name, settings in (("a", SETTINGS), ("b", SETTINGS | {"decoder": [2]})):
        save_checkpoint(tmp_path / f"{name}.safetensors", create("edge-unet", **settings))
    done = run(*(tmp_path / f"{name}.safetensors" for name in ("mean", "a", "b")))
    assert (done.returncode, "these are different networks" in done.stderr) == (1, True)
    assert not (tmp_path / "mean.safetensors").exists()
    assert run(tmp_path / "mean.safetensors", tmp_path / "c.safetensors").returncode == 1
