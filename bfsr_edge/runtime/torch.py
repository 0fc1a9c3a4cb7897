"""PyTorch: checkpoints as they are, on CPU or CUDA; the reference that the exported graphs are compared with."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from bfsr_edge.errors import BackendError
from bfsr_edge.runtime import base
from bfsr_edge.weights import Model

NAME = "torch"
KIND = "checkpoint"
INSTALL = "pip install 'bfsr-edge[train]'"
# ours -> torch's names of element types
ELEMENT_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SMALLEST_PROBE = 16


class Engine(base.Engine):
    """A module in evaluation mode on its device."""

    def __init__(self, info: base.EngineInfo, network: Any, asked: str, threads: int | None) -> None:
        super().__init__(info)
        self._network = network
        self._asked = asked
        self._threads = threads

    def _infer(self, batch: base.Batch) -> base.Batch:
        import torch

        # torch warns of arrays it could write to but must not, even where it only reads
        readable = batch if batch.flags.writeable else batch.copy()
        inputs = torch.from_numpy(readable).to(self.info.device, memory_format=torch.channels_last)
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # one setting for the process: put back below
        try:
            result = _forward(self._network, inputs, self.info.device, self._asked)
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)
        # a fresh, C-contiguous array: the network may return its input, or a view of it
        return np.array(result.float().cpu().numpy(), order="C")


def load(
    model: Model, *, device: str, tile: int | tuple[int, int] | None, precision: str, threads: int | None
) -> Engine:
    """Load a checkpoint; see ``bfsr_edge.runtime.load`` for the arguments and errors."""
    torch = base.require("torch", NAME, INSTALL)
    precision = "fp32" if precision == "auto" else precision
    _check_device(torch, device)
    from bfsr_edge.models import load_checkpoint

    network: Any = load_checkpoint(model.path)
    network = network.eval().to(device, memory_format=torch.channels_last)
    stride = int(network.stride)
    info = base.EngineInfo(
        model=model.name,
        backend=NAME,
        backend_version=torch.__version__,
        device=device,
        precision=_executed(network, device, precision),
        scale=int(network.scale),
        stride=stride,
        receptive_field=int(network.receptive_field),
        tile=base.tile_size(tile, stride, (-(-base.DEFAULT_TILE // stride) * stride,) * 2),
        sha256=model.sha256,
    )
    return Engine(info, network, precision, threads)


def _check_device(torch: Any, device: str) -> None:
    if device == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2]) >= count:
        raise BackendError(
            f"torch cannot use {device}",
            why=(
                "this torch was built without CUDA" if not torch.version.cuda else f"it sees {count} CUDA devices",
                "the NVIDIA driver is missing or too old",
            ),
            fix="use --device cpu, or install a CUDA build of torch",
        )


def _forward(network: Any, inputs: Any, device: str, precision: str) -> Any:
    """Run the network in exactly the precision asked for."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device != "cpu":
            # convolutions take TF32 on CUDA unless told otherwise, and that is not fp32
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        if precision != "fp32":
            # autocast keeps the centring, the residual sums and the global skip's addition in fp32
            dtype = getattr(torch, ELEMENT_TYPES[precision])
            stack.enter_context(torch.autocast(device.partition(":")[0], dtype=dtype))
        return network(inputs)


def _executed(network: Any, device: str, precision: str) -> str:
    """Run the network once on its smallest input, and look at what its convolutions return.

    Raises
    ------
    BackendError
        It fails, or computes in another precision than asked.
    """
    import torch

    seen: set[str] = set()
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.add(str(output.dtype).rpartition(".")[2]))
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    side = -(-SMALLEST_PROBE // int(network.stride)) * int(network.stride)
    try:
        _forward(network, torch.zeros(1, base.CHANNELS, side, side, device=device), device, precision)
    except RuntimeError as error:
        raise BackendError(
            f"torch cannot run this network in {precision} on {device}",
            why=(base.first_line(error),),
            fix="use precision fp32",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    names = {name: ours for ours, name in ELEMENT_TYPES.items()}
    executed = "+".join(sorted(names.get(name, name) for name in seen)) or precision
    if executed != precision:
        raise BackendError(f"torch executes {executed} on {device}, not {precision}", fix="use precision fp32")
    return executed
