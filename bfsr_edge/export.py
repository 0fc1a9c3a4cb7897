"""Checkpoint to ONNX, checked before it gets its name.

The graph comes from PyTorch's TorchScript exporter. It is the older of the two, but it names every node after its
module (``/decoder.0/decoder.0.1/conv2/Conv``), writes plain Conv, Relu, Add and DepthToSpace nodes and needs no package
beyond torch and onnx; the newer one needs onnxscript, numbers its nodes and writes paths of the sources into the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfsr_edge import __version__
from bfsr_edge.errors import ModelError, UsageError, first_line
from bfsr_edge.files import writing
from bfsr_edge.runtime import load
from bfsr_edge.runtime.base import CHANNELS, DEFAULT_TILE, tile_size
from bfsr_edge.runtime.graph import PREFIX
from bfsr_edge.weights import DEFAULT, Model, resolve, sha256_of

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
CHECKED_WITH = ("openvino", "onnxruntime")
MAX_ERROR = 0.05
"""In 1/255, the largest difference from torch allowed: far above reordered float32 sums, far below a wrong graph."""
OTHER_TILE = (48, 64)
"""Checked besides the tile asked for, rounded up to the stride: a fixed size left in the graph fails here."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with torch."""

    path: Path
    """The ONNX file."""
    sha256: str
    """Of the ONNX file."""
    size: int
    """In bytes."""
    architecture: str
    """The network's name in ``bfsr_edge.models``."""
    parameters: int
    """How many weights it has."""
    gmacs: float
    """10⁹ multiply-accumulates for one tile."""
    tile: tuple[int, int]
    """Height and width."""
    errors: dict[str, float]
    """Backend to largest absolute difference from torch, in 1/255."""
    rounding: float | None
    """Largest change of the result by storing the weights as fp16, in 1/255; ``None`` where they stay fp32."""


@dataclass(frozen=True)
class Source:
    """Where the weights come from."""

    name: str
    """What the result is called by default."""
    sha256: str
    """Of the checkpoint."""
    other_sha256: str = ""
    """Of the checkpoint that it was interpolated with; empty: it was not."""
    alpha: float = 0.0
    """Weight of the other checkpoint."""

    def provenance(self) -> dict[str, str]:
        """What a file's metadata say about it."""
        told = {"checkpoint_sha256": self.sha256}
        if self.other_sha256:
            told |= {"interpolated_sha256": self.other_sha256, "interpolation_alpha": repr(self.alpha)}
        return told


def export(
    model: str | os.PathLike[str] = DEFAULT,
    out: str | os.PathLike[str] | None = None,
    *,
    tile: int | tuple[int, int] = DEFAULT_TILE,
    fp16_weights: bool = False,
    name: str | None = None,
    interpolate: str | os.PathLike[str] | None = None,
    alpha: float | None = None,
) -> Exported:
    """Write a checkpoint as ONNX and compare it with torch on every CPU backend.

    The graph is float32, input N×3×h×w and output N×3×sh×sw with N free and the tile fixed; backends may set another
    tile, as nothing else in it depends on the size.

    Parameters
    ----------
    model
        The name of a shipped model, or the path of a checkpoint.
    out
        The file to write, ending in ``.onnx``; by default the default of ``name`` in the current folder. It appears
        only when every check has passed, and replaces an older file in one step.
    tile
        Side of the input in pixels, or (height, width).
    fp16_weights
        Store the weights as fp16: half the size. The arithmetic stays float32, as a Cast follows each of them.
    name
        What the file says it is called; by default the model's name without suffix, followed by the other's and
        ``alpha`` where it is interpolated.
    interpolate, alpha
        Another model of the same architecture and settings, and its weight in [0, 1]: what is written has the weights
        ``(1 - alpha) · model + alpha · interpolate`` (see ``bfsr_edge.models.interpolate``). Both or neither. ``out``
        may then end in ``.safetensors`` too: a checkpoint is written, which has no tile and no name.

    Raises
    ------
    UsageError
        There is no such model, it is no checkpoint, the tile does not fit, or parameters contradict each other.
    ModelError
        The graph cannot be made, or differs from torch by more than ``MAX_ERROR``; or the two networks do not match.
    BackendError
        torch, openvino or onnxruntime is missing.
    BfsrError
        The file cannot be written.
    """
    if (interpolate is None) != (alpha is None):
        raise UsageError(
            "interpolation needs both another model and its weight alpha", fix="--interpolate NAME|FILE --alpha 0.2"
        )
    found = _checkpoint(model)
    source = Source(Path(found.name).stem, found.sha256)
    other = None
    if interpolate is not None and alpha is not None:
        other = _checkpoint(interpolate)
        source = Source(f"{source.name}-{Path(other.name).stem}-{alpha:g}", found.sha256, other.sha256, alpha)
    target = Path(out) if out is not None else Path(f"{source.name}.onnx")
    as_checkpoint = other is not None and target.suffix.lower() == ".safetensors"
    if target.suffix.lower() != ".onnx" and not as_checkpoint:
        raise UsageError(
            f"the file to write must end in .onnx, {target} does not",
            why=("only interpolation writes a checkpoint, .safetensors",),
        )
    if as_checkpoint:
        _check_checkpoint_target(target, (found, other), name, tile)

    from bfsr_edge.models import gmacs, load_checkpoint, parameter_count, save_checkpoint

    network: Any = load_checkpoint(found.path)
    if other is not None:
        from bfsr_edge.models.interpolate import interpolate as between

        network = between(network, load_checkpoint(other.path), source.alpha)
    tile = tile_size(tile, int(network.stride), (DEFAULT_TILE, DEFAULT_TILE))
    rounding = _round_weights(network, tile) if fp16_weights else None
    errors: dict[str, float] = {}
    if as_checkpoint:
        with writing(target):
            save_checkpoint(target, network, source.provenance(), half=fp16_weights)
    else:
        errors = _write_checked(target, network, tile, source, name or source.name, fp16_weights)
    return Exported(
        path=target,
        sha256=sha256_of(target),
        size=target.stat().st_size,
        architecture=str(network.architecture),
        parameters=parameter_count(network),
        gmacs=gmacs(network, *tile),
        tile=tile,
        errors=errors,
        rounding=rounding,
    )


def _checkpoint(model: str | os.PathLike[str]) -> Model:
    """The checkpoint behind ``--model``; UsageError for a file of another kind."""
    found = resolve(model, kind="checkpoint")
    if found.kind != "checkpoint":
        raise UsageError(f"{found.path} is not a checkpoint", fix="give a .safetensors file that bfsr-edge train wrote")
    return found


def _check_checkpoint_target(target: Path, ends: Sequence[Model | None], name: str | None, tile: object) -> None:
    """What only a graph has is refused, and so is a file that would take the place of one that it is made from."""
    if name is not None or tile != DEFAULT_TILE:
        raise UsageError(
            "a checkpoint has neither a name nor a tile", fix="leave --name and --tile out, or write an .onnx"
        )
    if any(end is not None and target.resolve() == end.path.resolve() for end in ends):
        raise UsageError(f"{target} is one of the two checkpoints to interpolate between", fix="give another --out")


def _write_checked(
    target: Path, network: Any, tile: tuple[int, int], source: Source, name: str, fp16_weights: bool
) -> dict[str, float]:
    """Write the graph, which gets its name when every backend agrees with torch; their differences, in 1/255."""
    proto = _trace(network, tile)
    if fp16_weights:
        _store_as_fp16(proto)
    _describe(proto, network, name, source)
    # backends know a model by its suffix, so the temporary name keeps it
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.onnx")
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, proto)
        errors = {backend: _compare(network, temporary, backend, tile) for backend in CHECKED_WITH}
        with writing(target):
            os.replace(temporary, target)
        return errors
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written to is said above
            temporary.unlink(missing_ok=True)


def _trace(network: nn.Module, tile: tuple[int, int]) -> onnx.ModelProto:
    """The network as an ONNX graph whose only fixed sizes are those of input and output."""
    import onnx
    import torch

    buffer: Any = io.BytesIO()  # any file-like object works; torch's annotation says path
    with warnings.catch_warnings():
        # the exporter announces that it will be replaced one day: see the top of this file
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.onnx.export(
                network,
                (torch.zeros(2, CHANNELS, *tile),),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
            )
        except Exception as error:  # the exporter raises many classes, torch.onnx.errors and RuntimeError among them
            raise ModelError(f"{network.architecture} cannot be exported", why=(first_line(error),)) from error
    proto = onnx.load_from_string(buffer.getvalue())
    _unshare_weights(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _unshare_weights(proto: onnx.ModelProto) -> None:
    """Give every layer weights of its own: the exporter lets equal ones, such as zero biases, share one by Identity."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "Identity" and node.input[0] in tensors]:
        copy = proto.graph.initializer.add()
        copy.CopyFrom(tensors[node.input[0]])
        copy.name = node.output[0]
        proto.graph.node.remove(node)


def _store_as_fp16(proto: onnx.ModelProto) -> None:
    """Keep every convolution's weights as fp16, each with a Cast back to fp32 that backends fold when they load."""
    import onnx
    from onnx import numpy_helper

    used = {name for node in proto.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.name not in used:
            continue
        name = tensor.name
        stored = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}.fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], name=f"/{name}/Cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _describe(proto: onnx.ModelProto, network: Any, name: str, source: Source) -> None:
    """What backends and people need to know about the file."""
    import onnx

    proto.producer_name = "bfsr-edge"
    proto.producer_version = __version__
    onnx.helper.set_model_props(
        proto,
        {
            PREFIX + "name": name,
            PREFIX + "architecture": str(network.architecture),
            PREFIX + "settings": json.dumps(network.settings),
            PREFIX + "scale": str(network.scale),
            PREFIX + "stride": str(network.stride),
            PREFIX + "receptive_field": str(network.receptive_field),
            **{PREFIX + key: value for key, value in source.provenance().items()},
        },
    )


def _round_weights(network: nn.Module, tile: tuple[int, int]) -> float:
    """Round the weights in place to what fp16 holds; the largest change of the result, in 1/255."""
    import torch

    batch = torch.from_numpy(_sample(1, tile))
    with torch.inference_mode():
        before = network(batch)
    for name, weight in network.state_dict().items():
        rounded = weight.half().float()
        if not bool(torch.isfinite(rounded).all()):
            raise ModelError(f"{name} is too large for fp16", fix="export without --fp16-weights")
        weight.copy_(rounded)
    with torch.inference_mode():
        return float((network(batch) - before).abs().max()) * 255


def _compare(network: Any, path: Path, backend: str, tile: tuple[int, int]) -> float:
    """Largest difference from torch, in 1/255, at the tile with a batch of two and at another tile.

    Raises
    ------
    ModelError
        It is over the limit.
    """
    import torch

    other = tuple(-(-side // network.stride) * network.stride for side in OTHER_TILE)
    worst = 0.0
    for count, size in ((2, tile), (1, other)):
        batch = _sample(count, size)
        with torch.inference_mode():
            expected = network(torch.from_numpy(batch)).numpy()
        result = load(path, backend=backend, tile=size).run(batch)
        error = float(np.abs(result - expected).max()) * 255
        # float32 errors are relative: untrained networks, whose results exceed 1, are allowed more
        if not error <= MAX_ERROR * max(1.0, float(np.abs(expected).max())):
            raise ModelError(
                f"the exported graph differs from torch by {error:.3g}/255 in {backend}, tile {size[0]}×{size[1]}",
                why=("the exporter translated an operation differently", "the graph holds a fixed size"),
                fix="nothing was written; try other versions of torch and of the backend, and please report it",
            )
        worst = max(worst, error)
    return worst


def _sample(count: int, tile: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same noise every time, in [0, 1]: noise reaches every weight with every phase."""
    return np.random.default_rng(0).random((count, CHANNELS, *tile), dtype=np.float32)


def _write(path: Path, proto: onnx.ModelProto) -> None:
    with open(path, "wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())
