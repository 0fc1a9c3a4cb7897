"""The throughput benchmark: its yardstick is the step's convolutions and nothing else, and it runs from a checkout."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bfsr_edge.faceset import find_faces
from bfsr_edge.models import create, gmacs, parameter_count
from bfsr_edge.train.begin import new_training
from bfsr_edge.train.loop import step
from bfsr_edge.train.recipe import Adversarial, Network, Recipe
from bfsr_edge.train.throughput import (
    Convolutions,
    Plan,
    begin,
    layers_of,
    make_faces,
    measure,
)
from tests.train.helpers import SIZE, tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
NETWORKS: dict[str, dict[str, Any]] = {
    "edge-unet": {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]},
    "msrresnet": {"blocks": 2, "channels": 8},
    "edsr": {"blocks": 1, "channels": 8},
}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Every operation that reaches ATen, a convolution with all that its cost depends on but a bias."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        details: tuple[Any, ...] = ()
        if name == "aten::convolution":
            details = (*map(described, args[:2]), str(args[3:]))
        elif name == "aten::convolution_backward":
            # the gradient's layout is left open: the loss hands on that of the truth to the last layer
            gradient = described(args[0])[:2]
            details = (gradient, *map(described, args[1:3]), str(args[4:10]), tuple(args[10][:2]))
        key = (name, *details)
        self.seen[key] += 1
        return func(*args, **(kwargs or {}))

    def convolutions(self) -> dict[tuple[Any, ...], int]:
        return {key: count for key, count in self.seen.items() if "convolution" in key[0]}


def described(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(memory_format=torch.channels_last)


def of(architecture: str, folder: Path, **changes: Any) -> Recipe:
    return tiny_recipe(folder, network=Network(architecture, NETWORKS[architecture]), precision="fp32", **changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_yardstick_is_the_convolutions_of_a_step(architecture: str, precision: str, tmp_path: Path) -> None:
    """Recorded: shapes, types, layout, and which gradients are computed are those of a real step; nothing else runs."""
    recipe = dataclasses.replace(of(architecture, tmp_path), precision=precision)
    truth = torch.rand(recipe.batch, 3, SIZE, SIZE)
    with Recorder() as real:
        step(new_training(recipe, CPU), recipe, truth[:, :, ::4, ::4].contiguous(), truth, precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    yardstick = Convolutions(layers_of(recipe), CPU, dtype)
    with Recorder() as ours:
        yardstick()
    assert ours.convolutions() == real.convolutions()
    assert set(ours.seen) == set(ours.convolutions())


def test_layers_cost_what_the_network_does(tmp_path: Path) -> None:
    """Also of a crop: what a step sees is then smaller than a face."""
    recipe = of("msrresnet", tmp_path)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop=32))
    layers = layers_of(recipe)
    assert recipe.picture_side == 32
    assert layers[0].inputs == (recipe.batch, 3, 8, 8)
    assert [layer.input_gradient for layer in layers] == [False] + [True] * (len(layers) - 1)
    products = 0
    for layer in layers:
        _, per_output, height, width = layer.weight
        count, channels, rows, columns = layer.outputs
        products += count * channels * rows * columns * per_output * height * width
    assert products / 1e9 == pytest.approx(recipe.batch * gmacs(create("msrresnet", blocks=2, channels=8), 8, 8))


def test_made_faces_can_be_trained_on(tmp_path: Path) -> None:
    faces = find_faces([make_faces(tmp_path / "faces", 4, SIZE)])
    assert [Path(face.name).suffix for face in faces] == [".jpg", ".webp"] * 2
    pictures = [cv2.imread(face.file) for face in faces]
    assert all(picture is not None and picture.shape == (SIZE, SIZE, 3) for picture in pictures)
    for face in faces:  # neither flat nor pure noise: a few bits a pixel
        assert 0.1 < 8 * Path(face.file).stat().st_size / SIZE**2 < 12


def test_what_of_a_recipe_is_timed(tmp_path: Path) -> None:
    """No first weights, no end that would come too soon; a discriminator, but no VGG19 where there is none."""
    training, recipe, note = begin(of("msrresnet", tmp_path), CPU)
    assert (training.adversary, note) == (None, "")
    assert recipe.iterations >= 1_000_000
    given = dataclasses.replace(
        of("msrresnet", tmp_path),
        adversarial=Adversarial(gan=0.005, perceptual=1.0, perceptual_file=str(tmp_path / "nowhere.pth"), channels=4),
        network=Network("msrresnet", NETWORKS["msrresnet"], "nowhere.safetensors"),
    )
    training, recipe, note = begin(given, CPU)
    assert training.adversary is not None
    assert training.adversary.discriminator is not None
    assert (recipe.adversarial.gan, recipe.adversarial.perceptual) == (0.005, 0)
    assert "the convolutions are the generator's; without the perceptual loss" in note
    assert begin(recipe, CPU)[2] == "the step has adversarial terms, the convolutions are the generator's"


@pytest.mark.parametrize("pipeline", ["cpu", "device"])
def test_measuring(pipeline: str, tmp_path: Path) -> None:
    recipe = of("msrresnet", tmp_path)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, pipeline=pipeline))
    faces = find_faces([make_faces(tmp_path / "faces", 4, SIZE)])
    done = measure(recipe, faces, CPU, Plan(rounds=2, seconds=0.05))
    assert (done.pipeline, done.workers, done.precision, done.note) == (pipeline, 0, "fp32", "")
    assert done.parameters == parameter_count(create("msrresnet", **NETWORKS["msrresnet"]))
    for figure in ("loader", "step", "both", "convolutions"):
        rates = getattr(done, figure)
        assert len(rates) == 2
        assert min(rates) > 0
        assert min(rates) <= done.median(figure) <= max(rates)
    assert done.of_convolutions > 0
    assert done.loader_per_step > 0


BARE = """
import runpy, sys

for name in ("openvino", "onnxruntime", "pillow_heif", "tensorrt", "tensorrt_rtx", "pytest", "hypothesis"):
    sys.modules[name] = None  # as if it were not installed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = """
batch = 2
precision = "fp32"

[network]
architecture = "msrresnet"
settings = { blocks = 1, channels = 8 }

[data]
size = 64
workers = 0
"""


def script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The benchmark from the checkout, without what a GPU machine may lack."""
    command = [sys.executable, "-c", BARE, str(ROOT / "benchmarks" / "throughput.py"), "--device", "cpu", *words]
    command += ["--rounds", "1", "--seconds", "0.05"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_script(tmp_path: Path) -> None:
    for name, more in (("tiny", ""), ("gan", "\n[adversarial]\ngan = 0.005\nchannels = 4\n")):
        (tmp_path / f"{name}.toml").write_text(TINY + more)
    done = script(tmp_path, "--recipe", "tiny.toml", "gan.toml", "--out", "out.csv")
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table] == ["recipe", "---", "tiny", "gan\\*"]
    assert len({row.count("|") for row in table}) == 1
    assert "\\* the step has adversarial terms" in done.stdout
    assert script(tmp_path, "--recipe", "tiny.toml", "--out", "out.csv", "--batch", "1").returncode == 0
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["batch"]) for row in rows] == [("tiny", "2"), ("gan", "2"), ("tiny", "1")]
    for row in rows:
        assert row["machine"]
        assert "torch" in row["versions"]
        assert row["faces"] == "64 made up"
        assert float(row["step_faces_per_second"]) > 0
        assert float(row["step_percent_of_convolutions"]) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gan.toml", "out.csv", "tiny.toml"]


def test_the_script_says_what_is_wrong(tmp_path: Path) -> None:
    done = script(tmp_path, "--recipe", "nothing")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "neither a file nor a name" in done.stderr
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "out.csv").write_text("other,columns\n1,2\n")
    done = script(tmp_path, "--recipe", "tiny.toml", "--out", "out.csv")
    assert (done.returncode, "has other columns" in done.stderr) == (2, True)
    assert (tmp_path / "out.csv").read_text() == "other,columns\n1,2\n"
