"""``bfsr-edge doctor``: what this machine has, and whether an engine works on it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bfsr_edge.selftest import Selftest

EPILOG = """\b
Examples:
  bfsr-edge doctor
  bfsr-edge doctor --selftest

Exit codes: 0 looked at everything, 1 the self-test failed, 2 wrong usage."""


@click.command(name="doctor", short_help="Say what this machine has, and test an engine on it.", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--selftest", is_flag=True, help="Build a small engine here, run it, compare and time it.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, selftest: bool) -> None:
    """Say what this machine has: Python, backends and why one does not work, GPU, driver, JetPack, power mode, memory.

    With --selftest it also builds a small engine of the default model for this machine in a temporary folder, runs it
    on made pictures, compares them with the FP32 graph's and times it. Its JSON is what an issue needs.
    """
    from bfsr_edge import doctor

    report = doctor.examine()
    if not selftest:
        click.echo(json.dumps(report.as_json(), indent=1, ensure_ascii=False) if as_json else report.text())
        return
    if not as_json:
        click.echo(report.text())
    result = _selftest()
    found = {"doctor": report.as_json(), "selftest": dataclasses.asdict(result)}
    if not as_json:
        click.echo("\nself-test, to be put into an issue:")
    click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    if not as_json:
        click.echo(_told(result))
    if not result.passed:
        ctx.exit(1)


def _selftest() -> Selftest:
    """A self-test of the default model on what this machine has."""
    from bfsr_edge import weights
    from bfsr_edge.engines import target
    from bfsr_edge.engines.build import build
    from bfsr_edge.engines.request import Request
    from bfsr_edge.errors import BackendError
    from bfsr_edge.selftest import selftest

    model = weights.resolve(weights.DEFAULT, kind="onnx")
    entry = next(entry for entry in weights.list_models() if entry.name == weights.DEFAULT)

    with tempfile.TemporaryDirectory(prefix="bfsr-edge-selftest-") as folder:

        def build_engine() -> Path:
            here = target.look()
            profile, _ = target.choose(here)
            precision, _ = target.default_precision(profile, here)
            if precision == "int8" and "calibration" not in entry.files:
                precision = "fp32" if profile.flavour == "openvino" else "fp16"
            obstacle = target.obstacle(profile, here)
            if obstacle:
                raise BackendError(f"no engine for {profile.name} can be built here", why=(obstacle,))
            request = Request(model=model, profile=profile, precision=precision, out=Path(folder), asked=model.name)
            return build(request, here).path

        return selftest(build_engine, model.path)


def _told(result: Selftest) -> str:
    if not result.passed:
        return f"self-test FAILED at the step {result.step}: {result.error}"
    from bfsr_edge.selftest import NOT_COMPARED

    told = "equal to FP32" if result.psnr is None else f"{result.psnr:.1f} dB from FP32"
    told = f"its picture {result.reference}" if result.reference == NOT_COMPARED else told
    executed = result.engine["executed"]
    return f"self-test passed: {executed} on {result.engine['device']}, {told}, {result.milliseconds:.1f} ms a tile"
