"""Several processes, started by torchrun as a user does, on the CPU."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bfsr_edge.errors import UsageError
from bfsr_edge.train.distributed import Place, check_batch
from bfsr_edge.train.log import read_log
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Adversarial, Network, Optimizer, Recipe, Schedule, load_recipe
from tests.train.helpers import SIZE, make_faces, tiny_recipe

ROOT = Path(__file__).resolve().parent.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def toml(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(
        "iterations = 8\nbatch = 4\nvalidate_every = 3\nlog_every = 2\ncheckpoint_every = 4\nprecision = 'fp32'\n"
        f"[data]\nsize = {SIZE}\nworkers = 0\nholdout = 2\n"
        "[network]\nsettings = { widths = [4, 8], encoder = [0, 1], decoder = [1] }\n"
    )
    return path


def command(folder: Path, faces: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [*TORCHRUN, "-m", "bfsr_edge.cli", "train", "--recipe", str(toml(folder)), "--faces", str(faces)]
    return subprocess.run(
        [*words, "--out", str(folder / "two"), "--device", "cpu", *more],
        cwd=folder,  # without a configuration
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_two_processes_equal_one_with_the_same_batch(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces")
    done = command(tmp_path, faces, "--iterations", "6")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: 6 iterations") == 1
    assert "cpu in fp32, not compiled; 2 processes" in done.stderr
    assert done.stderr.count("iteration 6: ") == 1, "the first process alone speaks"

    # one process alone goes on where two stopped, and ends where one alone would have ended
    recipe = load_recipe(toml(tmp_path), {"data": {"faces": str(faces)}})
    six = dataclasses.replace(recipe, iterations=6)
    alone = train(six, tmp_path / "alone")
    close(load_file(alone.checkpoint), load_file(tmp_path / "two" / "last.safetensors"))
    half = train(dataclasses.replace(six, batch=2), tmp_path / "half")
    with pytest.raises(AssertionError):
        close(load_file(alone.checkpoint), load_file(half.checkpoint))
    logs = [read_log(tmp_path / run / "log.csv") for run in ("alone", "two")]
    assert [float(row["loss"]) for row in logs[1] if row["loss"]] == pytest.approx(
        [float(row["loss"]) for row in logs[0] if row["loss"]], rel=1e-4
    ), "the mean over both processes"
    resumed = [train(recipe, tmp_path / run) for run in ("alone", "two")]
    close(*(load_file(outcome.checkpoint) for outcome in resumed))


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Equal but for rounding: Adam turns a gradient of almost nothing into a step of either sign."""
    assert one.keys() == two.keys()
    differences = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert float(differences.median()) < 1e-6
    assert float((differences > 1e-5).float().mean()) < 0.02


def test_a_batch_that_cannot_be_shared_is_one_clear_error(tmp_path: Path) -> None:
    done = command(tmp_path, make_faces(tmp_path / "faces"), "--batch", "5")
    assert done.returncode != 0
    assert done.stderr.count("a batch of 5 faces cannot be shared by 2 processes") == 1
    assert done.stderr.count("--batch 4 or --batch 6") == 1
    ours = [line for line in done.stderr.splitlines() if "bfsr_edge" in line and "File" in line]
    assert not ours, "no traceback of ours"


def test_small_batches_and_discriminators(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, batch=4, adversarial=Adversarial(gan=1.0))
    check_batch(recipe, Place(0, 4))
    cut = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop=32))
    check_batch(cut, Place(0, 2))
    with pytest.raises(UsageError, match="batch of 1 face"):
        check_batch(cut, Place(0, 4))


def many_ends(faces: Path, out: Path) -> dict[str, Any]:
    """What each process of a group sees of runs that end in different ways."""
    import os
    import signal

    import torch.distributed as dist

    from bfsr_edge.errors import BfsrError
    from bfsr_edge.train import loop
    from bfsr_edge.train.begin import begin
    from bfsr_edge.train.state import Training

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    seen: dict[str, Any] = {}

    def run(name: str, recipe: Recipe, folder: Path | None = None) -> None:
        try:
            outcome = loop.train(recipe, folder or out / name, device="cpu")
            seen[name] = [outcome.iteration, outcome.finished]
        except BfsrError as error:
            seen[name] = [type(error).__name__, error.what]

    recipe = tiny_recipe(faces, batch=4)
    run("nan", dataclasses.replace(recipe, iterations=40, optimizer=Optimizer(rate=1e30)))

    # only the second process is told to stop
    real, steps = loop.step, 0

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if rank == 1 and steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "step", step)
    run("stop", recipe)
    patch.undo()

    # both discriminators are the same in the end, and the run goes on
    kept: list[Training] = []

    def remember(*arguments: Any) -> Training:
        kept.append(begin(*arguments))
        return kept[-1]

    patch.setattr(loop, "begin", remember)
    network = Network("msrresnet", {"blocks": 1, "channels": 8, "dropout": 0.5})
    data = dataclasses.replace(recipe.data, crop=32)
    terms, plan = Adversarial(gan=5e-3, matching=0.1, channels=2), Schedule(decay=0.0)
    gan = dataclasses.replace(recipe, network=network, data=data, adversarial=terms, schedule=plan)
    run("gan", dataclasses.replace(gan, iterations=4))
    run("gan", gan)
    adversary = kept[-1].adversary
    assert adversary is not None
    assert adversary.discriminator is not None
    seen["sums"] = [
        float(sum(weights.detach().double().abs().sum() for weights in module.parameters()))
        for module in (kept[-1].network, adversary.discriminator)
    ]
    run("whole", gan)

    # each asks its own disk, and the first alone has a state there
    run("apart", gan, out / ("whole" if rank == 0 else "elsewhere"))

    # a face whose header is whole and whose pixels are not, seen by one process only
    victim = sorted(faces.iterdir())[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    run("damaged", recipe)
    dist.destroy_process_group()
    return seen


def test_processes_agree_on_every_end(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces")
    script = tmp_path / "ends.py"
    script.write_text(
        "import json, os, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from tests.train.test_distributed import many_ends\nout = Path(sys.argv[3])\n"
        "seen = many_ends(Path(sys.argv[2]), out)\n"
        "(out / f'{os.environ[\"RANK\"]}.json').write_text(json.dumps(seen))\n"
    )
    done = subprocess.run(
        [*TORCHRUN, str(script), str(ROOT), str(faces), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["nan"] == second["nan"]
    assert "stopped being a number" in first["nan"][1]
    assert first["stop"] == second["stop"] == [3, False]
    assert first["gan"] == second["gan"] == [6, True]
    assert first["sums"] == second["sums"]
    whole, parts = (load_file(tmp_path / run / "state.safetensors") for run in ("whole", "gan"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole), "dropout of both processes goes on too"
    assert not torch.equal(whole["random/0"], whole["random/1"])
    assert "discriminator/body.0.0.weight" in whole, "plain names"
    assert [first["apart"][0], second["apart"][0]] == ["TrainingError", "PeerFailed"]
    assert "do not go on from the same iteration" in first["apart"][1]
    damaged = sorted([first["damaged"], second["damaged"]])
    assert [kind for kind, _ in damaged] == ["PeerFailed", "TrainingError"]
    assert "005.png" in damaged[1][1]
