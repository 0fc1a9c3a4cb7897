"""A bundle: everything that another machine needs to build an engine, and the command to run there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge import __version__
from bfsr_edge.engines.files import unwritable
from bfsr_edge.engines.graphs import Graph, Source
from bfsr_edge.engines.profile import Profile
from bfsr_edge.runtime.base import by

README = """{name} for {profile}: a bundle
{line}

This folder holds what is needed to build an engine on {summary}. Nothing here was run on such a device.

1. Copy the folder there, and install bfsr-edge {version} or newer (on a Jetson: docs/jetson.md of its repository).
2. In this folder:

       {command}

   The engine and its sidecar appear in engines/. No faces are needed{calibrated}.
3. See that it works, then use it:

       bfsr-edge doctor --selftest
       bfsr-edge restore PHOTOS --model {model} --device cuda:0 --out results/

{files}

To time the same graph with NVIDIA's own tool, without bfsr-edge (its plan has no sidecar, so bfsr-edge refuses it):

       trtexec --onnx={graph} --stronglyTyped \\
         --minShapes={input}:{least} --optShapes={input}:{best} --maxShapes={input}:{most}
"""


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle."""

    source: Source
    """The network."""
    graphs: tuple[Graph, ...]
    """Its lowered graphs, one a precision."""
    profile: Profile
    """The device."""
    toml: Path
    """The device's file."""
    tile: tuple[int, int]
    """Height and width of the input."""
    batch: tuple[int, int, int]
    """Smallest, best and largest batch."""


def write_bundle(folder: Path, contents: Contents, command: str, model: str) -> None:
    """Write a bundle; it appears whole, and replaces an older one of the same name.

    Parameters
    ----------
    command
        What to run inside the folder.
    model
        What ``restore`` takes afterwards, as a path from there.

    Raises
    ------
    ModelError
        The folder cannot be written to.
    """
    source, profile = contents.source, contents.profile
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        files = {f"{source.name}.onnx": "the network in float32"}
        # the file may keep its weights beside it; here they go inside
        (temporary / f"{source.name}.onnx").write_bytes(source.proto.SerializeToString(deterministic=True))
        for graph in contents.graphs:
            if graph.calibration_path is not None:
                shutil.copyfile(graph.calibration_path, temporary / f"{source.name}.calibration.json")
                files[f"{source.name}.calibration.json"] = "the scales of its INT8 graph"
            name = f"{source.name}.{graph.precision}.{by(contents.tile)}.onnx".replace("×", "x")
            (temporary / name).write_bytes(graph.content)
            files[name] = f"the {graph.precision} graph with tiles of {by(contents.tile)}, as a builder gets it"
        shutil.copyfile(contents.toml, temporary / f"{profile.name}.toml")
        files[f"{profile.name}.toml"] = "the device profile"
        shapes = [by((count, 3, *contents.tile)).replace("×", "x") for count in contents.batch]
        text = README.format(
            name=source.name,
            profile=profile.name,
            line="=" * (len(source.name) + len(profile.name) + 15),
            summary=profile.summary,
            version=__version__,
            command=command,
            calibrated=", the calibration is here" if any(graph.calibration_path for graph in contents.graphs) else "",
            model=model,
            files="\n".join(f"- {name}: {what}" for name, what in files.items()),
            graph=name,
            input=source.proto.graph.input[0].name,
            least=shapes[0],
            best=shapes[1],
            most=shapes[2],
        )
        (temporary / "README.txt").write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
