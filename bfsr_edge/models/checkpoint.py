"""Checkpoints: safetensors with the architecture in the header; published ``.pth`` files are read, never written.

A published file is opened by ``torch.load(weights_only=True)``, which rebuilds tensors and containers only: nothing in
it is executed. No memory is taken for a size that the file merely claims: settings that ask for more numbers than are
stored are refused before a network is built. Files of mmediting and mmagic (``generator.``,
``generator_ema.``) and of BasicSR (``params``, ``params_ema``, with its own layer names) load into MSRResNet and EDSR;
anything else is refused.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfsr_edge.errors import ModelError, first_line
from bfsr_edge.files import replace
from bfsr_edge.models.base import Network
from bfsr_edge.models.registry import ARCHITECTURES, create

FORMAT = "bfsr-edge"
VERSION = "1"
MAX_LAYERS = 1_000
"""Blocks or levels that a file may ask for."""
MAX_CHANNELS = 1 << 16

_PUBLISHED_PREFIXES = ("generator_ema.", "generator.", "module.", "")
# BasicSR's layer names and ours, which are mmediting's
_BASICSR = (
    (re.compile(r"^body\.(\d+)\.conv([12])\.(weight|bias)$"), r"trunk_net.\1.conv\2.\3"),
    (re.compile(r"^upconv([12])\.(weight|bias)$"), r"upsample\1.upsample_conv.\2"),
)
_BASICSR_EDSR = ((re.compile(r"^upsample\.([02])\.(weight|bias)$"), r"upsample.\1.upsample_conv.\2"),)


def save_checkpoint(
    path: str | os.PathLike[str], module: Network, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write ``module``'s parameters with what is needed to build it again.

    Parameters
    ----------
    path
        The file; written to a temporary name beside it, then renamed, so it is whole or absent.
    module
        A network of the registry.
    metadata
        Provenance for the header: text to text.
    half
        Store fp16 instead of fp32.

    Raises
    ------
    ModelError
        A weight is not finite, or does not fit fp16.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} holds a value that is not a finite {dtype}", fix="save an earlier checkpoint")
    header = {
        **(metadata or {}),
        "format": FORMAT,
        "version": VERSION,
        "architecture": module.architecture,
        "settings": json.dumps(module.settings),
    }
    write_tensors(path, tensors, header)


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file, synced and renamed into place: after a kill or a full disk the old file is still whole."""
    from safetensors.torch import save

    # safetensors' own save_file makes files that only their owner can read
    replace(Path(path), save(tensors, header), sync=True)


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a checkpoint of ours, without its tensors.

    Raises
    ------
    ModelError
        The file is missing, is no safetensors file, or was not written by bfsr-edge.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint",
            why=(str(error) or "the file is damaged",),
            fix="give a .safetensors file written by bfsr-edge train",
        ) from error
    if header.get("format") != FORMAT:
        raise ModelError(
            f"{path} is a safetensors file of something else",
            why=("its header does not name an architecture of bfsr-edge",),
            fix="give a file written by bfsr-edge train",
        )
    return dict(header)


def load_checkpoint(path: str | os.PathLike[str]) -> Network:
    """The network in a checkpoint, float32, on the CPU, in evaluation mode.

    ``.safetensors`` files are ours; ``.pth``, ``.pt`` and ``.ckpt`` are read as published MSRResNet or EDSR ones.

    Raises
    ------
    ModelError
        The file cannot be read, holds something else, or its tensors do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"there is no checkpoint {path}", fix="check the path; bfsr-edge restore --list-models names what ships"
        )
    if path.suffix in (".pth", ".pt", ".ckpt"):
        return _load_published(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        settings = json.loads(header["settings"])
        _check_settings(settings)
        architecture = header["architecture"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"the header of {path} is damaged", why=(repr(error),), fix="export it again") from error
    try:
        tensors = load_file(path)  # maps the file: pages are read when they are used
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a checkpoint", why=(str(error),), fix="export it again") from error
    network = _built(architecture, settings, tensors, path)
    return network.eval()


def _check_settings(settings: Any) -> None:
    """ValueError or TypeError where settings ask for a network that cannot be: the numbers come out of a file."""
    if not isinstance(settings, dict):
        raise TypeError("the settings are no table")
    layers = 0
    for name, value in settings.items():
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (isinstance(number, int | float) and -MAX_CHANNELS <= number <= MAX_CHANNELS):
                raise ValueError(f"{name} is {str(value)[:40]}")
            if name in ("channels", "widths") and (number is None or number < 1):
                raise ValueError(f"{name} is {str(value)[:40]}")
            if isinstance(number, int):
                layers += number if name in ("blocks", "encoder", "decoder") else 1
    if layers > MAX_LAYERS:
        raise ValueError(f"the settings ask for {layers:,} layers")


def _built(architecture: str, settings: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Network:
    """The network of those settings and tensors; refused before anything of its size is allocated."""
    stored = sum(tensor.numel() for tensor in tensors.values())
    try:
        least = _least_parameters(architecture, settings)
        if least > stored:
            raise ValueError(f"the settings ask for at least {least:,} numbers, and it stores {stored:,}")
        network = create(architecture, **settings)
    except ModelError:
        raise
    except (RuntimeError, TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise ModelError(
            f"the tensors of {path} do not fit its architecture, {architecture}", why=(first_line(error),)
        ) from error
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    different = next(_differences(wanted, tensors), "")
    if different:
        raise ModelError(f"the tensors of {path} do not fit its architecture", why=(different,))
    _fill(network, tensors, path)
    return network


def _least_parameters(architecture: str, settings: Mapping[str, Any]) -> int:
    """Fewer than a network of those settings has: its 3×3 convolutions within a level, and from one to the next."""
    if architecture not in ARCHITECTURES:
        return 0  # create says that there is none
    words = inspect.signature(ARCHITECTURES[architecture].__init__).parameters.values()
    full = {word.name: word.default for word in words} | dict(settings)
    if "widths" not in full:
        return int(9 * full["channels"] ** 2 * (2 * full["blocks"] + 9))
    widths, encoder, decoder = full["widths"], full["encoder"], full["decoder"]
    blocks = sum(18 * width**2 * count for counts in (encoder, decoder) for width, count in zip(widths, counts))  # noqa: B905
    return int(blocks + sum(9 * fine * coarse for fine, coarse in pairwise(widths)))


def _differences(wanted: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in wanted if name not in tensors)
    yield from (f"{name} is not part of it" for name in tensors if name not in wanted)
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            yield f"{name} is {tuple(tensor.shape)} instead of {tuple(shape)}"
        if not tensor.is_floating_point():
            yield f"{name} holds {tensor.dtype}"


def _fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ModelError(
            f"the tensors of {path} do not fit its architecture", why=(str(error).splitlines()[-1].strip(),)
        ) from error


def _load_published(path: Path) -> Network:
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … for files it will not open
        raise ModelError(
            f"{path} cannot be opened as weights only",
            why=("it holds more than tensors, and running code from a file is refused", first_line(error)),
            fix="save its state_dict alone, then load that",
        ) from error
    tensors = _state_dict(content)
    # a tensor may claim any shape over a few numbers that it repeats
    claiming = [name for name, t in tensors.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()]
    if claiming:
        raise ModelError(f"{path} stores fewer numbers than its tensors claim", why=(f"{claiming[0]} repeats itself",))
    ends = {"conv_first.weight", "conv_last.weight", "conv_last.bias"}
    if {"conv_after_body.weight", "upsample.0.weight", *ends} <= set(tensors):
        # BasicSR's EDSR works on 0…255 inside; folding the factor into its ends gives the same network on 0…1
        tensors = tensors | {
            "conv_first.weight": tensors["conv_first.weight"] * 255,
            "conv_last.weight": tensors["conv_last.weight"] / 255,
            "conv_last.bias": tensors["conv_last.bias"] / 255,
        }
    tensors = {_rename(name, tensors): tensor for name, tensor in tensors.items()}
    tensors.pop("mean", None)
    numbers = (int(m[1]) for name in tensors if (m := re.match(r"^(?:trunk_net|body)\.(\d{1,9})\.", name)))
    blocks = 1 + max(numbers, default=-1)
    first = tensors.get("conv_first.weight")
    if not blocks or blocks > len(tensors) or first is None or first.dim() != 4 or first.shape[1] != 3:
        raise ModelError(
            f"{path} is not an MSRResNet or EDSR checkpoint",
            why=(f"its tensors are called {', '.join(sorted(tensors)[:3])}…",),
            fix="only 3-channel MSRResNet, SRGAN generators and EDSR of mmediting, mmagic and BasicSR are read",
        )
    architecture = "edsr" if "conv_after_body.weight" in tensors else "msrresnet"
    settings = {"blocks": blocks, "channels": int(first.shape[0])}
    return _built(architecture, settings, tensors, path).eval()


def _check_archive(path: Path) -> None:
    """ValueError where a zip would unpack to more than it is: torch stores its entries uncompressed."""
    if not zipfile.is_zipfile(path):
        return  # the older format, or none that torch reads
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"it unpacks to more than its {size} bytes, which torch never writes")


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The generator's tensors out of any of the published layouts, averaged weights preferred."""
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    named = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    for prefix in _PUBLISHED_PREFIXES:
        if f"{prefix}conv_first.weight" in named:
            return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    return named


def _rename(name: str, tensors: Mapping[str, Tensor]) -> str:
    rules = _BASICSR_EDSR if "conv_after_body.weight" in tensors else _BASICSR
    for pattern, replacement in rules:
        if pattern.match(name):
            renamed = pattern.sub(replacement, name)
            return renamed.replace("upsample.2.", "upsample.1.")  # BasicSR counts the PixelShuffle between
    return name
