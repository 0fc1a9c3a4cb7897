"""Where training runs, and in which precision."""

from __future__ import annotations

import torch

from bfsr_edge.errors import UsageError, first_line
from bfsr_edge.train.recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def checked_device(device: str) -> torch.device:
    """The torch device called ``device``; ``auto`` is the first GPU, or the CPU where there is none.

    Raises
    ------
    UsageError
        There is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"there is no device {device} here",
            why=(first_line(error),),
            fix="use --device cpu, or install a PyTorch built for your GPU",
        ) from error
    return place


def choose_precision(recipe: Recipe, device: torch.device) -> str:
    """The precision of the forward and backward pass.

    bf16 pays where the hardware multiplies it: CUDA from Ampere on, CPUs with AMX or AVX512-BF16 (half the time of a
    step on an AMD EPYC). On other CPUs it takes twice as long as fp32: ``bfsr-edge train --dry-run --precision bf16``
    shows it.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if multiplies_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware of ``device`` multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it is the current one that torch asks
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(map(_cpu_has, ("amx_tile", "avx512_bf16")))


def _cpu_has(feature: str) -> bool:
    """Whether torch finds an instruction set here; a torch that cannot tell counts as no."""
    asked = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return asked is not None and bool(asked())
