"""From ``--model`` to files that engines run: what has to be exported or built first is, by the commands for it.

Stages meet through files, so ``export`` and ``build-engine`` are run as a user would run them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge.benchmarks import ncnn_runner
from bfsr_edge.benchmarks.subjects import Subject
from bfsr_edge.benchmarks.suite import RANDOM, Suite
from bfsr_edge.errors import BackendError, BfsrError, UsageError, first_line
from bfsr_edge.files import replace
from bfsr_edge.runtime import machine, sidecar
from bfsr_edge.weights import DEFAULT, list_models, resolve

REFERENCE = f"{DEFAULT}-fp32-openvino"
"""The id that all ratios refer to, in every run, so that ratios of two runs can be compared."""
RANDOM_NOTE = "random weights: latency only, no PSNR"
SCALE_STEP = 4 / 127
"""Of the made-up calibration of random weights: any step gives the same latency."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Files:
    """What there is of one model."""

    name: str
    """In ids."""
    onnx: str = ""
    """The FP32 graph: a path, or a shipped name; empty: there is none."""
    onnx_path: Path | None = None
    """The same as a path."""
    checkpoint: str = ""
    """For torch; empty: there is none."""
    engine: Path | None = None
    """Given by the user, instead of all others."""
    quantized: Path | None = None
    """An ONNX file with Q/DQ nodes, given by the user."""
    calibration: Path | None = None
    """Of a user's checkpoint, beside it."""
    scored: bool = True
    note: str = ""


def run_command(*arguments: str) -> None:
    """One of our commands, in a process of its own.

    Raises
    ------
    BackendError
        It fails; what it said first is the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bfsr_edge.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith("bfsr-edge:")), lines[-1] if lines else "")
        fix = next((line.removeprefix("next:").strip() for line in lines if line.startswith("next:")), "")
        what = told.removeprefix("bfsr-edge:").strip() or f"bfsr-edge {arguments[0]} ended with {done.returncode}"
        raise BackendError(what, fix=fix)


def collect(model: str, work: Path, say: Say) -> Files:
    """The files of one ``--model``; a checkpoint is exported into ``work``.

    Raises
    ------
    BfsrError
        There is no such model, or it cannot be exported.
    """
    shipped = {entry.name: entry for entry in list_models()}
    if model == RANDOM and model not in shipped:
        return _random(work, say)
    found = resolve(model)
    if model in shipped:
        kinds = shipped[model].files
        onnx = resolve(model, kind="onnx").path if "onnx" in kinds else None
        checkpoint = model if "checkpoint" in kinds else ""
        if onnx is not None:
            return Files(model, model, onnx, checkpoint)
        exported = _exported(model, work, model, say)
        return Files(model, str(exported), exported, checkpoint)
    name = found.path.name[: -len(found.path.suffix)]
    if found.kind == "engine":
        return Files(sidecar.read(found.path).name, engine=found.path)
    if found.kind == "onnx":
        if _is_quantized(found.path):
            return Files(name.removesuffix(".int8"), quantized=found.path)
        return Files(name, str(found.path), found.path)
    beside = found.path.with_name(f"{found.path.stem}.calibration.json")
    exported = _exported(str(found.path), work, name, say)
    return Files(
        name, str(exported), exported, str(found.path), calibration=beside if beside.is_file() else None
    )  # fmt: skip


def subjects(models: list[Files], suite: Suite, work: Path, say: Say) -> list[Subject]:
    """Everything that the suite measures; the reference stands in front where it is not one of the models."""
    made: list[Subject] = []
    names: set[str] = set()
    for files in models:
        name = files.name
        # a user's file of the default's name is not the default
        while name in names or (name == DEFAULT and files.onnx != DEFAULT):
            name += "+"
        names.add(name)
        made += _ours(files, name, suite, work, say)
    if not any(subject.id == REFERENCE for subject in made):
        made.insert(0, _reference())
    baselines = [
        Subject(f"{name}-opencv", "baseline", name, "resize", name, scored=True) for name in suite.baselines
    ]  # fmt: skip
    return [*made, *baselines, *_peers(models, suite, work, say)]


def _reference() -> Subject:
    """The shipped default in FP32 through OpenVINO."""
    path = resolve(DEFAULT, kind="onnx").path
    note = "measured as the reference of all ratios"
    return Subject(
        REFERENCE, "ours", DEFAULT, model=DEFAULT, backend="openvino", precision="fp32", note=note, costs=str(path)
    )


def _ours(files: Files, name: str, suite: Suite, work: Path, say: Say) -> list[Subject]:
    """The engines of one model, FP32 of OpenVINO first."""
    if files.engine is not None:
        described = sidecar.read(files.engine)
        backend = "openvino" if described.flavour == "openvino" else described.flavour
        device = "cpu" if backend == "openvino" else "cuda:0"
        costs = str(files.engine) if backend == "openvino" else ""
        identity = f"{name}-{described.precision}-{backend}-engine"
        return [Subject(identity, "ours", name, model=str(files.engine), device=device, costs=costs)]
    if files.quantized is not None:
        path = str(files.quantized)
        return [
            Subject(f"{name}-int8-{backend}", "ours", name, model=path, backend=backend, costs=path)
            for backend in ("openvino", "onnxruntime")
        ]
    wanted = suite.engines if files.scored else suite.latency_engines
    fp32 = f"{name}-fp32-openvino"
    quantized, why = "", ""
    if any(each.endswith("int8") for each in wanted):
        quantized, why = _int8(files, name, suite.tile, work, say)
    made = []
    for each in sorted(wanted, key=lambda entry: entry != "openvino-fp32"):
        backend, _, precision = each.partition("-")
        if backend == "tensorrt":
            made += _on_gpu(files, name, precision, suite.tile, work, say)
            continue
        common = {"note": files.note, "fp32": "" if each == "openvino-fp32" else fp32}
        identity = f"{name}-{precision}-{'torch.compile' if backend == 'compile' else backend}"
        model, runner, missing, costs = files.onnx, "engine", "", str(files.onnx_path or "")
        if precision == "int8":
            model, missing, costs = quantized, why, quantized
            # what OpenVINO compiles an engine to is kept beside it; the other backend reads the same graph as ONNX
            model = str(Path(quantized).with_suffix(".onnx")) if quantized and backend == "onnxruntime" else model
        elif backend in ("torch", "compile"):
            model, runner = files.checkpoint, "compile" if backend == "compile" else "engine"
            missing = "" if model else "torch runs checkpoints, and this model was given as ONNX"
        subject = Subject(
            identity,
            "ours",
            name,
            runner,
            model,
            backend={"compile": "torch"}.get(backend, backend),
            precision=precision if precision == "bf16" else "auto" if precision == "int8" else "fp32",
            scored=files.scored,
            missing=missing,
            costs=costs,
            **common,
        )
        made.append(subject)
    return made


def _peers(models: list[Files], suite: Suite, work: Path, say: Say) -> list[Subject]:
    """What others offer, on the same pictures."""
    made = []
    for name in suite.peers:
        if name == "ncnn":
            ours = next((files for files in models if files.onnx_path is not None and files.scored), None)
            if ours is None:
                continue
            missing = param = ""
            try:
                say(f"converting {ours.name} for ncnn")
                assert ours.onnx_path is not None
                param = str(ncnn_runner.convert(ours.onnx_path, work / f"{ours.name}-ncnn", suite.tile))
                if not machine.version("ncnn"):
                    missing = f"ncnn is not installed: {ncnn_runner.INSTALL}"
            except BfsrError as error:
                missing = _told(error)
            identity, fp32 = f"{ours.name}-fp32-ncnn", f"{ours.name}-fp32-openvino"
            made.append(
                Subject(
                    identity, "peer", ours.name, "ncnn", param, fp32=fp32, missing=missing, costs=param,
                    note="our network through another library",
                )
            )  # fmt: skip
            continue
        path = ncnn_runner.realesrgan_param(name)
        absent = "" if path and machine.version("ncnn") else f"not installed: {ncnn_runner.INSTALL}"
        note = "for photographs and drawings, not for faces alone"
        made.append(
            Subject(
                f"{name}-fp32-ncnn", "peer", name, "realesrgan", name, note=note, missing=absent, costs=str(path or "")
            )
        )
    return made


def _int8(files: Files, name: str, tile: int, work: Path, say: Say) -> tuple[str, str]:
    """The INT8 engine for this CPU, and the same graph as .onnx beside it; or why there is none."""
    folder = work / f"{name}-int8"
    say(f"building {name} in INT8")
    options = ["--calibration", str(files.calibration)] if files.calibration else []
    try:
        run_command(
            "build-engine", "--model", files.onnx, "--int8", "--target", "cpu", "--tile", str(tile),
            "--out", str(folder), "--quiet", *options,
        )  # fmt: skip
        engine = next(folder.glob("*.engine"))
        graph = engine.with_suffix(".onnx")
        replace(graph, engine.read_bytes())
    except BfsrError as error:
        return "", _told(error)
    except (OSError, StopIteration) as error:
        return "", f"the INT8 engine was not found: {error}"
    return str(engine), ""


def _on_gpu(files: Files, name: str, precision: str, tile: int, work: Path, say: Say) -> list[Subject]:
    """An engine for the GPU of this machine; nothing where there is none."""
    if not machine.gpus():
        return []
    folder = work / f"{name}-{precision}-gpu"
    say(f"building {name} in {precision} for {machine.gpus()[0].name}")
    missing, engine = "", Path()
    try:
        run_command(
            "build-engine", "--model", files.onnx, f"--{precision}", "--tile", str(tile), "--out", str(folder),
            "--quiet",
        )  # fmt: skip
        built = sorted(folder.glob("*.engine"))
        engine = built[0] if built else Path()
        if not built or sidecar.read(engine).flavour == "openvino":
            missing = "no engine can be built for this GPU: bfsr-edge doctor says why"
    except BfsrError as error:
        missing = _told(error)
    backend = "tensorrt" if missing else sidecar.read(engine).flavour
    return [
        Subject(
            f"{name}-{precision}-{backend}",
            "ours",
            name,
            model=str(engine),
            device="cuda:0",
            scored=files.scored,
            fp32=f"{name}-fp32-openvino",
            note=files.note,
            missing=missing,
            costs=str(files.onnx_path or ""),
        )
    ]


def _random(work: Path, say: Say) -> Files:
    """SRResNet-24 with random weights: checkpoint, ONNX and a calibration that gives it the usual INT8 layers."""
    from bfsr_edge.calibration import Calibration
    from bfsr_edge.quantization import end_convolutions, graph_sha256, layers_of, read, source_tensors

    folder = work / RANDOM
    checkpoint, onnx = folder / f"{RANDOM}.safetensors", folder / f"{RANDOM}.onnx"
    calibration = folder / f"{RANDOM}.calibration.json"
    if not calibration.is_file():
        say(f"making {RANDOM} with random weights")
        # in another process: this one stays free of torch, whose threads would stand between the measurements
        code = (
            "import sys, torch; from bfsr_edge.models import create, save_checkpoint; torch.manual_seed(0)\n"
            "from pathlib import Path; save_checkpoint(Path(sys.argv[1]), create('msrresnet', blocks=24), {})"
        )
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
            raise BackendError(
                f"{RANDOM} needs PyTorch to be made", why=(last[0],), fix="pip install 'bfsr-edge[train]'"
            )  # fmt: skip
        run_command("export", "--model", str(checkpoint), "--out", str(onnx))
        proto = read(onnx)
        excluded = tuple(sorted(end_convolutions(proto)))
        Calibration(
            scales=dict.fromkeys(source_tensors(proto).values(), SCALE_STEP),
            graph_sha256=graph_sha256(proto),
            model=RANDOM,
            excluded=excluded,
            layers=layers_of(proto, excluded),
        ).save(calibration)
    return Files(RANDOM, str(onnx), onnx, str(checkpoint), scored=False, note=RANDOM_NOTE)


def _exported(model: str, work: Path, name: str, say: Say) -> Path:
    target = work / f"{name}.onnx"
    say(f"exporting {model}")
    run_command("export", "--model", model, "--out", str(target))
    return target


def _is_quantized(path: Path) -> bool:
    import onnx

    from bfsr_edge.precision import is_quantized

    try:
        return is_quantized(onnx.load(str(path), load_external_data=False))
    except Exception as error:  # protobuf and onnx raise several classes
        raise UsageError(f"{path} cannot be read as ONNX", why=(first_line(error),)) from error


def _told(error: BfsrError) -> str:
    """An error in a row's note."""
    return "; ".join(part for part in (error.what, *error.why, f"next: {error.fix}" if error.fix else "") if part)
