"""A calibration from start to end: faces, ranges, placement, what it costs, files."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bfsr_edge import __version__
from bfsr_edge.calibrate import measure, tables
from bfsr_edge.calibrate.faces import gather, refuse_overlap
from bfsr_edge.calibrate.measure import Pair, Scores
from bfsr_edge.calibrate.plan import Plan
from bfsr_edge.calibrate.ranges import scales
from bfsr_edge.calibration import METHODS, Calibration, Drop
from bfsr_edge.errors import UsageError
from bfsr_edge.files import replace, writing
from bfsr_edge.quantization import end_convolutions, graph_sha256, layers_of, place, read
from bfsr_edge.weights import DEFAULT, Model, resolve

if TYPE_CHECKING:
    import onnx

LAYER_PAIRS = 32
"""Pairs on which single layers are tried, spread over all of them: each costs one engine a layer."""
LIBRARIES = ("numpy", "onnx", "openvino", "onnxruntime", "cv2")


@dataclass(frozen=True)
class Outcome:
    """What was found and written."""

    calibration: Calibration
    """As it was saved."""
    files: tuple[Path, ...]
    """Everything written, the calibration first."""
    left_in_fp16: tuple[str, ...]
    """Layers that the budget took out, in that order."""


def calibrate(
    faces: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str] = DEFAULT,
    plan: Plan | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    lq: str | os.PathLike[str] | None = None,
    gt: str | os.PathLike[str] | None = None,
    aligned: bool | None = None,
    compare: bool = False,
    sensitivity: bool = False,
    budget: float | None = None,
    announce: Callable[[str], None] = lambda _line: None,
    progress: Callable[[str, int], None] = lambda _what, _total: None,
) -> Outcome:
    """Write ``NAME.calibration.json`` and ``NAME.int8.onnx``, and what else was asked for.

    Parameters
    ----------
    faces
        Folders or tars: aligned faces, or photographs that faces are cut out of.
    model
        A shipped name, or a float32 ONNX file.
    plan
        How; the defaults where there is none.
    out
        Folder to write to: by default the ONNX file's own, or the current one for a shipped name.
    lq, gt
        Folders of pairs to measure the drop on; none of the faces may be in them.
    aligned
        See ``bfsr_edge.calibrate.faces.gather``.
    compare
        Try every method on the pairs, and write ``NAME.methods.md``; the plan's method is still the one kept.
    sensitivity
        Try every layer alone, and write ``NAME.sensitivity.csv``, ``.md`` and ``.png``.
    budget
        Leave the costliest layers in floating point until the mean drop in dB is not above it. Where that cannot be
        reached with ``plan.minimum_share`` of the work in INT8, the best is written, marked ``over_budget``.
    announce, progress
        Called with a line to print, and with a step's name and its number of parts for each part that is done.

    Raises
    ------
    UsageError
        Options do not fit together, faces or pairs are not what they should be, or a face is scored too.
    ModelError
        The file cannot be used.
    BackendError
        A method, photographs or the plot need a package that is not installed.
    BfsrError
        A file cannot be written; those before it are whole, the calibration is the last.
    """
    plan = plan or Plan()
    needs_pairs = [name for name, on in (("--compare", compare), ("--sensitivity", sensitivity)) if on]
    needs_pairs += ["--budget"] if budget is not None else []
    if bool(lq) != bool(gt) or (needs_pairs and not lq):
        raise UsageError(
            f"{needs_pairs[0]} measures PSNR on pairs" if needs_pairs else "pairs are two folders, --lq and --gt",
            fix="give both: --lq DIR --gt DIR",
        )
    if budget is not None and not budget > 0:
        raise UsageError(f"a budget is a drop in dB above 0, {budget} is not", fix="--budget 0.03")
    if sensitivity:
        tables.check_matplotlib()
    found = _onnx(model)
    proto = read(found.path)
    excluded = _excluded(proto, plan)
    pairs, files = measure.read_pairs(Path(lq), Path(gt)) if lq and gt else ([], [])

    drawn = gather(faces, plan.count, plan.seed, aligned=aligned, progress=lambda: progress("faces", plan.count))
    kind = "taken as they are" if drawn.aligned else "cut out of photographs"
    announce(f"{len(drawn.pictures)} faces {kind}, of {len(drawn.sources)} pictures")
    if len(drawn.pictures) < plan.count:
        announce(f"the plan asks for {plan.count} faces; there are no more")
    for name, reason in drawn.left_out.items():
        announce(f"left out {name}: {reason}")
    refuse_overlap(drawn.sources, files)

    layers = layers_of(proto, excluded, plan.floating)
    methods = list(METHODS) if compare else [plan.method]
    every = scales(
        proto,
        [layer.tensor for layer in layers],
        drawn.pictures,
        methods,
        plan.percentile,
        progress=lambda: progress("ranges", len(drawn.pictures)),
        tell=announce,
    )
    calibration = Calibration(
        scales=every[plan.method],
        graph_sha256=graph_sha256(proto),
        model=Path(found.name).stem,
        method=plan.method,
        percentile=plan.percentile if plan.method == "percentile" else 0.0,
        excluded=excluded,
        quantized_skips=plan.quantized_skips,
        floating=plan.floating,
        faces=tuple(source.sha256 for source in drawn.sources),
        seed=plan.seed,
        versions=_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        layers=layers,
    )
    stem = _stem(found)
    folder = Path(out) if out is not None else Path() if found.name == os.fspath(model) == stem else found.path.parent
    trial = _Trial(proto, found.path, pairs, progress)
    texts: dict[str, str | bytes] = {}
    if compare:
        drops = {method: trial.drop(dataclasses.replace(calibration, scales=every[method])) for method in METHODS}
        texts[f"{stem}.methods.md"] = tables.methods_markdown(drops)
        for method, drop in drops.items():
            announce(f"{method}: {line(drop)}")
    removed: list[str] = []
    if pairs:
        calibration = dataclasses.replace(calibration, drop=trial.drop(calibration), budget=budget)
        over = budget is not None and calibration.drop is not None and calibration.drop.mean > budget
        if sensitivity or over:
            calibration = trial.sensitivity(calibration)
        if over and budget is not None:
            calibration, removed = trial.within(calibration, budget, plan.minimum_share, announce)
    if sensitivity:
        title = f"{calibration.model}: {calibration.method}, {min(len(pairs), LAYER_PAIRS)} pairs"
        texts[f"{stem}.sensitivity.csv"] = tables.layers_csv(calibration.layers)
        texts[f"{stem}.sensitivity.md"] = tables.layers_markdown(calibration.layers)
        texts[f"{stem}.sensitivity.png"] = tables.layers_plot(calibration.layers, title)

    quantized = place(proto, calibration)
    graph, target = folder / f"{stem}.int8.onnx", folder / f"{stem}.calibration.json"
    contents = {graph: quantized.SerializeToString(deterministic=True)}
    contents |= {folder / name: text if isinstance(text, bytes) else text.encode() for name, text in texts.items()}
    for path, content in contents.items():
        with writing(path):
            replace(path, content)
    with writing(target):
        calibration.save(target)
    return Outcome(calibration, (target, *contents), tuple(removed))


class _Trial:
    """One graph and its pairs; FP32 is scored once."""

    def __init__(
        self, proto: onnx.ModelProto, path: Path, pairs: Sequence[Pair], progress: Callable[[str, int], None]
    ) -> None:
        self.proto, self.pairs, self.progress = proto, list(pairs), progress
        self.before: Scores = measure.score(path, pairs) if pairs else np.zeros(0)

    def drop(self, calibration: Calibration) -> Drop:
        """What a calibration costs on all pairs."""
        drop = measure.compare(self.before, measure.score(place(self.proto, calibration), self.pairs), self.pairs)
        self.progress("INT8 engines", 0)
        return drop

    def sensitivity(self, calibration: Calibration) -> Calibration:
        """With the drop of each layer where it alone is quantized, with the skipping branch that shares its input."""
        chosen = measure.evenly(self.pairs, LAYER_PAIRS)
        pairs = [self.pairs[place_] for place_ in chosen]
        layers = []
        for layer in calibration.layers:
            others = tuple(other.name for other in calibration.layers if other.name != layer.name)
            alone = place(self.proto, dataclasses.replace(calibration, excluded=others))
            drop = measure.compare(self.before[chosen], measure.score(alone, pairs), pairs)
            layers.append(dataclasses.replace(layer, drop=drop.mean, worst=drop.worst))
            self.progress("layers", len(calibration.layers))
        return dataclasses.replace(calibration, layers=tuple(layers))

    def within(
        self, calibration: Calibration, budget: float, share: float, announce: Callable[[str], None]
    ) -> tuple[Calibration, list[str]]:
        """The calibration without the costliest layers, until the drop is inside the budget or too few are left.

        Returns
        -------
        It, and the layers that were taken out; the one of the least drop where the budget was not reached.
        """
        removed: list[str] = []
        best, taken = calibration, 0
        ranked = sorted(
            (layer for layer in calibration.layers if layer.precision == "int8"), key=lambda layer: -(layer.drop or 0.0)
        )
        for layer in ranked:
            if calibration.int8_share - layer.share < share:
                continue
            excluded = tuple(sorted((*calibration.excluded, layer.name)))
            layers = tuple(
                dataclasses.replace(entry, precision=calibration.floating if entry.name in excluded else "int8")
                for entry in calibration.layers
            )
            calibration = dataclasses.replace(calibration, excluded=excluded, layers=layers)
            calibration = dataclasses.replace(calibration, drop=self.drop(calibration))
            removed.append(layer.name)
            assert calibration.drop is not None
            assert best.drop is not None
            announce(f"{layer.name} in {calibration.floating.upper()}: {line(calibration.drop)}")
            if calibration.drop.mean < best.drop.mean:
                best, taken = calibration, len(removed)
            if calibration.drop.mean <= budget:
                return calibration, removed
        return dataclasses.replace(best, over_budget=True), removed[:taken]


def line(drop: Drop) -> str:
    """A drop in one line."""
    return (
        f"{drop.mean:.4f} dB lost on {drop.count} pairs ({drop.fp32:.3f} to {drop.int8:.3f}), "
        f"at worst {drop.worst:.4f} on {drop.worst_name}"
    )


def _onnx(model: str | os.PathLike[str]) -> Model:
    """The float32 ONNX file behind ``--model``."""
    name = os.fspath(model)
    found = resolve(model, kind="onnx") if not Path(name).suffix else resolve(model)
    if found.kind == "checkpoint":
        target = found.path.with_suffix(".onnx")
        raise UsageError(
            f"{found.path} is a checkpoint; what is calibrated is its ONNX file",
            fix=f"bfsr-edge export --model {found.path} --out {target}, then --model {target}",
        )
    if found.kind != "onnx":
        raise UsageError(f"{found.path} is an engine, not an ONNX file", fix="give the ONNX that it was built from")
    return found


def _excluded(proto: onnx.ModelProto, plan: Plan) -> tuple[str, ...]:
    """First and last convolutions but for the plan's ``include``, and its ``exclude``."""
    names = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    if len(set(names)) < len(names) or not all(names):
        raise UsageError("the graph's convolutions have no names of their own", fix="export it with bfsr-edge export")

    def matching(patterns: Sequence[str]) -> set[str]:
        matched = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
        missed = [pattern for pattern, hits in matched.items() if not hits]
        if missed:
            raise UsageError(f"the plan names a layer that the graph does not have: {missed[0]}", why=(names[0],))
        return {name for hits in matched.values() for name in hits}

    excluded = (end_convolutions(proto) - matching(plan.include)) | matching(plan.exclude)
    if excluded >= set(names):
        raise UsageError("the plan leaves no layer to quantize", fix="include one, or exclude fewer")
    return tuple(sorted(excluded))


def _stem(found: Model) -> str:
    return Path(found.name).stem if found.name.endswith(".onnx") else found.name


def _versions() -> dict[str, str]:
    """Packages that had a part in the numbers."""
    versions = {"bfsr_edge": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = str(importlib.import_module(name).__version__)
        except ImportError:
            continue
    return versions
