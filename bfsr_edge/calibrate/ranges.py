"""Ranges of activations: the float32 graph run on degraded faces, and the range of each tensor chosen by a method.

Percentile and entropy are ONNX Runtime's; the maximum needs no library; the least mean square error is ours.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bfsr_edge.calibration import METHODS, RECALIBRATE, SMALLEST
from bfsr_edge.errors import ModelError, UsageError, first_line
from bfsr_edge.quantization import LEVELS
from bfsr_edge.runtime.base import require

if TYPE_CHECKING:
    import onnx

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]

BINS = 2048
"""Of the histograms; TensorRT's calibrators take as many."""
MOST_BINS = 1 << 16
ENTROPY_BINS = 512
"""For each sign; the search for the least entropy takes time with the square of their number."""
THEIRS = frozenset({"percentile", "entropy"})
"""Methods for which ONNX Runtime is needed."""
DEAD_RANGE = 1.0
"""Of a tensor that is zero on every face: about what its like span, should another face wake it up."""
CANDIDATES = 256
"""Ranges tried for the least mean square error, evenly spaced up to the maximum."""


class Histogram:
    """Counts of magnitudes in bins of one width, which the first values set; larger values later add bins.

    Beyond ``MOST_BINS`` the bins become wider instead: a tensor may be nearly dead on the first face.
    """

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.maximum = 0.0
        self.zeros = 0
        """Exact zeros, such as ReLU makes; they quantize without an error and stand in no bin."""

    def add(self, values: Float) -> None:
        """Count the magnitudes of an array of any shape."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max())
        self.maximum = max(self.maximum, largest)
        self.width = self.width or largest / BINS
        if not self.width:  # zeros only, so far
            self.zeros += magnitudes.size
            return
        while self.maximum >= MOST_BINS * self.width:
            self._widen()
        places = (magnitudes / np.float32(self.width)).astype(np.int64)
        counts = np.bincount(places, minlength=len(self.counts))
        counts[: len(self.counts)] += self.counts
        zeros = int(np.count_nonzero(magnitudes == 0))
        counts[0] -= zeros
        self.zeros += zeros
        self.counts = counts

    def _widen(self) -> None:
        """Two bins become one."""
        self.counts = np.pad(self.counts, (0, len(self.counts) % 2)).reshape(-1, 2).sum(axis=1)
        self.width *= 2

    def least_error(self) -> float:
        """The range whose rounding and clipping together have the least mean square error."""
        centres = (np.arange(len(self.counts)) + 0.5) * self.width
        best, least = self.maximum, np.inf
        for limit in np.linspace(self.maximum / CANDIDATES, self.maximum, CANDIDATES):
            step = limit / LEVELS
            quantized = np.minimum(np.rint(centres / step), LEVELS) * step
            error = float(np.dot(self.counts, np.square(centres - quantized)))
            if error < least:
                best, least = float(limit), error
        return best


def scales(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    pictures: Sequence[Byte],
    methods: Sequence[str],
    percentile: float,
    *,
    progress: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float]]:
    """The size of one 8-bit step of each tensor, by each method, all from the same run.

    A tensor that is zero on every picture, as behind a ReLU that training has killed, gets the range 1, and it is told.

    Parameters
    ----------
    proto
        The float32 graph.
    tensors
        Names of activations in it.
    pictures
        Degraded faces, RGB uint8 h×w×3, all of one size that the graph can take.
    methods
        Of ``bfsr_edge.quantization.METHODS``.
    percentile
        Of the percentile method, in percent.
    progress
        Called once for each picture.
    tell
        Takes a line for the user.

    Returns
    -------
    Method to tensor to scale.

    Raises
    ------
    ModelError
        OpenVINO cannot run the graph, a tensor holds NaN or Inf, or most are zero on every picture.
    BackendError
        A method needs onnxruntime, which is not installed.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise UsageError(f"there is no method {unknown[0]!r}", fix=f"use {', '.join(METHODS)}")
    for method in THEIRS.intersection(methods):  # found out before the work
        _require(method)
    names = list(dict.fromkeys(tensors))
    histograms = {name: Histogram() for name in names}
    for values in activations(proto, names, pictures):
        for name, value in values.items():
            if not (np.isfinite(value.min()) and np.isfinite(value.max())):
                raise ModelError(f"{name} holds NaN or Inf on a calibration face", why=("the weights are damaged",))
            histograms[name].add(value)
        progress()
    dead = [name for name, histogram in histograms.items() if not histogram.maximum]
    if 2 * len(dead) > len(names):
        raise ModelError(
            f"{len(dead)} of {len(names)} activations are zero on every calibration face",
            why=("the network is not trained", "the weights are damaged"),
            fix=f"check the model; then {RECALIBRATE}",
        )
    if dead:
        tell(f"zero on every face, so what they feed does nothing there: {', '.join(dead)}")
        for name in dead:
            del histograms[name]
    found: dict[str, dict[str, float]] = {}
    for method in methods:
        if method == "max":
            ranges = {name: histogram.maximum for name, histogram in histograms.items()}
        elif method == "mse":
            ranges = {name: histogram.least_error() for name, histogram in histograms.items()}
        else:
            ranges = _theirs(method, histograms, percentile)
        # where all but a few values are zero, the percentile is zero too
        sparse = [name for name, largest in ranges.items() if not largest > 0]
        if sparse:
            tell(f"zero nearly everywhere, so {method} takes the whole range of {', '.join(sparse)}")
            ranges |= {name: histograms[name].maximum for name in sparse}
        found[method] = {name: _scale(ranges.get(name, DEAD_RANGE)) for name in names}
    return found


def activations(proto: onnx.ModelProto, tensors: Sequence[str], pictures: Sequence[Byte]) -> Iterator[dict[str, Float]]:
    """What the float32 graph computes on one picture after the other; valid until the next one.

    Raises
    ------
    ModelError
        OpenVINO cannot run the graph.
    """
    import onnx
    import openvino

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.value_info[:]
    source, sink = probe.graph.input[0], probe.graph.output[0]
    height, width = pictures[0].shape[:2]
    for place, side in ((2, height), (3, width)):
        source.type.tensor_type.shape.dim[place].dim_value = side
        sink.type.tensor_type.shape.dim[place].dim_param = f"out{place}"
    own = [name for name in tensors if name != source.name]
    for name in own:
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    core = openvino.Core()
    try:
        model = core.read_model(probe.SerializeToString())
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise ModelError("OpenVINO cannot run the graph to calibrate", why=(first_line(error),)) from error
    request = compiled.create_infer_request()
    for picture in pictures:
        batch = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        results = request.infer([batch], share_outputs=True)
        values = {name: np.asarray(results[index + 1]) for index, name in enumerate(own)}
        if source.name in tensors:
            values[source.name] = batch
        yield values


def _require(method: str) -> None:
    require("onnxruntime", f"for the {method} method", "pip install 'bfsr-edge[onnxruntime]', or use --method mse")


def _theirs(method: str, histograms: Mapping[str, Histogram], percentile: float) -> dict[str, float]:
    """The ranges that ONNX Runtime chooses from our histograms: it would count the same, twenty times slower."""
    _require(method)
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector: Any = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=BINS,
        num_quantized_bins=2 * (LEVELS + 1),  # of both signs together
        percentile=percentile,
        scenario="same",
    )
    for name, histogram in histograms.items():
        counts = histogram.counts.copy()
        counts[0] += histogram.zeros
        if method == "entropy":
            counts, width = _merged(counts, histogram.width)
        else:
            width = histogram.width
        edges = (np.arange(len(counts) + 1) * width).astype(np.float32)
        largest = np.float32(histogram.maximum)
        if method == "entropy":  # it looks at both signs; a symmetric range sees them alike
            counts, edges = np.concatenate([counts[::-1], counts]), np.concatenate([-edges[:0:-1], edges])
        collector.histogram_dict[name] = (counts, edges, -largest, largest, largest)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        found = collector.compute_collection_result()
    return {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in found.items()}


def _merged(counts: npt.NDArray[np.int64], width: float) -> tuple[npt.NDArray[np.int64], float]:
    """The same histogram in at most ``ENTROPY_BINS`` bins, and their width."""
    factor = -(-len(counts) // ENTROPY_BINS)
    padded = np.pad(counts, (0, -len(counts) % factor))
    return padded.reshape(-1, factor).sum(axis=1), width * factor


def _scale(largest: float) -> float:
    return max(float(np.float32(largest / LEVELS)), SMALLEST)
