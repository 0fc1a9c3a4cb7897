"""The wheel works on its own: built, installed in a clean environment, used from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ".", cwd=checkout)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment that holds the wheel and its core dependencies."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder.parent)
    try:
        run(python, "-c", "import cv2", cwd=folder)
    except AssertionError:  # no libGL: what the README says to do on a machine without a screen
        run(python, "-m", "pip", "uninstall", "--yes", "opencv-python", cwd=folder)
        run(python, "-m", "pip", "install", "-c", ROOT / "constraints.txt", "opencv-python-headless", cwd=folder)
    return python


def test_wheel_holds_what_is_needed_and_no_more(wheel: Path, tracked: list[Path]) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not {name for name in names if not name.startswith(("bfsr_edge/", "bfsr_edge-"))}
    assert "bfsr_edge/py.typed" in names
    for name in tracked:
        if name.parts[0] in ("train", "calibrate", "engines", "benchmarks") and name.suffix == ".toml":
            assert f"bfsr_edge/data/{name.as_posix()}" in names
        if name.parts[0] == "bfsr_edge":
            assert name.as_posix() in names


def test_commands_run_elsewhere(python: Path, tmp_path: Path) -> None:
    command = python.with_name("bfsr-edge")
    assert "restore" in run(command, "--help", cwd=tmp_path)
    assert run(command, "restore", "--list-models", cwd=tmp_path).split()[0] == "edge"
    assert not list(tmp_path.iterdir())


def test_recipes_have_names_elsewhere(python: Path, tmp_path: Path) -> None:
    code = "from bfsr_edge.resources import *; print(*(find_toml('train', n) for n in list_tomls('train')), sep='\\n')"
    found = run(python, "-c", code, cwd=tmp_path).splitlines()
    assert [Path(line).stem for line in found] == sorted(path.stem for path in (ROOT / "train").glob("*.toml"))
    assert all("site-packages" in line for line in found)


def test_demo_from_the_wheel(python: Path, tmp_path: Path) -> None:
    """Without torch, in a folder that is not the checkout, every sample gains."""
    out = run(python, ROOT / "tools" / "demo.py", cwd=tmp_path)
    assert out.count(" dB") == 3 * 3
    assert (tmp_path / "results" / "before-after.png").is_file()
    run(python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)", cwd=tmp_path)


@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_the_core_installs_on_a_jetson(wheel: Path, tmp_path: Path, version: str) -> None:
    """Every core requirement has a wheel for aarch64: Python of JetPack 6 (glibc 2.35) and of JetPack 7."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    core = [need.partition(";")[0].strip() for need in needs if "extra ==" not in need and "python_version" not in need]
    assert len(core) >= 8
    tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 36)] + ["--platform=manylinux2014_aarch64"]
    place: list[str | Path] = ["--target", tmp_path / "site", "--implementation=cp", f"--python-version={version}"]
    said = run(
        sys.executable, "-m", "pip", "install", "--dry-run", "--only-binary=:all:", *place, *tags, *core, cwd=tmp_path
    )
    assert "Would install" in said
    assert "openvino-2" in said
