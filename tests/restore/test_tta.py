"""Test-time augmentation: a picture and its mirror image are restored alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from bfsr_edge import images, load, restore
from bfsr_edge.cli import main

Photo = Callable[..., npt.NDArray[Any]]
BACKENDS = [("openvino", {}), ("openvino", {"streams": 2}), ("onnxruntime", {})]


@pytest.mark.parametrize(("backend", "options"), BACKENDS)
def test_it_is_the_mean_of_both_views(backend: str, options: dict[str, int], convolutions: Path) -> None:
    pytest.importorskip(backend)
    batch = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    given = batch.copy()
    plain, twice = (load(convolutions, backend=backend, tta=tta, **options) for tta in (False, True))
    mirrored = plain.run(np.ascontiguousarray(batch[..., ::-1]))[..., ::-1]
    np.testing.assert_array_equal(twice.run(batch), (plain.run(batch) + mirrored) * np.float32(0.5))
    np.testing.assert_array_equal(batch, given)
    assert (twice.info, twice.streams) == (plain.info, plain.streams)


def test_a_mirrored_picture_gives_the_mirrored_result(convolutions: Path, photo: Photo) -> None:
    image = photo(32, 32)
    for tta in (False, True):
        engine = load(convolutions, tta=tta)
        result, other = restore(image, engine), restore(np.ascontiguousarray(image[:, ::-1]), engine)
        assert np.array_equal(result, other[:, ::-1]) is tta


def test_the_command_and_what_its_results_remember(convolutions: Path, photo: Photo, tmp_path: Path) -> None:
    images.write(tmp_path / "in" / "a.png", photo(40, 40))

    def run(*options: str) -> dict[str, Any]:
        words = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", str(convolutions)]
        result = CliRunner().invoke(main, [*words, "--json", "--faces", "off", "--overlap", "8", "-q", *options])
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    assert run()["files"][0]["status"] == "restored"
    plain = images.read(tmp_path / "out" / "a.png").pixels
    anew = run("--tta")
    assert anew["files"][0]["reason"].startswith("made anew")
    assert anew["options"]["tta"] is True
    assert not np.array_equal(images.read(tmp_path / "out" / "a.png").pixels, plain)
    assert run("--tta")["files"][0]["status"] == "skipped"
    assert run()["files"][0]["reason"].startswith("made anew")
    np.testing.assert_array_equal(images.read(tmp_path / "out" / "a.png").pixels, plain)
