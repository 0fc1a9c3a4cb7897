"""Augmentations: what is drawn, what each does, and that OpenCV on the CPU and batched torch do the same."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from bfsr_edge import degrade
from bfsr_edge.faceset import find_faces
from bfsr_edge.train import augment, pairs
from bfsr_edge.train.augment import Jitter, Square, Variation
from bfsr_edge.train.device import augment as device_augment
from bfsr_edge.train.device import degrade as device_degrade
from bfsr_edge.train.device import pairs as device_pairs
from bfsr_edge.train.recipe import Augment, Recipe
from tests.train.helpers import SIZE, digest, make_faces, tiny_recipe

Byte = NDArray[np.uint8]
EVERYTHING = Augment(
    rotation=0.5, brightness=0.5, hue=0.5, jitter=0.5, blend=0.5, permutation=0.5, cutblur=0.5, cutblur_alpha=0.5
)


def picture(seed: int, side: int = SIZE) -> Byte:
    """Smooth colours with some noise, greys and extremes in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    image[: side // 4] = rng.integers(0, 256, (side // 4, side, 3), dtype=np.uint8)
    image[-4:] = rng.integers(0, 256, (4, side, 1), dtype=np.uint8)
    return image


def batch(images: list[Byte]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def agree(theirs: Tensor, ours: list[Byte], mean: float = 0.02) -> None:
    """Within 1/255 everywhere and nearly always equal."""
    whole = theirs.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(whole, np.rint(whole).clip(0, 255)), "8-bit values"
    difference = np.abs(whole - np.stack(ours))
    assert difference.max() <= 1
    assert difference.mean() <= mean


def recipe_with(folder: Path, plan: Augment, **data: Any) -> Recipe:
    recipe = tiny_recipe(folder, augment=plan)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data))


# draws


def test_samples_of_todays_recipes_stay_what_they_were() -> None:
    """Made by the version without augmentations: 500 faces, moves and degradations of one recipe."""
    recipe = tiny_recipe(Path("x"))
    drawn = [pairs.draw(recipe, 10, number) for number in range(500)]
    assert drawn[7] == pairs.Draw(
        5,
        pairs.Move(flip=True, shift=(0, 0), reduce=1.0),
        degrade.Degradation(
            sigma_x=0.79470158000408,
            sigma_y=2.76682237747833,
            angle=-0.28764770186744126,
            resize=0.9150115782401487,
            down=0,
            noise=0.08157900492252919,
            quality=81,
            up=0,
            seed=7074652893183587958,
        ),
        Variation(),
    )
    text = "\n".join(repr((d.face, d.move, d.degradation)) for d in drawn)
    golden = "947d1e04f0492a35ee8d6e416b89514bec2c82ca6a40443d3f2b724f532900f7"
    assert hashlib.sha256(text.encode()).hexdigest() == golden
    ranges_alone = recipe_with(Path("x"), Augment(blend_alpha=0.1, cutblur_alpha=0.1))
    assert all(augment.draw(each, 3) == Variation() for each in (recipe, ranges_alone))


def test_augmentations_leave_faces_moves_and_degradations_as_they_are() -> None:
    plain, rich = tiny_recipe(Path("x")), recipe_with(Path("x"), EVERYTHING, crop=32)
    for number in range(50):
        a, b = pairs.draw(plain, 10, number), pairs.draw(rich, 10, number)
        assert (a.face, a.move, a.degradation) == (b.face, b.move, b.degradation)


def test_one_augmentation_more_leaves_the_others_as_they_are() -> None:
    few = recipe_with(Path("x"), dataclasses.replace(EVERYTHING, rotation=0.0, jitter=0.0))
    many = recipe_with(Path("x"), EVERYTHING)
    for number in range(50):
        a, b = augment.draw(few, number), augment.draw(many, number)
        assert a == dataclasses.replace(b, rotation=0.0, jitter=Jitter())


def test_probabilities_and_ranges_are_those_of_the_recipe() -> None:
    plan = Augment(
        rotation=0.3,
        rotation_degrees=10,
        brightness=0.08,
        brightness_range=0.3,
        hue=0.2,
        hue_range=0.05,
        jitter=0.5,
        blend=0.1,
        blend_alpha=0.8,
        permutation=0.15,
        cutblur=0.25,
        cutblur_alpha=0.3,
    )
    recipe = recipe_with(Path("x"), plan, size=512)
    drawn = [augment.draw(recipe, number) for number in range(6000)]

    def check(values: list[float], neutral: float, chance: float, low: float, high: float) -> None:
        hit = [value for value in values if value != neutral]
        assert len(hit) / len(values) == pytest.approx(chance, abs=0.025)
        assert low <= min(hit) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(hit) <= high

    check([v.rotation for v in drawn], 0, 0.3, -10, 10)
    check([v.brightness for v in drawn], 1, 0.08, 0.7, 1.3)
    check([v.hue for v in drawn], 0, 0.2, -0.05, 0.05)
    check([v.jitter.brightness for v in drawn], 0, 0.5, -16, 16)
    check([v.jitter.contrast for v in drawn], 1, 0.5, 0.75, 1.25)
    check([v.jitter.saturation for v in drawn], 1, 0.5, 0.75, 1.25)
    check([v.jitter.hue for v in drawn], 0, 0.5, -9 / 180, 9 / 180)
    check([v.blend for v in drawn], 1, 0.1, 0.8, 1)
    check([v.colour[1] for v in drawn], 0, 0.1, 0, 255)
    together = [v.jitter.contrast != 1 and v.jitter.hue != 0 for v in drawn]
    assert np.mean(together) == pytest.approx(0.25, abs=0.025), "each step of the jitter on its own"
    late = [v.jitter.contrast_first for v in drawn if v.jitter.contrast != 1]
    assert np.mean(late) == pytest.approx(0.5, abs=0.04)
    orders = [v.permutation for v in drawn if v.permutation != (0, 1, 2)]
    assert len(orders) / len(drawn) == pytest.approx(0.15, abs=0.02)
    assert len(set(orders)) == 5
    cuts = [v for v in drawn if v.cutblur]
    sides = [v.cutblur.side / 128 for v in cuts if v.cutblur]
    assert len(cuts) / len(drawn) == pytest.approx(0.25, abs=0.02)
    assert np.mean(sides) == pytest.approx(0.3, abs=0.006), "rounded down to pixels"
    assert np.std(sides) == pytest.approx(0.01, abs=0.002)
    assert np.mean([v.truth_inside for v in cuts]) == pytest.approx(0.5, abs=0.05)
    room = [v.cutblur.top + v.cutblur.side for v in cuts if v.cutblur]
    assert max(room) == 128


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_rectangle_of_cutblur_always_fits(alpha: float) -> None:
    recipe = recipe_with(Path("x"), Augment(cutblur=1, cutblur_alpha=alpha), crop=32)
    for number in range(30):
        square = augment.draw(recipe, number).cutblur
        assert square is not None
        assert 1 <= square.side <= 8
        assert max(square.top, square.left) + square.side <= 8


def test_crops_reach_every_place() -> None:
    recipe = recipe_with(Path("x"), Augment(), crop=56)
    drawn = [augment.draw(recipe, number).crop for number in range(200)]
    assert {(s.top, s.left, s.side) for s in drawn if s} == {(t, left, 14) for t in range(3) for left in range(3)}


# what each does


def test_a_turn_about_the_centre_mirrors_what_comes_in() -> None:
    image = picture(0)
    assert np.array_equal(augment.rotate(image, 90), np.rot90(image)), "counter-clockwise"
    assert np.array_equal(augment.rotate(image, 180), image[::-1, ::-1])
    wide = np.pad(image, ((SIZE, SIZE), (SIZE, SIZE), (0, 0)), mode="symmetric")
    matrix = cv2.getRotationMatrix2D(((3 * SIZE - 1) / 2,) * 2, 20, 1)
    turned = cv2.warpAffine(wide, matrix, (3 * SIZE, 3 * SIZE), flags=cv2.INTER_LINEAR)[SIZE:-SIZE, SIZE:-SIZE]
    assert np.abs(augment.rotate(image, 20).astype(int) - turned).max() <= 1


def test_colours_by_hand() -> None:
    levels = np.array([[[0, 100, 250]]], np.uint8)
    assert augment.add(levels, 10.6).ravel().tolist() == [11, 111, 255]
    assert augment.add(levels, -10.6).ravel().tolist() == [0, 89, 239]
    assert augment.multiply(levels, 1.125).ravel().tolist() == [0, 112, 255], "half to even"
    assert augment.blend(levels, 0.75, (200, 0, 100)).ravel().tolist() == [50, 75, 212]
    assert augment.permute(levels, (2, 0, 1)).ravel().tolist() == [250, 0, 100]
    red = np.array([[[200, 50, 50], [90, 90, 90]]], np.uint8)
    assert augment.recolour(red, 1 / 3, 1.0).tolist() == [[[50, 200, 50], [90, 90, 90]]], "greys have no hue"
    assert augment.recolour(red, -1 / 3, 1.0).tolist() == [[[50, 50, 200], [90, 90, 90]]]
    assert augment.recolour(red, 0, 0.5).tolist() == [[[200, 125, 125], [90, 90, 90]]]
    assert augment.recolour(red, 0, 9.0).tolist() == [[[200, 0, 0], [90, 90, 90]]], "saturation ends at 1"


def test_contrast_comes_first_or_last() -> None:
    image = np.array([[[240, 60, 60]]], np.uint8)
    first = Jitter(contrast=1.25, saturation=0.5, contrast_first=True)
    last = dataclasses.replace(first, contrast_first=False)
    assert augment.jitter(image, first).ravel().tolist() == [255, 165, 165]
    assert augment.jitter(image, last).ravel().tolist() == [255, 188, 188]


def test_the_crop_of_both_pictures_is_the_same_part() -> None:
    truth = picture(1)
    low = np.asarray(cv2.resize(truth, (16, 16), interpolation=cv2.INTER_AREA), np.uint8)
    small, large = augment.crop(low, truth, Square(3, 5, 8))
    assert (small.shape, large.shape) == ((8, 8, 3), (32, 32, 3))
    assert np.array_equal(small, cv2.resize(large, (8, 8), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("truth_inside", [True, False])
def test_cutblur_puts_the_reduced_truth_on_one_side_of_the_rectangle(truth_inside: bool) -> None:
    truth, low = picture(2), picture(3, SIZE // 4)
    before = low.copy()
    mixed = augment.cutblur(low, truth, Square(4, 2, 6), truth_inside)
    inside = np.zeros((16, 16, 1), bool)
    inside[4:10, 2:8] = True
    reduced = cv2.resize(truth, (16, 16), interpolation=cv2.INTER_AREA)
    assert np.array_equal(mixed, np.where(inside == truth_inside, reduced, low))
    assert np.array_equal(low, before), "the input itself is left alone"


# the same on the device


PICTURES = [picture(n) for n in range(3)]


@settings(max_examples=40)
@given(st.lists(st.floats(-180, 180), min_size=3, max_size=3))
def test_rotations_agree(degrees: list[float]) -> None:
    degrees[1] = 0.0
    images = PICTURES
    ours = [augment.rotate(image, d) for image, d in zip(images, degrees, strict=True)]
    agree(device_augment.rotate(batch(images), degrees), ours)


@settings(max_examples=40)
@given(st.floats(-30, 30), st.floats(0.5, 1.5), st.floats(0, 1))
def test_levels_agree(amount: float, factor: float, weight: float) -> None:
    images, stay = PICTURES[:2], (0.0, 1.0)
    agree(device_augment.add(batch(images), [amount, stay[0]]), [augment.add(images[0], amount), images[1]], 0.002)
    ours = [augment.multiply(images[0], factor), images[1]]
    agree(device_augment.multiply(batch(images), [factor, stay[1]]), ours, 0.002)
    colours = [(10.0, 200.5, 99.9), (0.0, 0.0, 0.0)]
    ours = [augment.blend(images[0], weight, colours[0]), images[1]]
    agree(device_augment.blend(batch(images), [weight, 1.0], colours), ours, 0.002)


@settings(max_examples=40)
@given(st.floats(-1, 1), st.floats(0, 2))
def test_hue_and_saturation_agree(turn: float, saturation: float) -> None:
    images = PICTURES[:2]
    ours = [augment.recolour(images[0], turn, saturation), images[1]]
    # a factor such as 0.5 has many exact halves, which fall to either side
    agree(device_augment.recolour(batch(images), [turn, 0.0], [saturation, 1.0]), ours, 0.2)


@pytest.mark.parametrize(("turn", "saturation"), [(0.0123, 1.0), (0.0, 1.1234), (-0.3, 0.777)])
def test_hue_and_saturation_are_nearly_always_equal(turn: float, saturation: float) -> None:
    images = [picture(0), picture(1)]
    ours = [augment.recolour(image, turn, saturation) for image in images]
    agree(device_augment.recolour(batch(images), [turn] * 2, [saturation] * 2), ours, 0.002)


def test_every_colour_comes_back_from_hsv() -> None:
    """No turn at all through both conversions: nothing moves, on either side."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    whole = 1 - 1e-12  # a full turn, which is not left out as no turn is
    assert np.array_equal(augment.recolour(image, whole, 1.0), image)
    assert torch.equal(device_augment.recolour(batch([image]), [whole], [1.0]), batch([image]))


@pytest.mark.parametrize("side", [0, 32])
def test_all_draws_agree_before_and_behind(side: int) -> None:
    """Each pipeline from the same pictures; the degradation between is compared elsewhere."""
    recipe = recipe_with(Path("x"), EVERYTHING, crop=side)
    drawn = [augment.draw(recipe, number) for number in range(24)]
    truths = [picture(n) for n in range(24)]
    ours = [augment.before(truth, v) for truth, v in zip(truths, drawn, strict=True)]
    theirs = device_augment.before(batch(truths), drawn).permute(0, 2, 3, 1).numpy()
    difference = np.abs(theirs - np.stack(ours))
    assert difference.max() <= 4, "a rounding of one step, enlarged by the next ones"
    assert difference.mean() < 0.02
    lows = [picture(100 + n, SIZE // 4) for n in range(24)]
    both = [augment.behind(low, truth, v) for low, truth, v in zip(lows, ours, drawn, strict=True)]
    low, truth = device_augment.behind(batch(lows), batch(ours), drawn)
    assert low.shape[-1] == (side or SIZE) // 4
    agree(low, [b[0] for b in both], 0.01)
    agree(truth, [b[1] for b in both], 0.001)


def test_nothing_drawn_is_nothing_done() -> None:
    image, low = picture(0), picture(1, SIZE // 4)
    none = [Variation()]
    assert augment.before(image, none[0]) is image
    assert augment.behind(low, image, none[0]) == (low, image)
    truths, lows = batch([image]), batch([low])
    assert device_augment.before(truths, none) is truths
    assert device_augment.behind(lows, truths, none) == (lows, truths)


# in the pipelines


def test_without_augmentation_pairs_are_move_and_degradation_alone(tmp_path: Path) -> None:
    recipe = tiny_recipe(make_faces(tmp_path / "faces"))
    faces = find_faces(recipe.data.faces)
    dataset = pairs.FacePairs(recipe, faces)
    for number in range(4):
        drawn = pairs.draw(recipe, len(faces), number)
        bgr = cv2.imread(faces[drawn.face].file)
        assert bgr is not None
        truth = pairs.apply_move(np.ascontiguousarray(bgr[:, :, ::-1], np.uint8), drawn.move)
        low, same = (picture.numpy() for picture in dataset[number])
        assert np.array_equal(same, truth)
        assert np.array_equal(low, degrade.apply(truth, drawn.degradation))


@pytest.mark.parametrize("pipeline", ["cpu", "device"])
def test_augmented_batches_start_anywhere(tmp_path: Path, pipeline: str) -> None:
    recipe = recipe_with(make_faces(tmp_path / "faces"), EVERYTHING, crop=32)
    faces = find_faces(recipe.data.faces)

    def batches(start: int) -> list[tuple[Tensor, Tensor]]:
        if pipeline == "cpu":
            return list(pairs.cpu_batches(recipe, faces, start))
        return list(device_pairs.device_batches(recipe, faces, start, torch.device("cpu")))

    whole = batches(0)
    assert {(low.shape, truth.shape) for low, truth in whole} == {((2, 3, 8, 8), (2, 3, 32, 32))}
    assert digest(batches(4)) == digest(whole[4:])
    assert len({truth.numpy().tobytes() for _, truth in whole}) == len(whole)


def test_both_pipelines_show_the_same_augmented_truth(tmp_path: Path) -> None:
    recipe = recipe_with(make_faces(tmp_path / "faces"), EVERYTHING, crop=32)
    recipe = dataclasses.replace(recipe, iterations=12)
    faces = find_faces(recipe.data.faces)
    ours = torch.cat([truth.float() for _, truth in pairs.cpu_batches(recipe, faces, 0)])
    device = list(device_pairs.device_batches(recipe, faces, 0, torch.device("cpu")))
    theirs = torch.cat([truth for _, truth in device]) * 255
    assert float((theirs - ours).abs().mean()) < 0.1
    assert float((theirs - ours).abs().max()) <= 6
    lows = torch.cat([low for low, _ in device]) * 255
    assert torch.allclose(lows, lows.round(), atol=1e-3)


def test_the_degradation_sees_the_augmented_truth(tmp_path: Path) -> None:
    """With noise, blur and JPEG as they are drawn, a black truth stays dark: colour comes in front."""
    plan = Augment(brightness=1.0, brightness_range=0.0)
    recipe = recipe_with(make_faces(tmp_path / "faces"), plan)
    faces = find_faces(recipe.data.faces)
    black = dataclasses.replace(pairs.draw(recipe, len(faces), 0).variation, brightness=1e-6)
    truth = augment.before(picture(0), black)
    assert truth.max() == 0
    drawn = pairs.draw(recipe, len(faces), 0).degradation
    theirs = device_degrade.apply(
        device_augment.before(batch([picture(0)]), [black]), [drawn], torch.zeros(1, 3, 64, 64)
    )
    assert float(theirs.max()) == 0
