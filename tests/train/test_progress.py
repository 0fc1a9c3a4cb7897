"""What a person sees of a run while it goes."""

from __future__ import annotations

import pytest

from bfsr_edge.train.progress import Display, Pace, duration
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import Training


def test_the_rest_is_reckoned_from_the_steps_behind_the_first() -> None:
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    now[0] = 50.0  # a slow first step: loading, compiling
    assert pace.left(41) is None
    now[0] = 60.0
    assert pace.left(51) == pytest.approx(49.0)
    now[0] = 70.0  # a validation in between counts
    assert pace.left(61) == pytest.approx(39.0)
    now[0] = 90.0
    assert pace.left(100) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.4, "1 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def stand_at(training: Training, iteration: int) -> Training:
    training.iteration = iteration
    return training


def test_without_a_terminal_lines_come_at_validations_and_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    training = Training.__new__(Training)  # only its iteration is looked at
    recipe = Recipe(name="long " * 30, iterations=1000)
    with Display(recipe, quiet=False) as display:
        display.announce("a line with [brackets] " + "that is longer than a terminal is wide " * 4)
        for iteration in range(1, 301):
            row = {"loss": 0.125, "faces_per_second": 10.0} if iteration % 50 == 0 else {}
            if iteration == 200:
                row["val_psnr"] = 28.5
            display.report(stand_at(training, iteration), row)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3, "the announcement, the first figures, the validation"
    assert "[brackets]" in lines[0]
    assert lines[1].startswith("iteration 50: loss 0.1250, 10.0 faces/s, ")
    assert lines[1].endswith(" left")
    assert lines[2].startswith("iteration 200: loss 0.1250, 10.0 faces/s, 28.500 dB, ")
    with Display(recipe, quiet=True) as display:
        display.announce("nothing")
        display.report(stand_at(training, 300), {"loss": 1.0})
    assert capsys.readouterr() == ("", "")
