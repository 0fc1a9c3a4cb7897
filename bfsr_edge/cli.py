"""The command line: a click group that loads each command only when it is asked for.

Heavy libraries (torch, openvino, onnxruntime, onnx, cv2) are imported inside the functions that need them, so
``bfsr-edge --help`` answers at once. Errors of ours become one message and an exit code:
0 done, 1 some failed, 2 wrong usage.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from bfsr_edge import __version__
from bfsr_edge.errors import BfsrError, UsageError

# name -> one-line help; the module is bfsr_edge.commands.NAME, "-" written as "_", and holds a click command `command`
COMMANDS = {
    "restore": "Restore photographs: files, folders, globs.",
    "train": "Train a network on a folder or tars of faces.",
    "ablate": "Train several recipes alike and compare them.",
    "export": "Turn a checkpoint into a checked ONNX file.",
    "calibrate": "Find the INT8 scales of a model on faces.",
    "build-engine": "Make a network ready for one kind of device.",
    "inspect": "Show what is inside an engine or an ONNX file.",
    "evaluate": "Score a model on pairs of degraded and true pictures.",
    "benchmark": "Measure engines, ours and others', into one report.",
    "degrade": "Make low-quality pictures by the blind degradation.",
    "doctor": "Say what this machine has, and test an engine on it.",
}


ARGUMENTS = "bfsr_edge.arguments"
MAY_BE_EMPTY = ("--suffix",)
"""Options whose empty value means something."""


class LazyGroup(click.Group):
    """A group whose commands live in ``bfsr_edge.commands`` and are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bfsr_edge.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _refuse_empty(ctx.meta[ARGUMENTS])
            return super().invoke(ctx)
        except BfsrError as error:
            click.echo(f"bfsr-edge: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("bfsr-edge: interrupted; what was finished is kept, run the same command to go on", err=True)
            ctx.exit(1)


def _refuse_empty(arguments: list[str]) -> None:
    """An empty path would mean the current folder, which nobody asked for."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument:
            name = before
        elif argument.startswith("--") and argument.endswith("="):
            name = argument[:-1]
        else:
            continue
        if name not in MAY_BE_EMPTY:
            raise UsageError(
                f"{name if name.startswith('-') else 'an argument'} is empty",
                why=("a variable of the shell in it has no value",),
                fix="give it a value, or leave it out",
            )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bfsr-edge")
def main() -> None:
    """Restore faces on small machines: train, export, evaluate, restore."""


if __name__ == "__main__":
    sys.exit(main())
