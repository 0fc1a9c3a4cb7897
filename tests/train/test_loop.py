"""A run: logs, checkpoints, exact resume, limits, interruption, errors, and the command."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]  # not typed
    EventAccumulator,
)

from bfsr_edge.cli import main
from bfsr_edge.errors import TrainingError, UsageError
from bfsr_edge.models import create, load_checkpoint, parameter_count, read_header, save_checkpoint
from bfsr_edge.resources import find_toml, list_tomls
from bfsr_edge.train import dryrun
from bfsr_edge.train.begin import new_training
from bfsr_edge.train.compile import choose_compile
from bfsr_edge.train.devices import checked_device, choose_precision
from bfsr_edge.train.interrupt import Interrupt
from bfsr_edge.train.loop import train
from bfsr_edge.train.recipe import Adversarial, Data, Network, Optimizer, Recipe, load_recipe
from bfsr_edge.train.state import Training, load_state
from bfsr_edge.train.validate import predict
from tests.train.helpers import SIZE, make_faces, tiny_recipe
from tests.train.vgg import make_vgg


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_faces(tmp_path_factory.mktemp("data") / "faces")


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_leaves_log_checkpoints_and_state(faces: Path, tmp_path: Path) -> None:
    outcome = train(tiny_recipe(faces), tmp_path / "run")
    assert outcome.finished
    assert outcome.iteration == 6
    left = [p.name for p in (tmp_path / "run").iterdir()]
    assert sorted("events" if name.startswith("events.") else name for name in left) == [
        "best.safetensors",
        "curves.png",
        "events",
        "faces.png",
        "last.safetensors",
        "log.csv",
        "state.safetensors",
    ]
    log = rows(tmp_path / "run")
    assert [int(r["iteration"]) for r in log] == [2, 3, 4, 6]
    assert all(math.isfinite(float(r["loss"])) for r in log if r["loss"])
    assert float(log[-1]["val_psnr"]) > 10
    assert 0.3 < float(log[2]["loss"]) / float(log[0]["loss"]) < 3, "means over as many steps"
    header = read_header(outcome.checkpoint)
    assert (header["recipe"], header["iteration"], header["faces_seen"]) == ("tiny", "6", "12")
    settings = json.loads(header["settings"])
    assert settings["widths"] == [4, 8]
    assert load_checkpoint(outcome.checkpoint).settings == settings


@pytest.mark.parametrize("optimizer", [Optimizer(rate=5e-3), Optimizer("muon", rate=5e-3)], ids=["adam", "muon"])
def test_training_learns_one_face_by_heart(optimizer: Optimizer, tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", 2)
    data = Data((str(faces),), size=SIZE, holdout=1, workers=0, flip=0.0)
    recipe = tiny_recipe(faces, data=data, iterations=150, optimizer=optimizer, log_every=10)
    train(dataclasses.replace(recipe, validate_every=150, checkpoint_every=150), tmp_path / "run")
    losses = [float(r["loss"]) for r in rows(tmp_path / "run") if r["loss"]]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def varied(faces: Path, tmp_path: Path, how: str) -> Recipe:
    """The tiny recipe with something more that the next step depends on."""
    recipe = tiny_recipe(faces)
    if how == "device":
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, pipeline="device"))
    if how == "gan":
        terms = Adversarial(gan=5e-3, perceptual=1.0, matching=0.1, frequency=1.0, channels=2)
        return dataclasses.replace(
            recipe,
            adversarial=dataclasses.replace(terms, perceptual_file=str(make_vgg(tmp_path))),
            data=dataclasses.replace(recipe.data, crop=32),
            network=Network("msrresnet", {"blocks": 1, "channels": 8}),
        )
    if how == "patch":
        terms = Adversarial(
            gan=5e-3, matching=0.1, lattice=1.0, discriminator="patch", crop=32, channels=2, explained=True
        )
        return dataclasses.replace(recipe, adversarial=terms, optimizer=Optimizer("muon", frozen=("head", "encoder.1")))
    if how == "dropout":
        return dataclasses.replace(recipe, network=Network("msrresnet", {"blocks": 1, "channels": 8, "dropout": 0.5}))
    if how == "muon":
        return dataclasses.replace(recipe, optimizer=Optimizer("muon", weight_decay=0.01))
    return dataclasses.replace(recipe, precision="fp16" if how == "fp16" else "fp32")


@pytest.mark.parametrize("how", ["cpu", "device", "gan", "patch", "dropout", "fp16", "muon"])
def test_interrupted_and_resumed_ends_with_the_same_weights(faces: Path, tmp_path: Path, how: str) -> None:
    recipe = varied(faces, tmp_path, how)
    whole = train(recipe, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(training: Training, row: dict[str, float]) -> None:
        if training.iteration == 5:  # the last state is that of iteration 4: one step is done again
            raise Stop

    with pytest.raises(Stop):
        train(recipe, tmp_path / "parts", report=stop)
    said: list[str] = []
    parts = train(recipe, tmp_path / "parts", announce=said.append)
    assert "going on at iteration 4 of 6" in said
    assert same_weights(whole.checkpoint, parts.checkpoint)
    states = [tmp_path / run / "state.safetensors" for run in ("whole", "parts")]
    assert same_weights(*states)
    scalers = [json.loads(header_of(state)["scaler"]) for state in states]
    assert scalers[0] == scalers[1]
    assert scalers[0].get("_growth_tracker") == (6 if how == "fp16" else None)
    assert any(name.endswith(".running_mean") for name in load_file(states[0])) is (how in ("gan", "patch"))
    strip = [{k: v for k, v in r.items() if k not in ("seconds", "faces_per_second")} for r in rows(tmp_path / "parts")]
    assert strip == [{k: r[k] for k in strip[0]} for r in rows(tmp_path / "whole")]


def header_of(state: Path) -> dict[str, str]:
    with safe_open(state, framework="pt") as file:
        return dict(file.metadata())


def test_adversarial_training_moves_both_logs_every_term_and_names_no_best(faces: Path, tmp_path: Path) -> None:
    recipe = varied(faces, tmp_path, "gan")
    outcome = train(recipe, tmp_path / "run")
    assert outcome.best_checkpoint is None
    assert outcome.best > 5, "PSNR is recorded all the same"
    assert not (tmp_path / "run" / "best.safetensors").exists()
    row = rows(tmp_path / "run")[-1]
    terms = {name: float(row[name]) for name in ("pixel", "gan", "perceptual", "matching", "frequency")}
    assert float(row["loss"]) == pytest.approx(sum(terms.values()), rel=1e-4)
    assert all(value > 0 for value in terms.values())
    assert float(row["discriminator"]) > 0
    state = load_file(tmp_path / "run" / "state.safetensors")
    fresh = new_training(recipe, torch.device("cpu"))
    assert fresh.adversary is not None
    assert fresh.adversary.discriminator is not None
    for name, weights in fresh.adversary.discriminator.named_parameters():
        assert not torch.equal(weights, state[f"discriminator/{name}"]), name


def test_a_discriminator_that_is_no_number_stops_the_run(faces: Path, tmp_path: Path) -> None:
    recipe = varied(faces, tmp_path, "gan")
    wild = dataclasses.replace(recipe.adversarial, rate=1e30, gan=1e-30, matching=0.0)
    with pytest.raises(TrainingError, match="stopped being a number"):
        train(dataclasses.replace(recipe, adversarial=wild, iterations=40), tmp_path / "run")


def test_a_time_limit_saves_and_the_same_call_goes_on(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)
    part = train(recipe, tmp_path / "run", max_minutes=1e-9)
    assert not part.finished
    assert part.iteration == 1
    assert train(recipe, tmp_path / "run").finished
    whole = train(recipe, tmp_path / "whole")
    assert same_weights(whole.checkpoint, tmp_path / "run" / "last.safetensors")
    assert train(recipe, tmp_path / "run").iteration == 6, "a finished run is left as it is"


def test_another_recipe_or_other_faces_do_not_continue_a_run(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces), tmp_path / "run")
    with pytest.raises(TrainingError, match="batch differ"):
        train(tiny_recipe(faces, batch=3), tmp_path / "run")
    with pytest.raises(TrainingError, match="faces differ"):
        train(tiny_recipe(make_faces(tmp_path / "fewer", 7)), tmp_path / "run")
    assert train(tiny_recipe(faces, iterations=8), tmp_path / "run").iteration == 8, "a longer run may go on"
    (tmp_path / "run" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        train(tiny_recipe(faces), tmp_path / "run")


def test_a_setting_that_is_newer_than_the_state_counts_as_its_default(faces: Path, tmp_path: Path) -> None:
    state = tmp_path / "run" / "state.safetensors"
    train(tiny_recipe(faces), tmp_path / "run")
    header = header_of(state)
    known = json.loads(header["fingerprint"])
    del known["optimizer.clip"]
    save_file(load_file(state), state, header | {"fingerprint": json.dumps(known)})
    assert train(tiny_recipe(faces, iterations=7), tmp_path / "run").iteration == 7
    clipped = tiny_recipe(faces, iterations=8, optimizer=Optimizer(clip=1.0))
    save_file(load_file(state), state, header | {"fingerprint": json.dumps(known)})
    with pytest.raises(TrainingError, match=r"optimizer\.clip differ"):
        train(clipped, tmp_path / "run")


def test_a_loss_that_is_no_number_stops_at_the_last_good_state(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces, iterations=40, optimizer=Optimizer(rate=1e30), checkpoint_every=1000)
    with pytest.raises(TrainingError, match="stopped being a number"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_too_few_faces_and_wrong_devices_are_refused(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)
    many = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, holdout=12))
    with pytest.raises(TrainingError, match="too few"):
        train(many, tmp_path / "run")
    with pytest.raises(UsageError, match="no device"):
        train(recipe, tmp_path / "run", device="cuda:77")


def test_a_device_that_fails_without_a_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(UsageError, match="there is no device cuda here") as caught:
        checked_device("cuda")
    assert caught.value.why == ("AssertionError",)


@pytest.mark.parametrize("name", list_tomls("train"))
def test_every_recipe_takes_three_steps(tmp_path: Path, name: str) -> None:
    """Batch 2 and inputs of 32 pixels, every other setting as it is; weights from elsewhere are made here."""
    faces = make_faces(tmp_path / "faces", 3, size=128)
    recipe = load_recipe(find_toml("train", name))
    crop = min(recipe.data.crop, 128)
    data = dataclasses.replace(recipe.data, faces=(str(faces),), size=128, crop=crop, holdout=1, workers=0)
    network = recipe.network
    adversarial = dataclasses.replace(recipe.adversarial, crop=min(recipe.adversarial.crop, 64))
    if network.weights:
        save_checkpoint(tmp_path / "first.safetensors", create(network.architecture, **network.settings))
        network = dataclasses.replace(network, weights=str(tmp_path / "first.safetensors"))
    if adversarial.perceptual:
        adversarial = dataclasses.replace(adversarial, perceptual_file=str(make_vgg(tmp_path)))
    recipe = dataclasses.replace(recipe, data=data, network=network, adversarial=adversarial)
    recipe = dataclasses.replace(recipe, batch=2, iterations=3)
    outcome = train(recipe, tmp_path / "run")
    assert outcome.finished
    assert (outcome.best_checkpoint is None) == recipe.adversarial.used


def test_a_resumed_run_needs_its_first_weights_no_more(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)
    first = tmp_path / "first.safetensors"
    save_checkpoint(first, create(recipe.network.architecture, **recipe.network.settings))
    recipe = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, weights=str(first)))
    train(recipe, tmp_path / "run", max_minutes=1e-9)
    first.unlink()
    assert train(recipe, tmp_path / "run").finished


def test_an_input_that_the_network_cannot_take_is_refused_at_once(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)  # of stride 2
    with pytest.raises(UsageError, match="9 pixels"):
        train(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop=36)), tmp_path / "run")
    sharp = varied(faces, tmp_path, "gan")
    with pytest.raises(UsageError, match="batch of 1"):
        train(dataclasses.replace(sharp, batch=1), tmp_path / "run")


def test_a_person_can_see_how_it_goes(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces), tmp_path / "run", max_minutes=1e-9)
    said: list[str] = []
    train(tiny_recipe(faces), tmp_path / "run", announce=said.append)
    assert any("10 faces; validation on 2 held-out faces" in line for line in said)
    assert any("6 iterations of 2 faces = 1.2 epochs" in line for line in said)
    sheet = cv2.imread(str(tmp_path / "run" / "faces.png"))
    assert sheet is not None
    assert sheet.shape[1] > 3 * 512
    assert sheet.shape[0] > 2 * 512
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    log = rows(tmp_path / "run")
    assert [event.step for event in board.Scalars("val_psnr")] == [3, 6]
    assert board.Scalars("loss")[-1].value == pytest.approx(float(log[-1]["loss"]), rel=1e-4)
    shown = board.Images("faces")
    assert [event.step for event in shown] == [3, 6]
    assert shown[0].width > 3 * 256
    assert cv2.imdecode(np.frombuffer(shown[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR) is not None


def test_restart_begins_again(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces), tmp_path / "run")
    again = train(tiny_recipe(faces, iterations=2), tmp_path / "run", restart=True)
    assert again.iteration == 2
    assert [row["iteration"] for row in rows(tmp_path / "run")] == ["2"]


def test_compile_on_without_a_compiler_is_an_error_and_auto_needs_none_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    cpu = torch.device("cpu")
    assert choose_compile(Recipe(compile="auto"), cpu) == (False, "not compiled")
    with pytest.raises(UsageError, match="does not work on cpu") as caught:
        choose_compile(Recipe(compile="on"), cpu)
    assert "compiler" in caught.value.why[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_run_keeps_plain_names(faces: Path, tmp_path: Path) -> None:
    plain = train(tiny_recipe(faces, compile="off", iterations=2), tmp_path / "plain")
    said: list[str] = []
    compiled = train(tiny_recipe(faces, compile="on", iterations=2), tmp_path / "compiled", announce=said.append)
    assert any(", compiled" in line for line in said)
    one, two = load_file(plain.checkpoint), load_file(compiled.checkpoint)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    assert (
        load_file(tmp_path / "plain" / "state.safetensors").keys()
        == load_file(tmp_path / "compiled" / "state.safetensors").keys()
    )


def test_the_rules_of_the_challenge_bind_a_recipe_that_is_marked(faces: Path, tmp_path: Path) -> None:
    large = tiny_recipe(faces, challenge=True, network=Network("msrresnet", {"blocks": 27}))
    with pytest.raises(UsageError, match="2,329,987 parameters"):
        train(large, tmp_path / "run")


def test_given_pairs_are_validated_on_whatever_their_size(faces: Path, tmp_path: Path) -> None:
    for name, scale in (("lq", 1), ("gt", 4)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "flat.png"), np.full((17 * scale, 15 * scale, 3), 128, np.uint8))
    data = Data((str(faces),), str(tmp_path / "lq"), str(tmp_path / "gt"), size=SIZE, workers=0)
    outcome = train(tiny_recipe(faces, data=data), tmp_path / "run")
    assert outcome.best > 25, "a flat picture is easy even for an untrained network"
    cv2.imwrite(str(tmp_path / "gt" / "flat.png"), np.full((SIZE, SIZE + 4, 3), 128, np.uint8))
    with pytest.raises(UsageError, match="68×64"):
        train(tiny_recipe(faces, data=data), tmp_path / "run2")
    lost = dataclasses.replace(data, val_gt=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no validation folder"):
        train(tiny_recipe(faces, data=lost), tmp_path / "run2")


def test_a_best_score_on_other_pictures_does_not_count(faces: Path, tmp_path: Path) -> None:
    for name, scale in (("lq", 1), ("gt", 4)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "one.png"), np.full((16 * scale, 16 * scale, 3), 128, np.uint8))
    data = Data((str(faces),), str(tmp_path / "lq"), str(tmp_path / "gt"), size=SIZE, workers=0)
    state, best = (tmp_path / "run" / f"{name}.safetensors" for name in ("state", "best"))

    def run(iterations: int) -> tuple[list[str], str, float]:
        """What was said, the iteration of the best weights, and their score."""
        said: list[str] = []
        outcome = train(tiny_recipe(faces, data=data, iterations=iterations), tmp_path / "run", announce=said.append)
        return [line for line in said if "begins anew" in line], read_header(best)["iteration"], outcome.best

    said, _, easy = run(3)
    assert not said
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "gt" / "one.png"), noise)
    said, iteration, hard = run(6)
    assert len(said) == 1
    assert iteration == "6"
    assert hard < easy - 5
    assert run(7)[0] == [], "the same pictures as last time"
    header = header_of(state)
    del header["validated_on"]
    save_file(load_file(state), state, header | {"best": "99.0"})
    said, _, kept = run(8)
    assert (said, kept) == ([], 99.0), "an older state does not say, and counts as equal"


def test_fp32_and_scores_do_without_tf32() -> None:
    cudnn, cpu, seen = torch.backends.cudnn, torch.device("cpu"), []
    recipe = Recipe(network=Network("edge-unet", {"widths": [4], "encoder": [0], "decoder": []}), data=Data(size=64))
    with cudnn.flags(enabled=True):  # puts everything back
        for precision, expected in (("fp32", False), ("bf16", True)):
            training = new_training(dataclasses.replace(recipe, precision=precision), cpu)
            assert cudnn.allow_tf32 is expected
        training.network.register_forward_hook(lambda *_: seen.append(cudnn.allow_tf32))
        predict(training.network, np.zeros((8, 8, 3), np.uint8), cpu)
        assert seen == [False]
        assert cudnn.allow_tf32 is True


def test_bf16_is_asked_of_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    current = ["cuda:0"]

    @contextlib.contextmanager
    def switched(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], str(device)
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", switched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[0] == "cuda:1")
    assert choose_precision(Recipe(), torch.device("cuda:0")) == "fp16"
    assert choose_precision(Recipe(), torch.device("cuda:1")) == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_run(faces: Path, tmp_path: Path, precision: str) -> None:
    recipe = tiny_recipe(faces, iterations=2, precision=precision)
    assert choose_precision(recipe, torch.device("cpu")) == precision
    assert train(recipe, tmp_path / "run").finished


@pytest.mark.parametrize("feature", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_auto_is_bf16_where_the_cpu_multiplies_it(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_precision(Recipe(), torch.device("cpu")) == "fp32"
    monkeypatch.setattr(torch.cpu, feature, lambda: True)
    assert choose_precision(Recipe(), torch.device("cpu")) == "bf16"
    assert choose_precision(Recipe(precision="fp32"), torch.device("cpu")) == "fp32"


def test_a_later_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        for _ in range(2):  # a terminal and torchrun may both send the first
            signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        monkeypatch.setattr("bfsr_edge.train.interrupt.AGAIN", -1.0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def command(faces: Path, out: Path, tmp_path: Path) -> list[str]:
    """The arguments of a tiny run through the command line."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "iterations = 400\nbatch = 2\ncheckpoint_every = 5\nlog_every = 5\nvalidate_every = 400\n"
        f"[data]\nsize = {SIZE}\n"
        "workers = 1\nholdout = 2\n[network]\nsettings = { widths = [4, 8], encoder = [0, 1], decoder = [1] }\n"
    )
    return ["train", "--recipe", str(recipe), "--faces", str(faces), "--out", str(out)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_a_signal_to_the_whole_group_saves_and_exits_well(number: signal.Signals, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [sys.executable, "-m", "bfsr_edge.cli", *command(faces, out, tmp_path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "state.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal or a batch system does: to the workers too
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command goes on" in said
    assert int(read_header(out / "last.safetensors")["iteration"]) >= 5


def test_a_dry_run_times_warm_steps_and_few_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = 0.0, 0

    def step(*_arguments: object) -> dict[str, torch.Tensor]:
        nonlocal now, steps
        now, steps = now + (cold if steps < 6 else 0.25), steps + 1
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(dryrun, "step", step)
    monkeypatch.setattr(dryrun, "time", SimpleNamespace(perf_counter=lambda: now))
    recipe = Recipe(network=Network("edge-unet", {"widths": [4], "encoder": [0], "decoder": []}), data=Data(size=64))
    training, cpu = new_training(recipe, torch.device("cpu")), torch.device("cpu")
    cold = 0.5
    assert dryrun._step_seconds(training, recipe, "fp32", cpu) == 0.25
    assert now < 10
    cold, steps = 64.0, 0
    assert dryrun._step_seconds(training, recipe, "fp32", cpu) == 64
    assert steps == 3


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_resumed_optimizer_holds_its_moments_as_the_weights_lie(name: str, faces: Path, tmp_path: Path) -> None:
    """In channels_last: CUDA's fused Adam refuses moments of another layout."""
    recipe = dataclasses.replace(tiny_recipe(faces), optimizer=Optimizer(name))
    train(dataclasses.replace(recipe, iterations=2), tmp_path / "run")
    training = new_training(recipe, torch.device("cpu"))
    load_state(tmp_path / "run" / "state.safetensors", training, recipe, 10, torch.device("cpu"))
    slots = 0
    for group in training.optimizer.param_groups:
        for weight in group["params"]:
            for value in training.optimizer.state[weight].values():
                if value.shape == weight.shape and weight.ndim == 4:
                    assert value.stride() == weight.stride()
                    slots += 1
    assert slots


def test_dry_run_without_workers_and_with_a_batch_that_fits_nowhere() -> None:
    done = CliRunner().invoke(main, ["train", "--dry-run", "--set", "data.workers=0", "--batch", "1"])
    assert done.exit_code == 0, done.output
    assert "as there are no workers" in done.output
    done = CliRunner().invoke(main, ["train", "--dry-run", "--batch", "100000000"])
    assert done.exit_code == 1
    assert "there is not enough memory for a step with 100000000 faces" in done.output
    assert "--batch" in done.output


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("settings", ["{ blocks = 1, channels = -3 }", "{ blocks = 1, channels = 0 }"])
def test_widths_that_cannot_be_are_told(settings: str) -> None:
    words = [
        "--recipe",
        "srresnet16",
        "--set",
        "network.architecture=msrresnet",
        "--set",
        f"network.settings={settings}",
    ]
    done = CliRunner().invoke(main, ["train", "--dry-run", *words])
    assert done.exit_code in (1, 2)
    assert "cannot be built with" in done.output


def test_large_seeds_are_seeds(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)
    recipe = dataclasses.replace(recipe, seed=(1 << 63) - 1, iterations=1)
    for pipeline in ("cpu", "device"):
        data = dataclasses.replace(recipe.data, pipeline=pipeline)
        train(dataclasses.replace(recipe, data=data), tmp_path / pipeline)
    with pytest.raises(UsageError, match="seed"):
        dataclasses.replace(recipe, seed=1 << 63)


def test_half_of_the_validation_pairs_is_none(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces)
    data = dataclasses.replace(recipe.data, val_gt=str(faces), val_lq="")
    with pytest.raises(UsageError, match="one of them is missing"):
        train(dataclasses.replace(recipe, data=data), tmp_path / "run")


def test_dry_run_needs_no_data() -> None:
    result = CliRunner().invoke(main, ["train", "--dry-run", "--batch", "1"])
    assert result.exit_code == 0, result.output
    network = load_recipe(find_toml("train", "edge")).network
    assert f"{parameter_count(create(network.architecture, **network.settings)):,} parameters" in result.stdout
    assert "GMAC" in result.stdout
    assert "about" in result.stdout


def test_dry_run_describes_augmentation_and_the_adversary(tmp_path: Path) -> None:
    recipe = tmp_path / "sharp.toml"
    recipe.write_text(
        "batch = 2\n[network]\narchitecture = 'msrresnet'\nsettings = { blocks = 1, channels = 8 }\n"
        "weights = 'not/yet/trained.safetensors'\n[data]\ncrop = 32\n[augment]\nrotation = 0.3\n"
        "[adversarial]\ngan = 5e-3\nperceptual = 1.0\nperceptual_file = 'nowhere-01234567.pth'\nchannels = 8\n"
    )
    result = CliRunner().invoke(main, ["train", "--dry-run", "--recipe", str(recipe), "--set", "loss.weight=1e-2"])
    assert result.exit_code == 0, result.output
    for part in (
        "begins     from not/yet/trained.safetensors",
        "squares of 32 px",
        "rotation ±25° p 0.3",
        "0.01 × l1",
        "0.005 × GAN + 1 × perceptual",
        "a discriminator (vgg) of ",
        "without the perceptual loss, as here nowhere-01234567.pth cannot be read",
    ):
        assert part in result.stdout, result.stdout


def test_dry_run_counts_what_is_trained_where_parts_are_frozen(tmp_path: Path) -> None:
    recipe = tmp_path / "sharp.toml"
    recipe.write_text(
        "batch = 1\n[network]\narchitecture = 'msrresnet'\nsettings = { blocks = 1, channels = 8 }\n"
        "[optimizer]\nfrozen = ['conv_first', 'trunk_net', 'upsample1', 'upsample2', 'conv_hr']\n"
        "[adversarial]\ngan = 1e-2\ndiscriminator = 'patch'\ncrop = 64\nchannels = 2\nlattice = 3.0\n"
    )
    result = CliRunner().invoke(main, ["train", "--dry-run", "--recipe", str(recipe)])
    assert result.exit_code == 0, result.output
    last = 8 * 3 * 9 + 3  # conv_last
    assert f"frozen     conv_first, trunk_net, upsample1, upsample2, conv_hr: {last} parameters" in result.stdout
    assert "0.01 × GAN + 3 × lattice" in result.stdout
    assert "a discriminator (patch) of 1,427 parameters, windows of 64 px" in result.stdout


def test_bare_train_says_in_one_line_how_to_give_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "--faces DIR" in result.stderr


def test_the_configuration_of_the_folder_names_the_faces(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "bfsr-edge.toml").write_text(f'[data]\nfaces = "{faces}"\n')
    arguments = command(faces, tmp_path / "run", tmp_path)
    arguments = [a for i, a in enumerate(arguments) if "--faces" not in arguments[max(0, i - 1) : i + 1]]
    words = [sys.executable, "-m", "bfsr_edge.cli", *arguments, "--iterations", "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished: 2 iterations" in done.stdout
