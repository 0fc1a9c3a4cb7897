"""The plots of a benchmark, in the order of the page: what each is called, how to read it, why it may be missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bfsr_edge.benchmarks.report_data import View
from bfsr_edge.benchmarks.report_quality import drop_images, drop_layers, sizes, training
from bfsr_edge.benchmarks.report_speed import distribution, pareto, ranking, roofline, throughput


@dataclass(frozen=True)
class Plot:
    """One plot of the report."""

    name: str
    """Of its element in the page: ``plot-NAME``."""
    title: str
    """The heading above it."""
    draw: Callable[[View, float], str]
    """View and width to SVG; an empty text where there is nothing to show."""
    caption: str
    """How to read it."""
    missing: str
    """Why there is nothing, where no note says so."""


PLOTS = (
    Plot("latency", "How long one face takes", ranking,
         "Median of the timed runs of every engine, on a logarithmic scale.",
         "No engine was timed."),
    Plot("pareto", "Latency against PSNR", pareto,
         "Up is better, left is faster. The dashed line joins the engines that no other one of this run beats in both.",
         "No engine was both timed and scored."),
    Plot("drop-layers", "PSNR drop per layer", drop_layers,
         "Each layer alone in INT8, the rest in floating point, in the graph's order. Left of zero: a gain.",
         "No calibration with a sensitivity table was found (bfsr-edge calibrate --sensitivity)."),
    Plot("drop-images", "PSNR drop per picture", drop_images,
         "What each picture loses against the same network in FP32. Bar: mean; red dot: worst.",
         "No engine was compared with FP32 of the same network."),
    Plot("distribution", "Latency distribution", distribution,
         "Every timed run as a dot, against its engine's own median. Box: the middle half; line: from p5 to p95. "
         "A number at the right edge counts runs beyond it.",
         "No engine was timed more than once."),
    Plot("throughput", "Throughput against batch", throughput,
         "Faces that are finished in a second. Interpolation is in the table only.",
         "Throughput was not measured."),
    Plot("sizes", "Cost and memory against the photograph's size", sizes,
         "Whole photographs, files to files. A line along the dotted one costs the same for every pixel.",
         "No photographs were restored end to end."),
    Plot("roofline", "How close to the machine's limits", roofline,
         "Peaks measured in this run by a large matrix product and a large copy; what an engine uses of them.",
         "The machine's peaks were not measured."),
    Plot("training", "Training curves", training,
         "From the training logs that were given.",
         "No training log was given (--curves FILE)."),
)  # fmt: skip
