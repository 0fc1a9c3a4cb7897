"""The rules that decide which tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.shared_data
def test_marked(): pass

def test_by_fixture(shared_data): assert shared_data.is_dir()
"""


@pytest.mark.parametrize(
    ("data", "ci", "options", "closing"),
    [
        (False, "", [], "2 skipped, 1 deselected"),
        (False, "true", [], "1 deselected, 2 errors"),
        (True, "true", [], "2 passed, 1 deselected"),
        (True, "", ["--slow"], "3 passed"),
        (True, "", ["--slow", "-m", "slow"], "1 passed, 2 deselected"),
    ],
)
def test_which_tests_run(tmp_path: Path, data: bool, ci: str, options: list[str], closing: str) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path / "tests")
    shutil.copy(Path(__file__).parent.parent / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "test_it.py").write_text(SUITE)
    if data:
        (tmp_path / "data").mkdir()
    environment = {**os.environ, "CI": ci, "BFSR_EDGE_SHARED_DATA": str(tmp_path / "data"), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", *options]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert closing in run.stdout.splitlines()[-1]
    assert ("photographs are not in" in run.stdout) is not data
