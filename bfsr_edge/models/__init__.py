"""The networks, what they cost, and their checkpoints. The only core package that needs torch."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401  (asked for here once, so that the error is ours)
except ModuleNotFoundError as error:
    from bfsr_edge.errors import BackendError

    raise BackendError(
        "this command needs PyTorch, which is not installed",
        why=("only training, export and the torch backend need it, so it is an extra",),
        fix="pip install 'bfsr-edge[train]'",
    ) from error

from bfsr_edge.models.base import Network
from bfsr_edge.models.checkpoint import load_checkpoint, read_header, save_checkpoint, write_tensors
from bfsr_edge.models.registry import ARCHITECTURES, create, gmacs, parameter_count

__all__ = [
    "ARCHITECTURES",
    "Network",
    "create",
    "gmacs",
    "load_checkpoint",
    "parameter_count",
    "read_header",
    "save_checkpoint",
    "write_tensors",
]
