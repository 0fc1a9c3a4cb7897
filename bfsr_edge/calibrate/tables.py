"""What is written for people: tables of layers and methods, and the plot of what each layer costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from bfsr_edge.calibration import Drop, Layer, short_layer
from bfsr_edge.errors import BackendError

COLUMNS = ("layer", "share of MACs", "precision", "dB lost", "dB lost, worst picture")


def layers_csv(layers: Sequence[Layer]) -> str:
    """One row a convolution, in the graph's order; dB with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for layer in layers:
        writer.writerow((layer.name, f"{layer.share:.6f}", layer.precision, *_decibels(layer, 6)))
    return text.getvalue()


def layers_markdown(layers: Sequence[Layer]) -> str:
    """The same, the costliest layer first."""
    ranked = sorted(layers, key=lambda layer: -(layer.drop or 0.0))
    rows = [(f"`{layer.name}`", f"{layer.share:.1%}", layer.precision, *_decibels(layer, 4)) for layer in ranked]
    return _markdown(COLUMNS, rows)


def methods_markdown(drops: Mapping[str, Drop]) -> str:
    """One row a method, in the order given."""
    rows = [
        (name, f"{drop.mean:.4f}", f"{drop.worst:.4f}", drop.worst_name, f"{drop.int8:.3f}")
        for name, drop in drops.items()
    ]
    return _markdown(("method", "dB lost", "dB lost, worst picture", "worst picture", "PSNR INT8"), rows)


def check_matplotlib() -> None:
    """Find out before the work that there is something to plot with.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "--sensitivity draws a plot, which needs matplotlib",
            why=("it is not installed here: it belongs to the extra for training",),
            fix="pip install 'bfsr-edge[train]'",
        ) from error


def layers_plot(layers: Sequence[Layer], title: str) -> bytes:
    """PNG: a bar a layer in the graph's order, dB lost in the mean, a dot for the worst picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.2 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = list(range(len(layers)))
    kinds = {True: ("#4878a8", "mean, INT8"), False: ("#c9c9c9", "mean, left in floating point")}
    for quantized, (colour, label) in kinds.items():
        rows = [place for place in places if (layers[place].precision == "int8") == quantized]
        axes.barh(rows, [layers[place].drop or 0.0 for place in rows], color=colour, label=label)
    axes.plot([layer.worst or 0.0 for layer in layers], places, "o", color="#d1603d", ms=4, label="worst picture")
    axes.set_yticks(places, [f"{short_layer(layer.name)}  ({layer.share:.1%})" for layer in layers], fontsize=7)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.axvline(0, color="black", lw=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("dB lost where this layer alone is INT8")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _decibels(layer: Layer, digits: int) -> tuple[str, str]:
    first, second = (f"{value:.{digits}f}" if value is not None else "" for value in (layer.drop, layer.worst))
    return first, second


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
