"""`bfsr-edge inspect`."""

from __future__ import annotations

import click


@click.command(name="inspect", short_help="Show what is inside an engine or an ONNX file.")
@click.argument("model", metavar="ENGINE|ONNX|NAME")
@click.option("--json", "as_json", is_flag=True, help="For programs: every layer.")
def command(model: str, as_json: bool) -> None:
    """Show what is inside an engine or an ONNX file: layers by precision, reformats, memory, the ten largest layers.

    An engine for a CPU is run to time its layers. One of TensorRT is asked where it can be loaded, which takes its
    library and its GPU; elsewhere its sidecar speaks, and what stays unknown is named.

    \b
    Example:
        bfsr-edge inspect engines/edge-cpu-int8.engine
    """
    from bfsr_edge.engines.inspection import inspect
    from bfsr_edge.weights import resolve

    report = inspect(resolve(model))
    click.echo(report.json() if as_json else report.text())
