"""Plans: every shipped one loads, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfsr_edge.calibrate.plan import Plan, load_plan
from bfsr_edge.errors import UsageError
from bfsr_edge.resources import find_toml, list_tomls


def test_every_plan_loads() -> None:
    names = list_tomls("calibrate")
    assert {"default", "exact-skips", "quick"} <= set(names)
    for name in names:
        plan = load_plan(find_toml("calibrate", name))
        assert plan.name == name
        assert plan.summary


def test_defaults_and_changes(tmp_path: Path) -> None:
    assert load_plan(None) == Plan()
    path = tmp_path / "mine.toml"
    path.write_text('method = "mse"\npercentile = 100\nexclude = ["/head/*"]\n')
    plan = load_plan(path, count=7, seed=None)
    assert (plan.name, plan.method, plan.percentile, plan.exclude, plan.count, plan.seed) == (
        "mine",
        "mse",
        100.0,
        ("/head/*",),
        7,
        0,
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("faces = 3", "unknown key 'faces'"),
        ('count = "many"', "count: 'many' is no int"),
        ("count = true", "count: True is no int"),
        ("count = 0", "out of range: count"),
        ("percentile = 50", "out of range: percentile"),
        ('method = "median"', "out of range: method"),
        ('floating = "bf16"', "out of range: floating"),
        ("minimum_share = 2", "out of range: minimum_share"),
        ("exclude = [1]", "exclude: 1 is no str"),
        ("count = ", "cannot be read as TOML"),
    ],
)
def test_mistakes(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        load_plan(path)
