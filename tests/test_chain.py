"""The whole chain for a network that a user trained: each command takes the files of the one before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch  # noqa: F401  (marks this file as one that needs it)

from tests.train.helpers import make_faces

ROOT = Path(__file__).resolve().parent.parent
SIDE = 128

NETWORKS = {
    "srresnet": '[network]\narchitecture = "msrresnet"\nsettings = { blocks = 4, channels = 32 }\n',
    "srgan": '[network]\narchitecture = "msrresnet"\nsettings = { blocks = 4, channels = 32 }\n'
    "[loss]\nweight = 0.01\n[adversarial]\ngan = 1e-3\nmatching = 0.05\nchannels = 8\n",
    "edge": "[network]\n"
    "settings = { widths = [32, 64, 96, 128, 128], encoder = [0, 1, 1, 1, 1], decoder = [1, 2, 2, 1] }\n",
}


def bfsr_edge(*arguments: str | Path, cwd: Path, site: Path | None) -> str:
    """Run a command that must succeed; with ``site`` the package that is installed there, else the checkout's."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(site or ROOT)
    environment["BFSR_EDGE_CACHE"] = str(cwd / "cache")
    words = [sys.executable, "-m", "bfsr_edge.cli", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def chain(folder: Path, network: str, site: Path | None = None) -> None:
    """Train 20 steps, export, calibrate, build for a CPU and an RTX card, evaluate, restore."""

    def run(*arguments: str | Path) -> str:
        return bfsr_edge(*arguments, cwd=folder, site=site)

    make_faces(folder / "faces", 8, size=512)
    make_faces(folder / "clean", 3, size=4 * SIDE)  # as the faces, but for their number: moved, so that none is scored
    for path in (folder / "clean").iterdir():
        picture = cv2.imread(str(path))
        assert picture is not None
        cv2.imwrite(str(path), picture[::-1])
    (folder / "mine.toml").write_text(
        f"iterations = 20\nbatch = 2\nvalidate_every = 20\ncheckpoint_every = 20\n{NETWORKS[network]}"
        f"[data]\nsize = {SIDE}\nholdout = 2\nworkers = 0\n"
    )
    run("train", "--recipe", "mine.toml", "--faces", "faces", "--out", "run")
    run("export", "--model", "run/last.safetensors", "--out", "mine.onnx")
    run("degrade", "clean", "--out", "low", "--seed", "1")
    pairs = ("--lq", "low", "--gt", "clean")
    said = run("calibrate", "--faces", "faces", "--model", "mine.onnx", "--plan", "quick", "--count", "4", *pairs)
    assert "dB" in said
    calibration = json.loads((folder / "mine.calibration.json").read_text())
    assert calibration["drop"]["mean"] < 0.1, "a network that hardly learnt anything loses hardly anything"
    run("build-engine", "--int8", "--model", "mine.onnx", "--target", "cpu", "--out", "engines")
    run("build-engine", "--int8", "--model", "mine.onnx", "--target", "rtx-40", "--out", "engines")
    (engine,) = (folder / "engines").glob("*cpu*.engine")
    (plan,) = (folder / "engines").glob("*rtx-40*.engine")
    assert plan.stat().st_size > 100_000
    scored = json.loads(run("evaluate", "--model", engine, *pairs, "--json", "--quiet"))
    assert "int8" in scored["summary"]["engine"]["precision"]
    plain = json.loads(run("evaluate", "--model", "mine.onnx", *pairs, "--json", "--quiet"))
    assert abs(plain["summary"]["psnr"] - scored["summary"]["psnr"]) < 0.1
    run("restore", "low", "--model", engine, "--out", "restored")
    for path in (folder / "low").iterdir():
        restored, small = cv2.imread(str(folder / "restored" / path.name)), cv2.imread(str(path))
        assert restored is not None
        assert small is not None
        assert restored.shape == (4 * SIDE, 4 * SIDE, 3)
        reduced = cv2.resize(restored, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(float) - small).mean() < 20, "the picture that went in"


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_users_network_goes_all_the_way(tmp_path: Path, network: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    chain(tmp_path, network)


@pytest.mark.slow
def test_the_chain_from_an_installed_wheel(checkout: Path, tmp_path: Path) -> None:
    """The wheel's package in a folder of its own; its dependencies are those that are here."""
    pytest.importorskip("tensorrt_rtx")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    words = [sys.executable, "-c", "import bfsr_edge; print(bfsr_edge.__file__)"]
    found = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(site)
    chain(work, "edge", site)
