"""The challenge's zip: what it holds, that it is whole or absent, and what it may replace."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import helper, numpy_helper, save
from PIL import Image

from bfsr_edge import images, submission
from bfsr_edge.cli import main
from bfsr_edge.errors import BackendError, BfsrError, ImageError, UsageError
from bfsr_edge.pairs import read_rgb
from bfsr_edge.weights import list_models

Pixels = NDArray[np.uint8]


def noise(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def repeated(pictures: Sequence[Pixels]) -> list[Pixels]:
    """A network whose result is known: each pixel 4×4 times."""
    return [picture.repeat(4, 0).repeat(4, 1) for picture in pictures]


@pytest.fixture
def lq(tmp_path: Path) -> Path:
    """Pictures of two sizes and three formats, and a file that is none."""
    folder = tmp_path / "lq"
    for index, (name, size) in enumerate({"b.png": (8, 8), "a.bmp": (8, 8), "c.tif": (6, 10), "d.png": (8, 8)}.items()):
        images.write(folder / name, noise(*size, index))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def write(lq: Path, target: Path, **options: Any) -> None:
    submission.write(target, submission.find_inputs(lq), repeated, read=read_rgb, **options)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_zip(lq: Path, tmp_path: Path) -> None:
    """Flat 8-bit RGB PNGs with the inputs' names and the network's pixels, in a zip that any reader takes."""
    target = tmp_path / "out" / "submission.zip"
    calls: list[None] = []
    write(lq, target, note="it", batch=2, progress=lambda: calls.append(None))
    assert len(calls) == 4
    assert listing(target.parent) == ["submission.zip"]
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["a.png", "b.png", "c.png", "d.png"]
        assert archive.comment == b"bfsr-edge submission: it"
        for picture in submission.find_inputs(lq):
            with Image.open(io.BytesIO(archive.read(f"{picture.stem}.png"))) as result:
                assert (result.format, result.mode) == ("PNG", "RGB")
                assert np.array_equal(np.asarray(result), repeated([read_rgb(picture)])[0])


def test_the_same_pictures_give_the_same_bytes(lq: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write(lq, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_unreadable_pictures_are_all_named_and_nothing_is_written(lq: Path, tmp_path: Path) -> None:
    whole = (lq / "b.png").read_bytes()
    (lq / "b.png").write_bytes(whole[: len(whole) // 2])  # its header is good, its pixels end too early
    images.write(lq / "clear.png", np.zeros((8, 8, 4), np.uint8))
    out = tmp_path / "out"
    with pytest.raises(ImageError, match="2 of 5 pictures cannot be restored") as caught:
        write(lq, out / "submission.zip")
    assert [reason.split(":")[0] for reason in caught.value.why] == ["b.png", "clear.png"]
    assert not out.exists()
    done = run("--lq", lq, "--submission", out / "submission.zip", "--model", "bicubic")
    assert done.exit_code == 1
    assert "b.png" in done.stderr
    assert "clear.png" in done.stderr
    assert not out.exists()


def test_a_network_that_fails_leaves_nothing(lq: Path, tmp_path: Path) -> None:
    target = tmp_path / "submission.zip"
    write(lq, target)
    before = target.read_bytes()

    def failing(pictures: Sequence[Pixels]) -> list[Pixels]:
        if pictures[0].shape == (8, 8, 3):  # the second group, so that the zip was begun
            raise BackendError("out of memory")
        return repeated(pictures)

    with pytest.raises(BackendError):
        submission.write(target, submission.find_inputs(lq), failing, read=read_rgb)
    assert target.read_bytes() == before
    assert listing(tmp_path) == ["lq", "submission.zip"]


def test_a_place_that_cannot_be_written_to(lq: Path, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(BfsrError, match=r"cannot write .*blocked/submission\.zip") as caught:
        write(lq, tmp_path / "blocked" / "submission.zip")
    assert "--submission" in caught.value.fix


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_full_disk(lq: Path, tmp_path: Path) -> None:
    """An earlier submission stays as it is, byte for byte, and nothing is left beside it."""
    import resource

    target = tmp_path / "submission.zip"
    write(lq, target)
    before = target.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 100, hard))
    try:
        with pytest.raises(BfsrError, match=r"cannot write .*submission\.zip") as caught:
            write(lq, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.why == ("File too large",)
    assert target.read_bytes() == before
    assert listing(tmp_path) == ["lq", "submission.zip"]


def test_only_an_earlier_submission_is_replaced(lq: Path, tmp_path: Path) -> None:
    target = tmp_path / "submission.zip"
    write(lq, target)
    (lq / "d.png").unlink()
    write(lq, target)
    with zipfile.ZipFile(target) as archive:
        assert len(archive.namelist()) == 3
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("thesis.txt", "years of work")
    (tmp_path / "text.zip").write_text("no zip at all")
    (tmp_path / "folder.zip").mkdir()
    for name in ("other.zip", "text.zip", "folder.zip"):
        with pytest.raises(UsageError, match="is no submission that this command wrote"):
            write(lq, tmp_path / name)
    assert (tmp_path / "text.zip").read_text() == "no zip at all"
    with zipfile.ZipFile(tmp_path / "other.zip") as archive:
        assert archive.read("thesis.txt") == b"years of work"


def test_wrong_usage(lq: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a submission is a \.zip"):
        submission.check_target(tmp_path / "submission.tar")
    with pytest.raises(UsageError, match="there is no folder"):
        submission.find_inputs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        submission.find_inputs(tmp_path / "empty")
    images.write(lq / "a.png", noise(8, 8, 9))
    with pytest.raises(UsageError, match=r"a\.bmp and a\.png would both become a\.png"):
        submission.find_inputs(lq)
    zipped = tmp_path / "it.zip"
    (lq / "a.png").unlink()
    assert run("--lq", lq).exit_code == 2
    sheet = run("--lq", lq, "--submission", zipped, "--model", "bicubic", "--sheet", tmp_path / "sheet.png")
    assert (sheet.exit_code, "--sheet needs the true pictures" in sheet.stderr) == (2, True)
    assert not zipped.exists()


def test_command_without_truth(samples: Path, tmp_path: Path) -> None:
    """The shipped network: its results, its hash, and how large it is."""
    zipped = tmp_path / "it.zip"
    done = run("--lq", samples / "lq", "--submission", zipped)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    (entry,) = (entry for entry in list_models() if entry.name == "edge")
    names = listing(samples / "lq")
    assert first.startswith(f"wrote {zipped}: {len(names)} PNGs, ")
    assert second == f"edge: {entry.parameters:,} parameters; the challenge allows fewer than 2,276,356"
    assert done.stderr == ""
    with zipfile.ZipFile(zipped) as archive:
        assert sorted(archive.namelist()) == names
        assert entry.files["onnx"].sha256 in archive.comment.decode()
    assert submission.read_result(zipped, names[0]).shape == (512, 512, 3)
    with pytest.raises(ImageError, match=r"does not hold nobody\.png"):
        submission.read_result(zipped, "nobody.png")


def test_command_with_truth_scores_what_is_in_the_zip(samples: Path, tmp_path: Path) -> None:
    pairs = ("--lq", samples / "lq", "--gt", samples / "gt")
    plain = run(*pairs)
    both = run(*pairs, "--submission", tmp_path / "it.zip")
    assert both.exit_code == 0, both.output
    assert both.stdout.splitlines()[-1] == plain.stdout.splitlines()[-1]
    told = run(*pairs, "--submission", tmp_path / "it.zip", "--json", "--model", "bicubic")
    assert told.stdout.startswith("{")
    assert "wrote " in told.stderr
    assert "its parameters are not known" in told.stderr


@pytest.fixture
def graph(tmp_path: Path) -> Callable[[int], Path]:
    """``graph(n)``: an ONNX that repeats pixels by 48×3×n×n weights, n odd, stored as int8."""

    def make(side: int) -> Path:
        weights = np.zeros((48, 3, side, side), np.int8)
        for channel in range(48):
            weights[channel, channel // 16, side // 2, side // 2] = 1
        nodes = [
            helper.make_node("DequantizeLinear", ["stored", "step"], ["weights"]),
            helper.make_node("Conv", ["input", "weights"], ["cells"], pads=[side // 2] * 4),
            helper.make_node("DepthToSpace", ["cells"], ["output"], blocksize=4, mode="CRD"),
        ]
        sizes = (
            helper.make_tensor_value_info(name, 1, ["N", 3, *size])
            for name, size in (("input", (8, 8)), ("output", (32, 32)))
        )
        stored = [numpy_helper.from_array(weights, "stored"), numpy_helper.from_array(np.float32(1), "step")]
        built = helper.make_graph(nodes, "it", [next(sizes)], [next(sizes)], stored)
        path = tmp_path / f"{side}.onnx"
        save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
        return path

    return make


def test_a_network_that_is_too_large_is_told(lq: Path, tmp_path: Path, graph: Callable[[int], Path]) -> None:
    for side, large in ((3, False), (127, True)):
        model = graph(side)
        assert submission.parameters(model) == 144 * side * side
        (lq / "c.tif").unlink(missing_ok=True)  # one size, so that the graph is loaded once
        done = run("--lq", lq, "--submission", tmp_path / "it.zip", "--model", model)
        assert done.exit_code == 0, done.output
        assert ("is too large for the challenge" in done.stderr) == large
    with zipfile.ZipFile(tmp_path / "it.zip") as archive:
        assert len(archive.namelist()) == 3


def test_parameters_agree_between_kinds() -> None:
    """What the manifest says, what the network counts, and what its graph holds."""
    pytest.importorskip("torch")
    (entry,) = (entry for entry in list_models() if entry.name == "edge")
    for kind in ("onnx", "checkpoint"):
        assert submission.parameters(entry.files[kind].path) == entry.parameters
