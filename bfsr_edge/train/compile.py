"""torch.compile: whether it is wanted, whether it works here, and what is said about it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bfsr_edge.errors import TrainingError, UsageError, first_line
from bfsr_edge.runtime.base import lacks_memory
from bfsr_edge.train.recipe import Recipe


def choose_compile(recipe: Recipe, device: torch.device) -> tuple[bool, str]:
    """Whether to compile the network, and a few words on it for the user.

    ``auto`` compiles on a GPU if a compiler works there, and says why not; on a CPU it does not.

    Raises
    ------
    UsageError
        The recipe says ``on``, and no compiler works.
    """
    if recipe.compile == "off" or (recipe.compile == "auto" and device.type != "cuda"):
        return False, "not compiled"
    reason = why_not(device)
    if not reason:
        return True, "compiled"
    if recipe.compile == "on":
        raise UsageError(
            f"torch.compile does not work on {device}",
            why=(reason, "it needs g++ on a CPU, Triton and a C compiler on a GPU"),
            fix="apt install g++, or train without it: --compile off",
        )
    return False, f"not compiled, as torch.compile does not work here: {reason}"


def why_not(device: torch.device) -> str:
    """Why torch.compile does not work on ``device``, in a line; empty if it does. Compiles something small to see."""

    def probe(x: Tensor) -> Tensor:
        return torch.relu(x) * 2 + 1

    try:
        with warnings.catch_warnings():  # deprecations inside the compiler
            warnings.simplefilter("ignore")
            torch.compile(probe)(torch.ones(8, device=device))
    except Exception as error:  # every part of the compiler has exceptions of its own
        return first_line(error)
    return ""


def compile_in_place(network: nn.Module) -> None:
    """Compile the module's forward pass; its parameters keep their names, and a copy or a checkpoint knows nothing."""
    network.compile()


@contextlib.contextmanager
def explained(batch: int) -> Iterator[None]:
    """Errors of a training step become ours: the compiler's, and that ``batch`` faces do not fit into the memory."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise TrainingError(
            "torch.compile could not compile the network", why=(first_line(error),), fix="--compile off"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise TrainingError(
            f"there is not enough memory for a step with {batch} faces",
            why=(first_line(error), "other programs hold it"),
            fix="train with a smaller --batch",
        ) from error
