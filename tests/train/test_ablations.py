"""The reference systems' recipes hold the published settings, and what only they use works in a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from bfsr_edge.faceset import decode_face, find_faces
from bfsr_edge.models import load_checkpoint
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Augment, Network, Recipe, load_recipe
from bfsr_edge.train.schedule import rate
from bfsr_edge.train.state import Training
from tests.train.helpers import SIZE, make_faces, tiny_recipe

MEAN, STD = [0.5235, 0.4283, 0.3829], [0.2833, 0.2583, 0.2591]
NORMALISED = {"mean": MEAN, "std": STD}

# name: what is added to MSRResNet-20's settings, augmentations, cycles, iterations of each
OF_THE_FIRST: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "srresnet16": ({"blocks": 16}, {}, 2, 150_000),
    "edsr20": ({}, {}, 2, 150_000),
    "srresnet20-charbonnier": ({}, {"rotation": 0.3, "brightness": 0.08, "hue": 0.08}, 11, 250_000),
    "ablation-baseline": ({}, {}, 4, 250_000),
    "ablation-normalisation": (NORMALISED, {}, 4, 250_000),
    "ablation-rotation": ({}, {"rotation": 0.5}, 4, 250_000),
    "ablation-jitter": (NORMALISED, {"jitter": 0.5}, 4, 250_000),
    "ablation-blend-permutation": ({}, {"blend": 0.1, "permutation": 0.1}, 4, 250_000),
    "ablation-cutblur-070": ({}, {"cutblur": 0.2, "cutblur_alpha": 0.7}, 4, 250_000),
    "ablation-cutblur-030": ({}, {"cutblur": 0.2, "cutblur_alpha": 0.3}, 4, 250_000),
    "ablation-dropout-010": ({"dropout": 0.1}, {}, 4, 250_000),
    "ablation-dropout-070": ({"dropout": 0.7}, {}, 4, 250_000),
    "ablation-srresnet20": ({}, {}, 2, 150_000),
    "ablation-mse": ({}, {}, 2, 150_000),
    "ablation-charbonnier": ({}, {}, 2, 150_000),
    "ablation-batch16": ({}, {}, 2, 150_000),
}
LOSS = {"srresnet20-charbonnier": "charbonnier", "ablation-charbonnier": "charbonnier", "ablation-mse": "mse"}


def recipe_of(name: str) -> Recipe:
    return load_recipe(find_toml("train", name))


@pytest.mark.parametrize("name", OF_THE_FIRST)
def test_recipes_of_the_first_system(name: str) -> None:
    extra, augmented, cycles, period = OF_THE_FIRST[name]
    recipe = recipe_of(name)
    assert recipe.network.architecture == ("edsr" if name == "edsr20" else "msrresnet")
    assert recipe.network.settings == {"blocks": 20} | extra
    assert recipe.augment == dataclasses.replace(Augment(), **augmented)
    assert recipe.iterations == cycles * period
    assert recipe.schedule.periods == (period,) * cycles
    for cycle in range(cycles):
        assert rate(recipe, cycle * period) == pytest.approx(2e-4)
        assert rate(recipe, (cycle + 1) * period - 1) == pytest.approx(1e-7, rel=0.01)
    assert recipe.batch == (16 if name == "ablation-batch16" else 8)
    assert (recipe.loss.first, recipe.loss.then) == (LOSS.get(name, "l1"), "")
    assert (recipe.optimizer.name, recipe.optimizer.betas) == ("adam", (0.9, 0.999))
    assert (recipe.ema, recipe.challenge, recipe.adversarial.used) == (0, True, False)
    data = recipe.data
    assert (data.flip, data.shifted, data.crop, data.eight_bit_resize) == (0.5, 0, 0, False)


def test_ranges_are_the_published_ones() -> None:
    """The recipes give probabilities only; the ranges are the defaults."""
    plan = Augment()
    assert (plan.rotation_degrees, plan.brightness_range, plan.hue_range) == (25, 0.2, 0.1)
    assert (plan.jitter_brightness, plan.jitter_hue) == (16, 9)
    assert plan.jitter_contrast == plan.jitter_saturation == (0.75, 1.25)
    assert plan.blend_alpha == 0.6


def test_every_ablation_stands_in_the_table_and_no_two_are_the_same_run() -> None:
    assert {name for name in list_tomls("train") if name.startswith("ablation-")} <= set(OF_THE_FIRST)
    bare = {name: dataclasses.replace(recipe_of(name), name="", summary="") for name in OF_THE_FIRST}
    for name, recipe in bare.items():
        assert [other for other in bare if bare[other] == recipe] == [name]


@pytest.mark.slow
def test_the_normalisation_is_that_of_the_training_faces(shared_data: Path) -> None:
    faces = find_faces(sorted(shared_data.glob("ffhq-train-*.tar")))[::8]
    counts = np.zeros((3, 256))
    for face in faces:
        for channel, plane in enumerate(decode_face(face, 512).transpose(2, 0, 1)):
            counts[channel] += np.bincount(plane.ravel(), minlength=256)
    parts = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = parts @ levels
    np.testing.assert_allclose(mean, MEAN, atol=1e-4)
    np.testing.assert_allclose(np.sqrt(parts @ levels**2 - mean**2), STD, atol=1e-4)


def test_a_run_with_dropout_augmentation_and_crops_resumes_exactly(tmp_path: Path) -> None:
    """Dropout draws from torch's own generator, which the state holds; augmentation hangs on the sample's number."""
    faces = make_faces(tmp_path / "faces", 4)
    network = Network("msrresnet", {"blocks": 1, "channels": 8, "dropout": 0.5, **NORMALISED})
    recipe = tiny_recipe(faces, network=network, augment=Augment(rotation=0.5, jitter=0.5, blend=0.5, cutblur=0.5))
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop=SIZE // 2), iterations=4)
    whole = train(recipe, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(training: Training, row: dict[str, float]) -> None:
        if training.iteration == 3:  # the last state is that of iteration 2: one step is done again
            raise Stop

    with pytest.raises(Stop):
        train(recipe, tmp_path / "parts", report=stop)
    parts = train(recipe, tmp_path / "parts")
    one, two = load_file(whole.checkpoint), load_file(parts.checkpoint)
    assert all(bool((one[key] == two[key]).all()) for key in one)
    assert load_checkpoint(whole.checkpoint).settings == network.settings
