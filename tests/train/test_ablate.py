"""Ablations: schedules in proportion, what counts as equal, halting, going on, failures, table and curves."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bfsr_edge.cli import main
from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.train.ablation.recipes import differences, equalised, shortened
from bfsr_edge.train.ablation.rule import Rule, halts_at
from bfsr_edge.train.ablation.run import Ablation
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Data, Network, Optimizer, Recipe, Schedule, load_recipe
from bfsr_edge.train.schedule import loss_name, rate
from tests.train.helpers import SIZE, make_faces, tiny_recipe


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("data") / "faces", 6)


# ---- equal length

CYCLES = Schedule("cosine-restarts", warmup=40, periods=(200, 200, 600), peaks=(1, 1, 0.1), minimum=1e-7)
PLANS = {
    "flat-cosine": Schedule(warmup=40, decay=0.4),
    "cosine-restarts": CYCLES,
    "multistep": Schedule("multistep", warmup=0, milestones=(120, 240, 800)),
}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("iterations", [50, 2000])
def test_a_scaled_schedule_has_the_original_rate_at_the_same_part_of_the_run(kind: str, iterations: int) -> None:
    whole = Recipe(iterations=1000, schedule=PLANS[kind])
    scaled = shortened(whole, iterations)
    assert scaled.iterations == iterations
    # warm-up counts its first step as 1, so it is compared apart
    pairs = {50: [(n, n * 20) for n in range(2, 50)], 2000: [(n * 2, n) for n in range(40, 1000)]}
    for step, original in pairs[iterations]:
        assert rate(scaled, step) == pytest.approx(rate(whole, original), rel=1e-9), step
    assert rate(scaled, 0) == (rate(scaled, 2) if kind == "multistep" else pytest.approx(5e-4 / scaled.schedule.warmup))
    assert scaled.schedule.warmup == whole.schedule.warmup * iterations // 1000


@pytest.mark.parametrize("name", list_tomls("train"))
def test_every_recipe_of_ours_can_be_shortened(name: str) -> None:
    whole = load_recipe(find_toml("train", name))
    short = shortened(whole, 777)
    assert sum(short.schedule.periods) == round(sum(whole.schedule.periods) * 777 / whole.iterations)
    end = rate(whole, whole.iterations - 1)
    assert rate(short, 776) == pytest.approx(end, abs=1e-3 * whole.optimizer.rate)
    assert loss_name(short, 776) == loss_name(whole, whole.iterations - 1)
    assert shortened(whole, whole.iterations) == whole


def test_rounding_does_not_add_up_and_what_cannot_be_shortened_is_refused() -> None:
    plan = Schedule("cosine-restarts", warmup=0, periods=(10,) * 10)
    assert sum(shortened(Recipe(iterations=100, schedule=plan), 75).schedule.periods) == 75
    with pytest.raises(UsageError, match="10 cosine periods, which do not fit into 7"):
        shortened(Recipe(iterations=100, schedule=plan), 7)


def test_what_differs_is_listed_and_nothing_else(faces: Path) -> None:
    first = tiny_recipe(faces, name="first", schedule=Schedule(warmup=3))
    other = tiny_recipe(
        faces,
        name="other",
        summary="another",
        iterations=60,
        batch=3,
        optimizer=Optimizer(rate=1e-4),
        schedule=Schedule("multistep", warmup=30, milestones=(20, 40)),
        network=Network("edge-unet", {"widths": [4, 8], "encoder": [0, 1], "decoder": [2]}),
    )
    baseline, challenger = equalised([first, other])
    assert (challenger.iterations, challenger.validate_every) == (6, 1)
    assert differences(baseline, baseline) == []
    assert differences(challenger, baseline) == [
        "network.settings.decoder = [2]",
        "optimizer.rate = 0.0001",
        'schedule.kind = "multistep"',
        "schedule.milestones = [2, 4]",
        "batch = 3",
    ]


def test_runs_that_would_not_be_judged_alike_are_refused(faces: Path) -> None:
    first = tiny_recipe(faces, name="first", seed=3)
    assert [r.seed for r in equalised([first, tiny_recipe(faces, name="b", seed=4)])] == [3, 3]
    with pytest.raises(UsageError, match="two recipes are called first"):
        equalised([first, first])
    for name in ("../first", "", ".."):
        with pytest.raises(UsageError, match="name of a folder"):
            equalised([tiny_recipe(faces, name=name)])
    other = Data(faces=(str(faces),), size=SIZE, holdout=3, workers=0)
    with pytest.raises(UsageError, match=r"other pictures: data\.holdout differ"):
        equalised([first, tiny_recipe(faces, name="other", data=other)])


# ---- when one is halted


def test_the_rule_counts_from_the_grace_on_and_needs_a_score_of_both() -> None:
    baseline = {10: 20.0, 20: 24.0, 30: 25.0, 40: 26.0}
    assert halts_at({10: 15.0, 20: 23.5, 30: 24.0, 40: 20.0}, baseline, Rule(0.75, 0.3), 40) == 30
    assert halts_at({10: 15.0, 20: 23.5}, baseline, Rule(0.75, 0.3), 40) is None, "10 lies in the grace"
    assert halts_at({10: 15.0}, baseline, Rule(0.75, 0.25), 40) == 10, "the grace ends at 10"
    assert halts_at({30: 24.25}, baseline, Rule(0.75, 0.3), 40) is None, "exactly as far behind is not more"
    assert halts_at({40: 1.0}, baseline, Rule(0.75, 0.3), 40) is None, "it has finished"
    assert halts_at({25: 1.0}, baseline, Rule(0.75, 0.3), 40) is None, "the baseline has no score there"
    assert halts_at({30: 1.0}, baseline, Rule(), 40) is None


# ---- runs


def write_recipe(folder: Path, name: str, **top: Any) -> str:
    """A TOML of a tiny run; a key with a dot goes into its table. Returns its path."""
    values: dict[str, Any] = {"iterations": 20, "batch": 2, "checkpoint_every": 2, "log_every": 2, "data.size": SIZE}
    values |= {"data.workers": 0, "data.holdout": 2, "optimizer.rate": 1e-2, "schedule.warmup": 0, "ema": 0.0}
    values |= {"network.settings": {"widths": [4, 8], "encoder": [0, 1], "decoder": [1]}, **top}
    lines = [f"{key} = {toml(value)}\n" for key, value in values.items()]
    path = folder / f"{name}.toml"
    path.write_text("".join(lines))
    return str(path)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def ablate(out: Path, faces: Path, *arguments: str) -> Result:
    words = ["ablate", *arguments, "--faces", str(faces), "--out", str(out), "--device", "cpu"]
    return CliRunner().invoke(main, words, catch_exceptions=False)


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "table.csv", newline="", encoding="utf-8") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def validated(out: Path, name: str) -> list[int]:
    with open(out / name / "log.csv", newline="", encoding="utf-8") as file:
        return [int(row["iteration"]) for row in csv.DictReader(file) if row["val_psnr"]]


def times(out: Path, *names: str) -> list[int]:
    return [(out / name / "state.safetensors").stat().st_mtime_ns for name in names]


def test_one_that_must_lose_is_halted_and_the_table_says_when(faces: Path, tmp_path: Path) -> None:
    good = write_recipe(tmp_path, "good")
    same = write_recipe(tmp_path, "same", summary="the same under another name", iterations=40)
    loser = write_recipe(tmp_path, "loser", **{"optimizer.rate": 1e-9})
    out = tmp_path / "out"
    arguments = (good, loser, same, "--iterations", "10", "--validate-every", "5", "--stop-behind", "0.05")
    done = ablate(out, faces, *arguments)
    assert done.exit_code == 0, done.output
    rows = table(out)
    assert [(name, row["status"], row["iterations"]) for name, row in rows.items()] == [
        ("good", "finished", "10"),
        ("loser", "halted", "5"),
        ("same", "finished", "10"),
    ]
    assert validated(out, "good") == validated(out, "same") == [5, 10]
    assert validated(out, "loser") == [5]
    assert float(rows["loser"]["delta"]) < -0.05
    assert float(rows["same"]["delta"]) == 0.0
    assert rows["good"]["delta"] == ""
    assert rows["loser"]["differs"] == "optimizer.rate = 1e-09"
    assert rows["same"]["differs"] == ""
    assert int(rows["good"]["parameters"]) > 1000
    assert float(rows["good"]["gmac"]) > 0
    assert float(rows["good"]["faces_per_second"]) > 0
    assert float(rows["good"]["final"]) <= float(rows["good"]["best"])
    markdown = (out / "table.md").read_text("utf-8")
    assert done.stdout == markdown
    assert "| halted at 5 |" in markdown
    assert "| *the baseline* |" in markdown
    assert f"{float(rows['loser']['delta']):+.3f} dB against good" in done.stderr
    with Image.open(out / "curves.png") as picture:
        assert picture.size == (1100, 700)

    before = times(out, "good", "loser", "same")
    drawn = (out / "curves.png").read_bytes()
    again = ablate(out, faces, *arguments)
    assert again.stdout == done.stdout
    assert times(out, "good", "loser", "same") == before, "neither finished nor halted runs are run again"
    assert (out / "curves.png").read_bytes() == drawn

    # with no rule the halted one goes on; the others stay
    free = ablate(out, faces, *arguments[:-2])
    assert free.exit_code == 0, free.output
    assert table(out)["loser"]["status"] == "finished"
    assert validated(out, "loser") == [5, 10]
    assert times(out, "good", "same") == [before[0], before[2]]
    assert "loser: finished" in free.stderr


def test_a_longer_list_runs_what_is_new_and_another_run_of_that_name_is_refused(faces: Path, tmp_path: Path) -> None:
    a, b, c = (
        write_recipe(tmp_path, name, **{"optimizer.rate": r}) for name, r in (("a", 1e-2), ("b", 2e-2), ("c", 3e-2))
    )
    out = tmp_path / "out"
    short = ("--iterations", "4", "--validate-every", "4")
    assert ablate(out, faces, a, b, *short).exit_code == 0
    before = times(out, "a", "b")
    more = ablate(out, faces, c, a, "--baseline", "a", *short)
    assert more.exit_code == 0, more.output
    assert times(out, "a", "b") == before
    assert list(table(out)) == ["a", "c"], "the baseline stands first"
    assert f"{out / 'b'} is kept" in more.stderr
    assert set(json.loads((out / "ablate.json").read_text())["runs"]) == {"a", "b", "c"}

    record = json.loads((out / "ablate.json").read_text())
    del record["runs"]["a"]["recipe"]["augment"]
    (out / "ablate.json").write_text(json.dumps(record))
    assert ablate(out, faces, a, b, *short).exit_code == 0, "a setting newer than the record counts as its default"
    assert times(out, "a", "b") == before

    longer = ablate(out, faces, a, b, "--iterations", "6", "--validate-every", "4")
    assert longer.exit_code == 2
    assert "another a: iterations differ" in longer.stderr
    write_recipe(tmp_path, "b", **{"optimizer.rate": 5e-2, "ema": 0.5})
    other = ablate(out, faces, a, b, *short)
    assert other.exit_code == 2
    assert "another b: optimizer.rate, ema differ" in other.stderr
    assert times(out, "a", "b") == before, "refused before anything is run"
    d = write_recipe(tmp_path, "d")
    train(tiny_recipe(faces), out / "d")
    foreign = ablate(out, faces, a, d, *short)
    assert foreign.exit_code == 2
    assert "not of this ablation" in foreign.stderr
    (out / "ablate.json").write_text("{}")
    damaged = ablate(out, faces, a, *short)
    assert damaged.exit_code == 2
    assert "no record of an ablation" in damaged.stderr


def test_a_length_from_the_configuration_is_not_laid_over_the_recipes(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_recipe(tmp_path, "one", **{"schedule.warmup": 10})
    (tmp_path / "bfsr-edge.toml").write_text("iterations = 8\n")
    monkeypatch.chdir(tmp_path)
    for length, warmup in (((), 4), (("--iterations", "4"), 2)):
        out = tmp_path / f"out{warmup}"
        done = ablate(out, faces, one, *length)
        assert done.exit_code == 0, done.output
        run = json.loads((out / "ablate.json").read_text())["runs"]["one"]["recipe"]
        assert (run["iterations"], run["schedule"]["warmup"]) == (2 * warmup, warmup), "in proportion to its own 20"


def test_a_failing_run_is_recorded_and_the_others_go_on(faces: Path, tmp_path: Path) -> None:
    good = write_recipe(tmp_path, "good")
    diverging = write_recipe(tmp_path, "diverging", **{"optimizer.rate": 1e30, "log_every": 1})
    wrong = write_recipe(tmp_path, "wrong", **{"network.weights": "nowhere.safetensors"})
    out = tmp_path / "out"
    # the worst first: a baseline that fails takes nothing with it
    arguments = (wrong, diverging, good, "--iterations", "6", "--validate-every", "3", "--stop-behind", "0.1")
    done = ablate(out, faces, *arguments)
    assert done.exit_code == 1
    rows = table(out)
    assert [row["status"] for row in rows.values()] == ["failed", "failed", "finished"]
    assert "nowhere.safetensors" in rows["wrong"]["reason"]
    assert "stopped being a number" in rows["diverging"]["reason"]
    assert "| failed: the loss stopped being a number" in done.stdout
    assert rows["good"]["delta"] == ""
    assert "lower optimizer.rate" in done.stderr, "the next step is said"
    before = times(out, "good")
    write_recipe(tmp_path, "wrong", **{"optimizer.rate": 1e-3})
    shutil.rmtree(out / "diverging")
    write_recipe(tmp_path, "diverging", **{"optimizer.rate": 1e-2})
    again = ablate(out, faces, *arguments)
    assert again.exit_code == 0, "failed ones are tried again, and what left nothing behind may have changed"
    assert [row["status"] for row in table(out).values()] == ["finished"] * 3
    assert float(table(out)["good"]["delta"]) > 0
    assert times(out, "good") == before


def test_what_stops_all_runs_is_said_before_the_first(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_recipe(tmp_path, "one")
    bare = CliRunner().invoke(main, ["ablate", one, "--out", str(tmp_path / "out")])
    assert bare.exit_code == 2
    assert "--faces DIR" in bare.stderr
    assert not (tmp_path / "out").exists()
    lost = ablate(tmp_path / "out", tmp_path / "nowhere", one)
    assert lost.exit_code == 2
    assert "nowhere" in lost.stderr
    assert not (tmp_path / "out").exists(), "what would fail every run begins none"
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"ablate\.json cannot be written"):
        Ablation(equalised([tiny_recipe(faces)]), tmp_path / "file").run()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "not under torchrun" in ablate(tmp_path / "out", faces, one).stderr


def test_after_interruptions_the_same_command_goes_on(faces: Path, tmp_path: Path) -> None:
    first = write_recipe(tmp_path, "first")
    second = write_recipe(tmp_path, "second", batch=3)
    out = tmp_path / "out"
    arguments = (first, second, "--validate-every", "8", "--iterations", "16")
    words = [sys.executable, "-m", "bfsr_edge.cli", "ablate", *arguments, "--faces", str(faces), "--out", str(out)]
    state = out / "second" / "state.safetensors"

    def interrupted(number: signal.Signals) -> tuple[int, str, str]:
        """The same command, sent ``number`` as soon as the second run has written a state."""
        written = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not state.exists() or state.stat().st_mtime_ns == written:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, number)
        said, errors = process.communicate(timeout=120)
        return process.returncode, said, errors

    def status() -> list[str]:
        runs = json.loads((out / "ablate.json").read_text())["runs"]
        return [runs[name]["status"] for name in ("first", "second")]

    code, _, _ = interrupted(signal.SIGKILL)  # as a power cut does
    assert code == -signal.SIGKILL
    assert status() == ["finished", "running"]
    before = times(out, "first")
    code, said, errors = interrupted(signal.SIGINT)  # as Ctrl-C does
    assert code == 0, errors
    assert status() == ["finished", "stopped"]
    assert "| stopped at" in said
    assert "the same command goes on" in errors
    on = ablate(out, faces, *arguments)
    assert on.exit_code == 0, on.output
    assert "going on at iteration" in on.stderr
    assert status() == ["finished", "finished"]
    assert times(out, "first") == before
    assert validated(out, "first") == validated(out, "second") == [8, 16]
    assert float(table(out)["second"]["delta"]) != 0
