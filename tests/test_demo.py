from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bfsr_edge.metrics import psnr
from bfsr_edge.restore.options import TILE

ROOT = Path(__file__).resolve().parent.parent


def read_rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def samples_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_samples_come_in_pairs(samples: Path) -> None:
    assert samples_of(samples / "lq") == samples_of(samples / "gt")
    assert len(samples_of(samples / "lq")) == 3


def test_a_sample_needs_tiles(samples: Path) -> None:
    assert min(read_rgb(samples / "lq" / "hopper.png").shape[:2]) > TILE


def test_samples_are_small(samples: Path) -> None:
    assert sum(path.stat().st_size for path in samples.rglob("*")) < 2_000_000


def test_samples_are_what_their_commands_make(tmp_path: Path, samples: Path) -> None:
    """The commands in samples/README.md still make samples/lq; another JPEG encoder may round a little differently."""
    lines = [line for line in (samples / "README.md").read_text("utf-8").splitlines() if line.startswith("bfsr-edge")]
    for line in lines:
        words = line.replace("samples/lq", str(tmp_path)).split()[1:]
        subprocess.run([sys.executable, "-m", "bfsr_edge.cli", *words], cwd=ROOT, check=True, capture_output=True)
    assert samples_of(tmp_path) == samples_of(samples / "lq")
    for name in samples_of(tmp_path):
        assert psnr(read_rgb(tmp_path / name), read_rgb(samples / "lq" / name)) > 40


@pytest.mark.slow
def test_demo_gains_on_every_sample(tmp_path: Path, samples: Path) -> None:
    """Exit code 0 says that each restored sample beats bicubic; nothing but pictures lands in the folder."""
    out = tmp_path / "results"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--out", str(out)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert samples_of(out) == sorted(["before-after.png", "edge-sharp", *samples_of(samples / "lq")])
    assert samples_of(out / "edge-sharp") == samples_of(samples / "lq")
    assert run.stdout.count(" dB") == 3 * 3


@pytest.mark.slow
def test_make_demo_in_a_fresh_clone(checkout: Path, tmp_path: Path) -> None:
    """One command from nothing to restored photographs; a second call is quick."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"]
    for limit in (600, 60):  # seconds; the first includes downloads
        start = time.perf_counter()
        run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
        assert time.perf_counter() - start < limit
    assert (checkout / "results" / "before-after.png").is_file()
