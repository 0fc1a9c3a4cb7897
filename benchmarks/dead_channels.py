"""How many channels inside a network's residual blocks are zero behind their ReLU on every picture: they do nothing.

    python benchmarks/dead_channels.py --lq LQ --model edge

LQ holds pictures of the network's input size (128×128). Training with a high rate kills channels, and what is dead gets
no gradient any more; train/README.md says what follows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.models import Network, load_checkpoint
from bfsr_edge.models.blocks import ResidualBlock
from bfsr_edge.weights import resolve


def alive(network: Network, pictures: list[Path]) -> dict[str, torch.Tensor]:
    """Block to a flag for each of its inner channels: whether it was above zero on any picture."""
    found: dict[str, torch.Tensor] = {}
    blocks = {name: part for name, part in network.named_modules() if isinstance(part, ResidualBlock)}
    for name, block in blocks.items():

        def look(_part: object, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            above = (output > 0).any(dim=3).any(dim=2)[0]
            found[name] = found[name] | above if name in found else above

        block.conv1.register_forward_hook(look)
    for path in pictures:
        pixels = np.array(images.read(path).pixels[:, :, :3], np.float32)
        with torch.no_grad():
            network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lq", type=Path, required=True, metavar="DIR")
    options.add_argument("--model", default="edge", metavar="NAME|FILE", help="default: %(default)s")
    given = options.parse_args()
    try:
        pictures = sorted(given.lq.glob("*.png"))
        if not pictures:
            raise UsageError(f"there is no PNG in {given.lq}")
        network = load_checkpoint(resolve(given.model, kind="checkpoint").path).eval()
        found = alive(network, pictures)
    except BfsrError as error:
        print(f"dead_channels: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.model}, {len(pictures)} pictures\n\n| block | dead | of |\n|---|--:|--:|")
    for name, flags in found.items():
        print(f"| `{name}` | {int((~flags).sum())} | {len(flags)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
