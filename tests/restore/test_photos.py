"""Whole photographs that may not be published; test_command.py holds the stand-ins on made pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result

from bfsr_edge import images


def test_every_photograph_is_restored(shared_data: Path, tmp_path: Path, restore: Callable[..., Result]) -> None:
    """A network that repeats pixels, reduced to the size of the input, gives the input back."""
    result = restore(shared_data / "photos", "-o", tmp_path, "--scale", "1", "--format", "png", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["files"]
    assert len(told) == 9
    for entry in told:
        assert entry["size"] == entry["result_size"]
        source, made = images.read(Path(entry["source"])), images.read(Path(entry["result"]))
        np.testing.assert_array_equal(source.pixels, made.pixels)
