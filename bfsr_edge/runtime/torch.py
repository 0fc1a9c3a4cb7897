"""PyTorch: checkpoints as they are, on CPU or CUDA; the reference that the exported graphs are compared with."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any

import numpy as np

from bfsr_edge.errors import BackendError, first_line
from bfsr_edge.runtime import base
from bfsr_edge.weights import Model

NAME = "torch"
INSTALL = "pip install 'bfsr-edge[train]'"
# ours -> torch's names of element types
ELEMENT_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SMALLEST_PROBE = 16
MEMORY_PROBE = 64
"""Side of the tile whose memory is counted."""


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
    model: Model,
    *,
    device: str,
    tile: int | tuple[int, int] | None,
    precision: str,
    threads: int | None,
    streams: int = 1,
) -> Engine:
    """Load a checkpoint; see ``bfsr_edge.runtime.load`` for the arguments and errors. There is one stream always."""
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
        bytes_per_pixel=_bytes_per_pixel(network, device, precision),
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


def _bytes_per_pixel(network: Any, device: str, precision: str) -> float:
    """Working memory of a run for each pixel of its batch: measured on a GPU, elsewhere by what layers return.

    On a CPU nobody counts what torch takes, so it is the outputs of layers that are held at the same time, and as much
    again for what stands between them.
    """
    import torch

    side = -(-MEMORY_PROBE // int(network.stride)) * int(network.stride)
    inputs = torch.zeros(1, base.CHANNELS, side, side, device=device).to(memory_format=torch.channels_last)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _forward(network, inputs, device, precision)
        return float(torch.cuda.max_memory_allocated(device) - before) / side**2
    held = most = 0

    def free(size: int) -> None:
        nonlocal held
        held -= size

    def note(_layer: Any, _inputs: Any, output: Any) -> None:
        nonlocal held, most
        if isinstance(output, torch.Tensor):
            size = output.numel() * output.element_size()
            held += size
            most = max(most, held)
            weakref.finalize(output, free, size)

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(note) for layer in leaves]
    try:
        _forward(network, inputs, device, precision)
    finally:
        for handle in handles:
            handle.remove()
    return 2.0 * most / side**2


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
            why=(first_line(error),),
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
