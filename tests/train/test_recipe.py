"""Recipes, schedules and losses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bfsr_edge.errors import UsageError
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.settings import read_setting
from bfsr_edge.train.losses import LOSSES
from bfsr_edge.train.recipe import LOSSES as LOSS_NAMES
from bfsr_edge.train.recipe import Adversarial, Loss, Optimizer, Recipe, Schedule, load_recipe
from bfsr_edge.train.schedule import discriminator_rate, loss_name, rate


@pytest.mark.parametrize("name", list_tomls("train"))
def test_every_recipe_loads_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(find_toml("train", name))
    assert recipe.name == name
    assert recipe.summary


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_toml_holds_what_differs_and_later_tables_win(tmp_path: Path) -> None:
    path = write(tmp_path, 'batch = 3\n[optimizer]\nrate = 1\n[data]\nfaces = "here"\nflip = 0.1\n')
    recipe = load_recipe(path, {"data": {"faces": ["a", "b"]}}, {"batch": 5})
    assert (recipe.name, recipe.batch, recipe.optimizer.rate) == ("mine", 5, 1.0)
    assert (recipe.data.faces, recipe.data.flip) == (("a", "b"), 0.1)
    assert recipe.iterations == Recipe().iterations


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batchsize = 3", "batchsize"),
        ("[data]\nflop = 1", "flop"),
        ("batch = 0", "batch"),
        ("batch = 1.5", "batch"),
        ("batch = true", "batch"),
        ('[loss]\nfirst = "l3"', "loss.first"),
        ("[data]\nflip = 1.5", "data.flip"),
        ("[data]\nsize = 100", "data.size"),
        ('[schedule]\nkind = "cosine-restarts"', "schedule.periods"),
        ("data = 3", "data"),
        ("batch = ", "TOML"),
        ("[optimizer]\nbetas = [0.9]", "betas"),
        ("[optimizer]\nbetas = [0.9, 1.0]", "optimizer.betas"),
        ('[schedule]\nperiods = ["long"]', "periods"),
        ('[schedule]\nkind = "cosine-restarts"\nperiods = [5, 5]\npeaks = [1]', "schedule.peaks"),
        ("[loss]\nweight = 0", "loss.weight"),
        ("[augment]\njitter_contrast = [1.25, 0.75]", "augment.jitter_contrast"),
        ("[data]\nholdout = 0", "data.holdout"),
        ("[data]\ncrop = 30", "data.crop"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("batch=4", {"batch": 4}),
        ("loss.weight=1e-2", {"loss": {"weight": 0.01}}),
        ("loss.first=l1", {"loss": {"first": "l1"}}),
        ("adversarial.perceptual_file=/a/b=c.pth", {"adversarial": {"perceptual_file": "/a/b=c.pth"}}),
    ],
)
def test_settings_of_the_command_line_are_toml_or_text(text: str, table: dict[str, object]) -> None:
    assert read_setting(text) == table


@pytest.mark.parametrize("text", ["batch", "=3", "a b=3"])
def test_settings_without_a_key_or_value_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        read_setting(text)


def test_flat_cosine_warms_up_stays_and_falls() -> None:
    recipe = Recipe(
        iterations=1000, optimizer=Optimizer(rate=1.0), schedule=Schedule(warmup=100, decay=0.4, minimum=0.1)
    )
    assert rate(recipe, 0) == pytest.approx(0.01)
    assert rate(recipe, 99) == rate(recipe, 600) == 1.0
    assert rate(recipe, 800) == pytest.approx(0.55)
    assert rate(recipe, 999) == pytest.approx(0.1, abs=1e-4)


def test_five_cosine_cycles_of_the_second_reference_system() -> None:
    plan = Schedule(
        "cosine-restarts",
        warmup=0,
        periods=(30_000,) * 5,
        peaks=(1, 1, 1, 1, 0.1),
        minima=(1e-7, 1e-7, 1e-7, 1e-7, 1e-9),
    )
    recipe = Recipe(iterations=150_000, optimizer=Optimizer(rate=1e-4), schedule=plan)
    for start in (0, 30_000, 90_000):
        assert rate(recipe, start) == pytest.approx(1e-4)
        assert rate(recipe, start + 15_000) == pytest.approx((1e-4 + 1e-7) / 2)
        assert rate(recipe, start + 29_999) == pytest.approx(1e-7, rel=0.01)
    assert rate(recipe, 120_000) == pytest.approx(1e-5)
    assert rate(recipe, 149_999) == pytest.approx(1e-9, rel=0.1)


def test_multistep_halves_at_its_milestones() -> None:
    plan = Schedule("multistep", warmup=0, milestones=(5, 10), gamma=0.5)
    recipe = Recipe(iterations=20, optimizer=Optimizer(rate=1.0), schedule=plan)
    assert [rate(recipe, i) for i in (4, 5, 9, 10, 19)] == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_the_discriminator_follows_the_schedule_from_its_own_peak() -> None:
    plan = Schedule("multistep", warmup=0, milestones=(5,), gamma=0.5)
    recipe = Recipe(optimizer=Optimizer(rate=4e-4), adversarial=Adversarial(rate=1e-4), schedule=plan)
    assert [discriminator_rate(recipe, i) for i in (4, 5)] == pytest.approx([1e-4, 5e-5])


def test_the_second_loss_takes_over() -> None:
    recipe = Recipe(iterations=10, loss=Loss("l1", "mse", 0.6))
    assert [loss_name(recipe, i) for i in (0, 5, 6, 9)] == ["l1", "l1", "mse", "mse"]


def test_losses_have_their_published_values() -> None:
    assert set(LOSSES) == set(LOSS_NAMES)
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.1)
    assert float(LOSSES["l1"](a, b)) == pytest.approx(0.1)
    assert float(LOSSES["mse"](a, b)) == pytest.approx(0.01)
    assert float(LOSSES["charbonnier"](a, b)) == pytest.approx(0.1)
    assert float(LOSSES["psnr"](a, b)) == pytest.approx(math.log10(0.01), abs=1e-5), "20 dB: minus a tenth per dB"


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_losses_have_finite_gradients_where_nothing_is_wrong(name: str) -> None:
    x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    LOSSES[name](x, x.detach().clone()).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
