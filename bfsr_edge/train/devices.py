"""Where training runs, and in which precision."""

from __future__ import annotations

import torch

from bfsr_edge.errors import UsageError
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
            why=(str(error).splitlines()[0],),
            fix="use --device cpu, or install a PyTorch built for your GPU",
        ) from error
    return place


def choose_precision(recipe: Recipe, device: torch.device) -> str:
    """The precision of the forward and backward pass.

    bf16 pays where matrices are multiplied in tiles (CUDA from Ampere on, CPUs with AMX). On a CPU without AMX it is
    slower than fp32: ``bfsr-edge train --dry-run --precision bf16`` shows by how much.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if device.type == "cpu" and amx is not None and amx() else "fp32"
