"""What is left behind a kill or on a full disk: whole files, from which the same command goes on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bfsr_edge import files
from bfsr_edge.errors import TrainingError
from bfsr_edge.models import read_header
from bfsr_edge.train import disk, loop
from bfsr_edge.train.log import Log, read_log
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Recipe, Schedule, load_recipe
from tests.train.helpers import SIZE, make_faces, tiny_recipe

ROOT = Path(__file__).resolve().parent.parent.parent

# one process that loads torch once and, as often as asked, forks a run and kills it in the middle
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch._dynamo  # else every run imports it anew
from bfsr_edge.models import load_checkpoint
from bfsr_edge.train.loop import train
from safetensors.numpy import load_file
from tests.train.test_durability import endless

faces, out, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
state, moments = out / "state.safetensors", random.Random(0)
for _ in range(times):
    before = state.stat().st_mtime_ns if state.exists() else 0
    child = os.fork()
    if not child:
        train(endless(faces), out)
        os._exit(3)
    deadline = time.monotonic() + 100
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(moments.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert load_file(state)
    load_checkpoint(out / "last.safetensors")
"""


def endless(faces: Path, iterations: int = 100_000) -> Recipe:
    """Saves at every step; its rate does not depend on how long it is."""
    recipe = tiny_recipe(faces, iterations=iterations, checkpoint_every=1, log_every=1, validate_every=100_000)
    return dataclasses.replace(recipe, schedule=Schedule(decay=0.0, warmup=0))


def test_killed_again_and_again_a_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces")
    out = tmp_path / "run"
    subprocess.run([sys.executable, "-c", KILLER, str(faces), str(out), "5"], cwd=ROOT, check=True, timeout=300)
    killed = train(endless(faces), out, max_minutes=1e-9)  # one step more
    whole = train(endless(faces, killed.iteration), tmp_path / "whole")
    assert whole.iteration > 5
    same(whole.checkpoint, killed.checkpoint)
    same(tmp_path / "whole" / "state.safetensors", out / "state.safetensors")
    rows = read_log(out / "log.csv")
    assert [int(row["iteration"]) for row in rows] == list(range(1, killed.iteration + 1))
    expected = read_log(tmp_path / "whole" / "log.csv")
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    assert not list(out.glob(".*.tmp")), "what was half-written is swept away"


def test_a_kill_between_the_last_two_files_heals_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, out = make_faces(tmp_path / "faces"), tmp_path / "run"
    recipe = tiny_recipe(faces)

    class Killed(Exception):
        pass

    def killed(*_arguments: object) -> None:
        raise Killed

    train(recipe, out, max_minutes=1e-9)
    monkeypatch.setattr(loop, "save_state", killed)
    with pytest.raises(Killed):
        train(dataclasses.replace(recipe, checkpoint_every=6), out)
    monkeypatch.undo()
    assert read_header(out / "last.safetensors")["iteration"] == "6"
    said: list[str] = []
    assert train(recipe, out, announce=said.append).finished
    assert "going on at iteration 1 of 6" in said
    same(train(recipe, tmp_path / "whole").checkpoint, out / "last.safetensors")


def same(one: Path, two: Path) -> None:
    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# the limit hits every file that grows beyond it, as a full disk does; the first argument is the limit
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from bfsr_edge.cli import main
main()
"""


def test_a_disk_that_takes_no_more_ends_in_one_error_and_the_last_state_is_whole(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces")
    out, toml = tmp_path / "run", tmp_path / "tiny.toml"
    toml.write_text(
        "iterations = 100\nbatch = 2\ncheckpoint_every = 5\nlog_every = 1\nvalidate_every = 400\n"
        f"[data]\nsize = {SIZE}\nworkers = 0\nholdout = 2\n"
        "[network]\nsettings = { widths = [4, 8], encoder = [0, 1], decoder = [1] }\n"
    )
    arguments = ["train", "--recipe", str(toml), "--faces", str(faces), "--out", str(out)]
    recipe = load_recipe(toml, {"data": {"faces": str(faces)}})
    train(recipe, out, max_minutes=1e-9)
    before = (out / "state.safetensors").read_bytes()
    limit = str(len(before) - 1000)  # its header is not always of one length
    words = [sys.executable, "-c", LIMITED, limit, *arguments]
    full = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)  # no configuration there
    assert full.returncode == 1
    assert full.stderr.count("the disk is full") == 1
    assert "a file may not grow as large here" in full.stderr
    assert "state.safetensors of iteration 1 is whole" in full.stderr
    assert "give the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert (out / "state.safetensors").read_bytes() == before
    assert read_header(out / "last.safetensors")["iteration"] == "5", "whole too, and newer: it fitted"
    assert not list(out.glob(".*.tmp"))
    assert [row["iteration"] for row in read_log(out / "log.csv")] == ["1", "2", "3", "4", "5"]
    assert train(recipe, out, max_minutes=1e-9).iteration == 2


# inside a file system of 2 MB that is ours alone
FULL = """
import sys
from pathlib import Path
from bfsr_edge.errors import TrainingError
from bfsr_edge.train.loop import train
from tests.train.test_durability import endless

faces, out = Path(sys.argv[1]), Path(sys.argv[2]) / "run"
train(endless(faces), out, max_minutes=1e-9)
kept = {name: (out / name).read_bytes() for name in ("state.safetensors", "last.safetensors")}
filler = out.parent / "filler"
with open(filler, "wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass
try:
    train(endless(faces), out)
except TrainingError as error:
    print(error)
assert kept == {name: (out / name).read_bytes() for name in kept}
filler.unlink()
assert train(endless(faces), out, max_minutes=1e-9).iteration == 2
print("went on")
"""


def test_a_file_system_without_space(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]).returncode:
        pytest.skip("no file system may be mounted here; the test of the size limit does the same")
    faces, place = make_faces(tmp_path / "faces"), tmp_path / "small"
    place.mkdir()
    shell = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$4" "$1"'
    words = [unshare, "-rm", "sh", "-c", shell, "sh", str(place), sys.executable, FULL, str(faces)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stdout
    assert "no space is left on the device" in done.stdout
    assert "went on" in done.stdout
    assert "Traceback" not in done.stderr


def test_errors_of_the_disk_say_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be written to") as caught, disk.writing(tmp_path, 0):
        (tmp_path / "missing" / "file").write_text("")
    assert "nothing was saved yet" in caught.value.fix


def test_only_leftovers_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".state.safetensors.{gone.pid}.tmp", f".log.csv.{os.getppid()}.tmp", "mine.tmp"):
        (tmp_path / name).touch()
    disk.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f".log.csv.{os.getppid()}.tmp", "mine.tmp"}


def test_leftovers_of_this_number_and_of_impossible_ones(tmp_path: Path) -> None:
    """An earlier run in a container had this number; a number that no system has is nobody's to remove."""
    beyond = f".log.csv.{'9' * 30}.tmp"
    for name in (f".log.csv.{os.getpid()}.tmp", beyond):
        (tmp_path / name).touch()
    disk.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [beyond]


def test_what_a_kill_leaves_has_the_name_that_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, _target: Path) -> None:
        os.link(source, tmp_path / "run" / source.name.replace(str(os.getpid()), str(gone.pid)))
        raise OSError("killed")

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        files.replace(tmp_path / "run" / "log.csv", b"")
    assert len(list((tmp_path / "run").iterdir())) == 1
    disk.sweep(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_row_that_was_cut_off_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for iteration in (1, 2):
        log.write(iteration, 0.5, {"loss": 0.25, "rate": 1e-3, "faces_per_second": 12.0})
    log.close()
    path = tmp_path / "log.csv"
    text = path.read_bytes()
    begin = text.index(b"\n2,") + 1
    for end in range(begin, len(text)):
        path.write_bytes(text[:end])
        assert [row["iteration"] for row in read_log(path)] == ["1"], text[begin:end]
    resumed = Log(tmp_path, 1)
    resumed.write(2, 0.6, {"loss": 0.5, "gan": 0.125})
    resumed.close()
    rows = read_log(path)
    assert [(row["iteration"], row["loss"], row["gan"]) for row in rows] == [("1", "0.25", ""), ("2", "0.5", "0.125")]
    again = Log(tmp_path, 2)
    again.write(3, 0.7, {"gan": 0.25})
    again.close()
    assert [row["gan"] for row in read_log(path)] == ["", "0.125", "0.25"]
    path.write_bytes(text.replace(b"1,", b"\0\0", 1))
    assert [row["iteration"] for row in read_log(path)] == ["2"], "blocks that never reached the disk hold zeros"
