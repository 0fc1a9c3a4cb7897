"""The stages between finding and the account: what vanishes, stops or is killed while pictures are on their way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bfsr_edge import images
from bfsr_edge.restore import pipeline, plan
from bfsr_edge.restore.channels import Budget, Channel, Closed
from bfsr_edge.restore.find import find
from bfsr_edge.restore.options import Options
from bfsr_edge.runtime import base

Photo = Callable[..., npt.NDArray[Any]]
ROOT = Path(__file__).resolve().parents[2]


class Nearest(base.Engine):
    """Each pixel four by four times; counts what runs at the same time."""

    def __init__(self, tile: int, streams: int = 1, seconds: float = 0.0) -> None:
        info = base.EngineInfo("nearest", "none", "1", "cpu", "fp32", 4, 1, 1, (tile, tile), "")
        super().__init__(info, streams)
        self.seconds, self.running, self.most = seconds, 0, 0

    def _infer(self, batch: base.Batch) -> base.Batch:
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        self.running -= 1
        return batch.repeat(4, 2).repeat(4, 3)


@pytest.fixture
def photos(tmp_path: Path, photo: Photo) -> Path:
    for number in range(12):
        images.write(tmp_path / "photos" / f"{number:02}.png", photo(40 + number, 50, seed=number))
    return tmp_path / "photos"


def tasks_of(photos: Path, out: Path, options: Options) -> tuple[list[plan.Task], list[plan.Outcome]]:
    return plan.decide(find([str(photos)], out).jobs, options, "0" * 64)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def check(photos: Path, out: Path, name: str) -> None:
    source = images.read(photos / name).pixels
    np.testing.assert_array_equal(images.read(out / name).pixels, source.repeat(4, 0).repeat(4, 1))


# ---- what happens meanwhile


def test_files_that_vanish_fail_alone(photos: Path) -> None:
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=32, overlap=4))
    for number in (0, 5, 11):
        (photos / f"{number:02}.png").unlink()
    for step in pipeline.run(tasks, Options(tile=32, overlap=4), Nearest):
        assert not step.note
    assert [outcome.status == "failed" for outcome in outcomes] == [number in (0, 5, 11) for number in range(12)]
    assert "No such file" in outcomes[0].reason
    assert len(names(out)) == 9


def test_a_result_folder_that_is_removed_is_made_again(photos: Path) -> None:
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=32, overlap=4))
    removed = 0
    for step in pipeline.run(tasks, Options(tile=32, overlap=4), lambda tile: Nearest(tile, seconds=0.01)):
        if step.finished and not removed:
            removed = 1
            shutil.rmtree(out, ignore_errors=True)
    # what was being written then may have failed; everything else is there or was removed by us
    assert {outcome.status for outcome in outcomes} <= {"restored", "failed"}
    assert sum(outcome.status == "restored" for outcome in outcomes) >= 8
    assert all("unexpected" not in outcome.reason for outcome in outcomes)
    left = names(out)
    assert not [name for name in left if name.startswith(".")]
    for name in left:
        check(photos, out, name)


def test_a_result_folder_that_becomes_a_file_fails_the_rest(photos: Path) -> None:
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=32, overlap=4))
    done = 0
    for step in pipeline.run(tasks, Options(tile=32, overlap=4), lambda tile: Nearest(tile, seconds=0.01)):
        done += step.finished is not None
        if done == 3 and step.finished:
            shutil.rmtree(out, ignore_errors=True)
            if not out.exists():
                out.write_bytes(b"in the way")
    assert done == 12
    assert {outcome.status for outcome in outcomes} <= {"restored", "failed"}
    assert all("unexpected" not in outcome.reason for outcome in outcomes)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_result_folder_that_becomes_read_only(photos: Path) -> None:
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=32, overlap=4))
    for step in pipeline.run(tasks, Options(tile=32, overlap=4), Nearest):
        if step.finished:
            out.chmod(0o500)
    out.chmod(0o700)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert failed
    assert all("ermission" in outcome.reason and outcome.fix for outcome in failed)


def test_a_writer_that_fails_does_not_hold_up_the_network(photos: Path) -> None:
    """Results have tiles on their way when writing gives up: nobody may wait for room in them for ever."""
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=16, overlap=2))
    for task in tasks[:11]:
        task.job.target.mkdir(parents=True)  # os.replace cannot put a file there
    for _ in pipeline.run(tasks, Options(tile=16, overlap=2), Nearest):
        pass
    assert [outcome.status for outcome in outcomes] == ["failed"] * 11 + ["restored"]


def test_closing_early_ends_every_thread(photos: Path) -> None:
    out = photos.parent / "out"
    tasks, outcomes = tasks_of(photos, out, Options(tile=16, overlap=2))
    before = threading.active_count()
    steps = pipeline.run(tasks, Options(tile=16, overlap=2), lambda tile: Nearest(tile, streams=2, seconds=0.005))
    for step in steps:
        if step.finished:
            break
    steps.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before
    told = [outcome.status for outcome in outcomes]
    assert told.count("restored") == len(names(out)) < 12
    assert told.count("interrupted") == 12 - told.count("restored")
    assert not [name for name in names(out) if name.startswith(".")]


def test_the_network_runs_as_many_at_a_time_as_it_has_streams(photos: Path) -> None:
    engine = Nearest(16, streams=3, seconds=0.02)
    tasks, outcomes = tasks_of(photos, photos.parent / "out", Options(tile=16, overlap=2))
    for _ in pipeline.run(tasks[:3], Options(tile=16, overlap=2), lambda tile: engine):
        pass
    assert engine.most == 3
    for outcome in outcomes[:3]:
        check(photos, photos.parent / "out", outcome.source.name)


# ---- signals


def start(photos: Path, out: Path, model: Path) -> subprocess.Popen[str]:
    words = ["restore", str(photos), "-o", str(out), "--model", str(model), "--json", "--faces", "off"]
    words += ["--reduce", "1", "--tile", "32", "--overlap", "4"]
    listening = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(
        [sys.executable, "-m", "bfsr_edge.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening,
    )  # fmt: skip


def wait_for(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (out.is_dir() and len(names(out)) >= count) and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture
def many(tmp_path: Path, photo: Photo) -> Path:
    for number in range(150):
        images.write(tmp_path / "many" / f"{number:03}.png", photo(90, 110, seed=number))
    return tmp_path / "many"


@pytest.mark.skipif(os.name == "nt", reason="signals differ there")
def test_an_impatient_user_leaves_only_whole_pictures(many: Path, nearest: Path) -> None:
    out = many.parent / "out"
    running = start(many, out, nearest)
    wait_for(out, 3)
    for _ in range(4):
        running.send_signal(signal.SIGINT)
        time.sleep(0.01)
    stdout, _ = running.communicate(timeout=60)
    assert running.returncode in (1, -signal.SIGINT, 128 + signal.SIGINT)
    assert not [name for name in names(out) if name.startswith(".")]
    for name in names(out):
        check(many, out, name)
    if stdout:
        assert json.loads(stdout)["restored"] == len(names(out))


@pytest.mark.skipif(os.name == "nt", reason="signals differ there")
def test_what_was_killed_is_finished_by_the_next_run(many: Path, nearest: Path) -> None:
    out = many.parent / "out"
    whole: set[str] = set()
    for least in (1, 40):
        running = start(many, out, nearest)
        wait_for(out, max(least, len(whole) + 1))
        running.kill()
        running.communicate(timeout=60)
        left = {name for name in names(out) if not name.startswith(".")}
        assert whole <= left
        for name in left - whole:
            check(many, out, name)
        whole = left
    assert 0 < len(whole) < 150
    stdout, stderr = start(many, out, nearest).communicate(timeout=120)
    told = json.loads(stdout)
    assert told["skipped"] + told["restored"] == 150, stderr
    assert told["skipped"] == len(whole)
    assert names(out) == names(many)  # nothing of the runs before is left


# ---- two runs at a time


@pytest.mark.parametrize("attempt", range(3))
def test_two_first_runs_of_openvino_do_not_wait_for_each_other(attempt: int, nearest: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys, threading, numpy\nfrom bfsr_edge import runtime\n"
        "engine = runtime.load(sys.argv[1], tile=32, streams=4)\nbarrier = threading.Barrier(4)\n"
        "def run():\n    barrier.wait()\n    engine.run(numpy.zeros((1, 3, 32, 32), numpy.float32))\n"
        "threads = [threading.Thread(target=run) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]"
    )
    subprocess.run([sys.executable, "-c", code, str(nearest)], check=True, timeout=60)


# ---- many files


def test_deciding_does_not_take_the_square_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4000):
        (folder / f"{number}.png").touch()
    began = time.process_time()
    found = find([str(folder)], tmp_path / "out", suffix="_x")
    tasks, outcomes = plan.decide(found.jobs, Options(), "")
    # 16 million comparisons took a minute
    assert time.process_time() - began < 20
    assert not tasks
    assert [outcome.status for outcome in outcomes] == ["failed"] * 4000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_count(tmp_path: Path, nearest: Path) -> None:
    script = ROOT / "benchmarks" / "photographs.py"
    done = subprocess.run(
        [sys.executable, str(script), "--count", "400", "--model", str(nearest)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    quarter, *_, end = (int(text) for text in done.stdout.split("each quarter ")[1].split(" MB")[0].split(","))
    assert end < quarter + 40  # megabytes; a picture that stayed would add up to 400 times its result's 5


# ---- queues


def test_a_channel_wakes_up_who_waits() -> None:
    full: Channel[int] = Channel(1, [1])
    empty: Channel[int] = Channel(1)
    woken = []

    def wait(what: Callable[[], object]) -> None:
        with pytest.raises(Closed):
            what()
        woken.append(1)

    threads = [threading.Thread(target=wait, args=(what,)) for what in (lambda: full.put(2), empty.get)]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join(10)
    assert woken == [1, 1]
    with pytest.raises(Closed):
        full.get()


def test_a_budget_grants_more_than_all_to_one_alone() -> None:
    budget = Budget(10)
    budget.take(25)
    waiting = threading.Thread(target=budget.take, args=(1,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    budget.give(25)
    waiting.join(10)
    assert not waiting.is_alive()
