"""Faces, draws, and the two pipelines: OpenCV on the CPU and batched torch agree, stage by stage."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from bfsr_edge import degrade, images
from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.evaluate import bicubic
from bfsr_edge.faceset import decode_face, find_faces
from bfsr_edge.metrics import psnr
from bfsr_edge.train import pairs
from bfsr_edge.train.device import degrade as device_degrade
from bfsr_edge.train.device import jpeg as device_jpeg
from bfsr_edge.train.device import pairs as device_pairs
from bfsr_edge.train.device.resize import resize_matrix
from bfsr_edge.train.recipe import Data
from tests.train.helpers import SIZE, digest, make_faces, make_tar, tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
Byte = NDArray[np.uint8]


def test_a_folder_and_a_tar_give_the_same_faces(tmp_path: Path) -> None:
    folder = make_faces(tmp_path / "faces", 3)
    tar = make_tar(tmp_path / "faces.tar", folder)
    from_folder, from_tar = find_faces([folder]), find_faces([tar])
    assert len(from_folder) == len(from_tar) == 3
    for a, b in zip(from_folder, from_tar, strict=True):
        assert np.array_equal(decode_face(a, SIZE), decode_face(b, SIZE))


def test_larger_faces_are_reduced_and_colours_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((128, 128, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), red)
    face = decode_face(find_faces([tmp_path])[0], SIZE)
    assert face.shape == (SIZE, SIZE, 3)
    assert face[0, 0].tolist() == [255, 0, 0]


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder or tar"):
        find_faces([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture"):
        find_faces([tmp_path / "empty"])
    (tmp_path / "x.tar").write_bytes(b"not a tar at all")
    with pytest.raises(UsageError, match="cannot be read as a tar"):
        find_faces([tmp_path / "x.tar"])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "bad" / "b.png"), np.zeros((32, 40, 3), np.uint8))
    broken, oblong = find_faces([tmp_path / "bad"])
    with pytest.raises(TrainingError, match="cannot be decoded"):
        decode_face(broken, SIZE)
    with pytest.raises(TrainingError, match="40×32"):
        decode_face(oblong, SIZE)


def test_a_sample_is_decided_by_its_number_alone_and_each_epoch_sees_every_face(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert pairs.draw(recipe, 10, 37) == pairs.draw(recipe, 10, 37)
    first = [pairs.draw(recipe, 10, n) for n in range(10)]
    second = [pairs.draw(recipe, 10, n) for n in range(10, 20)]
    assert sorted(d.face for d in first) == sorted(d.face for d in second) == list(range(10))
    assert [d.face for d in first] != [d.face for d in second]
    assert len({d.degradation for d in first + second}) == 20
    other = dataclasses.replace(recipe, seed=1)
    assert pairs.draw(other, 10, 37) != pairs.draw(recipe, 10, 37)


def test_probabilities_are_those_of_the_recipe(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, flip=0.5, shifted=0.25))
    moves = [pairs.draw(recipe, 100, n).move for n in range(3000)]
    assert 0.46 < np.mean([m.flip for m in moves]) < 0.54
    assert 0.21 < np.mean([m.shift != (0, 0) or m.reduce < 1 for m in moves]) < 0.29
    assert 0.10 < np.mean([m.reduce < 1 for m in moves]) < 0.15


def face() -> Byte:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), np.uint8)


MOVES = st.builds(
    pairs.Move,
    st.booleans(),
    st.tuples(st.integers(-SIZE // 2, SIZE // 2), st.integers(-SIZE // 2, SIZE // 2)),
    st.one_of(st.just(1.0), st.floats(0.5, 1.0)),
)


@settings(deadline=None, max_examples=50)
@given(MOVES)
def test_moves_agree_on_cpu_and_device(move: pairs.Move) -> None:
    ours = pairs.apply_move(face(), move)
    assert ours.shape == (SIZE, SIZE, 3)
    batch = torch.from_numpy(face()).permute(2, 0, 1)[None].float()
    theirs = device_pairs.move(batch, [move])[0].permute(1, 2, 0).numpy()
    assert np.abs(theirs - ours).max() <= 1, "rounding of the reduction, at most"
    assert (theirs != ours).mean() < 0.1, "and only where a mean is an exact half"


def test_a_shift_moves_the_picture_and_mirrors_what_comes_in() -> None:
    moved = pairs.apply_move(face(), pairs.Move(False, (5, -3), 1.0))
    assert np.array_equal(moved[5:, :-3], face()[:-5, 3:])
    assert np.array_equal(moved[4], moved[5])


@pytest.mark.parametrize("mode", range(3), ids=degrade.MODES)
@pytest.mark.parametrize(
    ("source", "target"), [(512, 32), (512, 300), (512, 511), (512, 256), (33, 512), (300, 512), (64, 64)]
)
def test_resize_matrices_are_opencvs(mode: int, source: int, target: int) -> None:
    theirs = degrade.resize(np.eye(source, dtype=np.float32), target, source, mode)
    ours = resize_matrix(torch.tensor([source]), torch.tensor([target]), torch.tensor([mode]), 520, 520)[0]
    np.testing.assert_allclose(ours[:target, :source].numpy(), theirs, atol=2e-4)
    assert float(ours[target:].abs().sum() + ours[:, source:].abs().sum()) == 0


def test_blur_is_opencvs() -> None:
    image = (face() / 255).astype(np.float32)
    drawn = [degrade.draw(np.random.default_rng(seed)) for seed in range(6)]
    batch = torch.from_numpy(image).permute(2, 0, 1).repeat(6, 1, 1, 1)
    table = torch.tensor([(one.sigma_x, one.sigma_y, one.angle) for one in drawn])
    ours = device_degrade.blur(batch, device_degrade.gaussians(*table.t()))
    for index, one in enumerate(drawn):
        np.testing.assert_allclose(ours[index].permute(1, 2, 0).numpy(), degrade.blur(image, one), atol=2e-5)


@pytest.fixture(scope="module")
def portraits(samples: Path) -> list[Byte]:
    return [np.asarray(images.read(samples / "gt" / f"{n}-face.png").pixels, np.uint8) for n in ("hopper", "astronaut")]


@pytest.mark.parametrize("quality", [50, 72, 95])
@pytest.mark.parametrize("side", [33, 128, 301, 512])
def test_jpeg_is_libjpegs(portraits: list[Byte], quality: int, side: int) -> None:
    small = np.stack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in portraits])
    batch = torch.from_numpy(small).permute(0, 3, 1, 2).float()
    canvas = torch.zeros(2, 3, side + 7, side + 7)
    canvas[:, :, :side, :side] = batch
    sides = torch.full((2,), side)
    out = device_jpeg.jpeg(canvas, sides, sides, torch.full((2,), quality))
    ours = out[:, :, :side, :side].permute(0, 2, 3, 1).numpy()
    theirs = np.stack([degrade.jpeg(p, quality) for p in small]).astype(np.float32)
    # what is left are coefficients a hair beside a rounding edge, since libjpeg's DCT is made of integers: that must be
    # small beside what JPEG itself does to the picture
    assert np.abs(ours - theirs).mean() < 0.25 * np.abs(theirs - small).mean()
    assert abs((ours - theirs).mean()) < 0.05


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_tables_are_those_in_the_file(quality: int) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as written:
        theirs = [np.array(table).reshape(8, 8) for table in written.quantization.values()]
    for base, table in zip((device_jpeg.LUMA, device_jpeg.CHROMA), theirs, strict=True):
        ours = device_jpeg.quantization_table(torch.tensor(base).float(), torch.tensor([quality]))[0]
        assert np.array_equal(ours.numpy(), table)


def both_pipelines(truths: list[Byte], seed: int) -> tuple[list[Byte], list[Byte]]:
    """The same draws and noise through both."""
    drawn = [degrade.draw(np.random.default_rng((seed, index))) for index in range(len(truths))]
    noises = [degrade.noise_field(one, *truth.shape[:2]) for one, truth in zip(drawn, truths, strict=True)]
    ours = [degrade.apply(t, d, n) for t, d, n in zip(truths, drawn, noises, strict=True)]
    batch = torch.from_numpy(np.stack(truths)).permute(0, 3, 1, 2).float()
    field: Tensor = torch.zeros_like(batch)
    for index, noise in enumerate(noises):
        field[index, :, : noise.shape[0], : noise.shape[1]] = torch.from_numpy(noise).permute(2, 0, 1)
    theirs = device_degrade.apply(batch, drawn, field).permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return ours, list(theirs)


def check_pipelines(truths: list[Byte], seeds: range) -> None:
    differences, agreement = [], []
    for seed in seeds:
        for a, b, truth in zip(*both_pipelines(truths, seed), truths, strict=True):
            differences.append(psnr(bicubic(a, 4), truth) - psnr(bicubic(b, 4), truth))
            agreement.append(psnr(a, b))
    assert abs(np.mean(differences)) < 0.02
    assert min(agreement) > 44


def test_the_two_pipelines_agree_on_public_faces(portraits: list[Byte]) -> None:
    check_pipelines(portraits, range(4))


@pytest.mark.slow
def test_the_two_pipelines_agree_on_validation_faces(shared_data: Path) -> None:
    paths = sorted((shared_data / "val" / "GT").glob("*.png"))
    for start in range(0, len(paths), 10):
        truths = [np.asarray(images.read(p).pixels, np.uint8) for p in paths[start : start + 10]]
        check_pipelines(truths, range(start, start + 1))


def test_batches_of_both_pipelines_start_anywhere(tmp_path: Path) -> None:
    recipe = tiny_recipe(make_faces(tmp_path / "faces"))
    faces = find_faces(recipe.data.faces)
    whole = list(pairs.cpu_batches(recipe, faces, 0))
    assert len(whole) == recipe.iterations
    for later, again in zip(whole[4:], pairs.cpu_batches(recipe, faces, 4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(later, again, strict=True))
    device = list(device_pairs.device_batches(recipe, faces, 0, torch.device("cpu")))
    for later, again in zip(
        device[4:], device_pairs.device_batches(recipe, faces, 4, torch.device("cpu")), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(later, again, strict=True))
    for (_, truth_cpu), (low, truth) in zip(whole, device, strict=True):
        assert float((truth * 255 - truth_cpu.float()).abs().max()) <= 1.01, "both see the same faces moved alike"
        assert low.shape == (2, 3, SIZE // 4, SIZE // 4)


def test_an_eight_bit_resize_concerns_the_cpu_pipeline_alone(tmp_path: Path) -> None:
    plain = tiny_recipe(make_faces(tmp_path / "faces"), iterations=1, batch=8)
    rounded = dataclasses.replace(plain, data=dataclasses.replace(plain.data, eight_bit_resize=True))
    faces, cpu = find_faces(plain.data.faces), torch.device("cpu")
    (low, truth), (other, same) = (next(pairs.cpu_batches(recipe, faces, 0)) for recipe in (plain, rounded))
    assert torch.equal(truth, same)
    assert 0 < int((low.int() - other.int()).abs().max()) <= 2, "what OpenCV rounds inside"
    assert digest(device_pairs.device_batches(plain, faces, 0, cpu)) == digest(
        device_pairs.device_batches(rounded, faces, 0, cpu)
    )


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be taken away here")
def test_workers_are_counted_from_the_cores_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(tiny_recipe(tmp_path), data=Data())
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for cores, workers in ((1, 1), (6, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process, cores=cores: set(range(cores)))
        assert pairs.worker_count(recipe) == workers


WITH_A_WORKER = """
import dataclasses, sys
from pathlib import Path
from bfsr_edge.train import pairs
from bfsr_edge.faceset import find_faces
from tests.train.helpers import digest, tiny_recipe
recipe = tiny_recipe(Path(sys.argv[1]))
recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, workers=1))
print(digest(pairs.cpu_batches(recipe, find_faces(recipe.data.faces), 0)))
"""


def test_worker_processes_give_the_same_batches(tmp_path: Path) -> None:
    """In a process of its own, as torch's loader takes over the signals of the one that it runs in."""
    recipe = tiny_recipe(make_faces(tmp_path / "faces"))
    words = [sys.executable, "-c", WITH_A_WORKER, str(tmp_path / "faces")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(pairs.cpu_batches(recipe, find_faces(recipe.data.faces), 0))


LEFT_WITH_A_WORKER = """
import dataclasses, multiprocessing, sys, time
from pathlib import Path
from bfsr_edge.train import pairs
from bfsr_edge.faceset import find_faces
from tests.train.helpers import tiny_recipe
recipe = tiny_recipe(Path(sys.argv[1]), iterations=100_000)
recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, workers=1))
batches = pairs.cpu_batches(recipe, find_faces(recipe.data.faces), 0)
next(batches)
print(multiprocessing.active_children()[0].pid, flush=True)
if sys.argv[2] == "killed":
    time.sleep(600)
raise RuntimeError("an error that nothing catches, whose traceback keeps the loader")
"""


@pytest.mark.parametrize("how", ["killed", "error"])
def test_no_worker_outlives_its_run_and_no_run_waits_for_a_worker(how: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LEFT_WITH_A_WORKER, str(make_faces(tmp_path / "faces")), how]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            process.wait(0.1 if how == "killed" else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            assert how == "killed", "it waits for its worker"
        deadline = time.monotonic() + 60
        while alive(worker):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent to ask does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
