"""``--frontend torch-tensorrt``: a checkpoint to a TensorRT plan without ONNX.

Written against its documentation and not run here: it needs a CUDA build of torch, and a GPU even to convert.

https://docs.pytorch.org/TensorRT/user_guide/runtime_performance/serialized_engine.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bfsr_edge.errors import BackendError, ModelError, UsageError, first_line
from bfsr_edge.runtime.base import CHANNELS, require

MEBIBYTE = 2**20
INSTALL = "pip install 'bfsr-edge[torch-tensorrt]' beside a CUDA build of torch of the same minor version"


def check_target(flavour: str) -> None:
    """Refuse a target that runs no plans of plain TensorRT.

    Raises
    ------
    UsageError
        The target's flavour is another one.
    """
    if flavour != "tensorrt":
        raise UsageError(
            f"--frontend torch-tensorrt makes plans of plain TensorRT, and the target runs {flavour}",
            fix="leave --frontend out, or use --target datacenter",
        )


def check(precision: str, checkpoint: Path | None, flavour: str, *, uint8_io: bool) -> None:
    """Refuse what this front end cannot do.

    Raises
    ------
    UsageError
        INT8, 8-bit pixels, a model that is no checkpoint, or a target that runs no plans of plain TensorRT.
    """
    check_target(flavour)
    problem, fix = "", "leave --frontend out"
    if precision == "int8":
        problem = "precision is the module's type there, and INT8 needs the Q/DQ graph"
    elif uint8_io:
        problem = "it has no 8-bit pixels"
    elif checkpoint is None:
        problem, fix = "it converts a checkpoint, and the model is an ONNX file", "--model FILE.safetensors"
    if problem:
        raise UsageError(f"--frontend torch-tensorrt cannot be used: {problem}", fix=fix)


def convert(
    checkpoint: Path,
    precision: str,
    tile: tuple[int, int],
    batch: tuple[int, int, int],
    level: int,
    workspace_mib: int = 0,
) -> tuple[bytes, str]:
    """A plan with float32 input and output, and the version of TensorRT that made it.

    Parameters
    ----------
    workspace_mib
        Cap of the builder's working memory; 0: none.

    Raises
    ------
    BackendError
        torch-tensorrt is not installed, or there is no GPU.
    ModelError
        The network cannot be converted.
    """
    torch = require("torch", "torch-tensorrt", INSTALL)
    torch_tensorrt = require("torch_tensorrt", "torch-tensorrt", INSTALL)
    if not torch.cuda.is_available():
        raise BackendError(
            "torch-tensorrt cannot convert here",
            why=("torch finds no GPU, and it needs one even to convert",),
            fix="run it on the machine with the GPU, or leave --frontend out",
        )
    from bfsr_edge.models import load_checkpoint

    network: Any = load_checkpoint(checkpoint).eval().cuda()
    inner = network.half() if precision == "fp16" else network

    class Float32Ends(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input: Any) -> Any:
            return self.inner(input.half() if precision == "fp16" else input).float()

    shapes = [(count, CHANNELS, *tile) for count in batch]
    dynamic = batch[0] != batch[2]
    # torch.export takes a batch of one for a constant
    sample = torch.zeros((max(2, batch[1]) if dynamic else batch[1], CHANNELS, *tile), device="cuda")
    dims = {"input": {0: torch.export.Dim("N", min=batch[0], max=batch[2])}} if dynamic else None
    try:
        with torch.inference_mode():
            program = torch.export.export(Float32Ends(), (sample,), dynamic_shapes=dims)
            plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[
                    torch_tensorrt.Input(
                        min_shape=shapes[0], opt_shape=shapes[1], max_shape=shapes[2], dtype=torch.float32
                    )
                ],
                use_explicit_typing=True,
                optimization_level=level,
                disable_tf32=True,  # on by default: what is called fp32 would multiply with 10 bits
                workspace_size=workspace_mib * MEBIBYTE,
            )
    except Exception as error:  # torch and torch-tensorrt raise many classes
        raise ModelError(
            "torch-tensorrt cannot convert this network", why=(first_line(error),), fix="leave --frontend out"
        ) from error
    tensorrt = require("tensorrt", "torch-tensorrt", INSTALL)
    return bytes(plan), ".".join(str(tensorrt.__version__).split(".")[:3])
