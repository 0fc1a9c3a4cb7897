"""The linter, the formatter and the type checker as tests, so that `make test` holds them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("arguments", ["ruff check", "ruff format --check", "mypy"])
def test_clean(arguments: str) -> None:
    module = arguments.split()[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: it comes with the test extra, not with test-core")
    run = subprocess.run(
        [sys.executable, "-m", *arguments.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
