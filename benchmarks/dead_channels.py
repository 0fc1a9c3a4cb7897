"""How much of a network's residual blocks does anything: how often the channels inside them are above zero, if ever.

    python benchmarks/dead_channels.py --lq LQ --model edge
    python benchmarks/dead_channels.py --lq LQ --model edge --revive alive.safetensors

Behind a ReLU a channel that never is gets no gradient any more; train/README.md says how that comes and what helps.
--revive writes a checkpoint to train on from, of the same function if it has ReLUs: dead channels get new weights in
front of them, of the length of the others', and zeros behind them. LQ holds pictures of the network's input size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from bfsr_edge import images
from bfsr_edge.errors import BfsrError, UsageError
from bfsr_edge.models import Network, create, load_checkpoint, save_checkpoint
from bfsr_edge.models.blocks import residual_blocks
from bfsr_edge.weights import resolve


def active(network: Network, pictures: list[Path]) -> dict[str, torch.Tensor]:
    """Block to the share of positions, over all pictures, at which each of its inner channels is above zero."""
    found: dict[str, torch.Tensor] = {}
    for name, block in residual_blocks(network).items():

        def look(_part: object, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            above = (output > 0).double().mean(dim=(0, 2, 3)) / len(pictures)
            found[name] = found[name] + above if name in found else above

        block.conv1.register_forward_hook(look)
    for path in pictures:
        pixels = np.array(images.read(path).pixels[:, :, :3], np.float32)
        with torch.no_grad():
            network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    return found


def without_slope(network: Network) -> Network:
    """The same weights with ReLUs: another function, to train on from."""
    settings = {key: value for key, value in network.settings.items() if key != "slope"}
    plain = create(network.architecture, **settings).eval()
    plain.load_state_dict(network.state_dict())
    return plain


def revive(network: Network, found: dict[str, torch.Tensor]) -> None:
    """New weights for all dead channels, in place; behind a ReLU the pictures looked at come out as before."""
    torch.manual_seed(0)
    for name, block in residual_blocks(network).items():
        dead, weight, bias = found[name] == 0, block.conv1.weight, block.conv1.bias
        assert bias is not None
        with torch.no_grad():
            length = torch.tensor(1.0) if dead.all() else weight[~dead].flatten(1).norm(dim=1).median()
            fresh = torch.randn_like(weight[dead])
            weight[dead] = fresh / fresh.flatten(1).norm(dim=1)[:, None, None, None] * length
            bias[dead] = 0
            block.conv2.weight[:, dead] = 0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lq", type=Path, required=True, metavar="DIR")
    options.add_argument("--model", default="edge", metavar="NAME|FILE", help="default: %(default)s")
    options.add_argument("--relu", action="store_true", help="look at an EdgeUNet as if its slope were 0")
    options.add_argument("--revive", type=Path, metavar="FILE", help="write a checkpoint without dead channels")
    given = options.parse_args()
    try:
        pictures = sorted(given.lq.glob("*.png"))
        if not pictures:
            raise UsageError(f"there is no PNG in {given.lq}")
        network = load_checkpoint(resolve(given.model, kind="checkpoint").path).eval()
        if given.relu:
            network = without_slope(network)
        found = active(network, pictures)
        if given.revive:
            revive(network, found)
            save_checkpoint(given.revive, network)
    except BfsrError as error:
        print(f"dead_channels: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.model}, {len(pictures)} pictures\n\n| block | never above zero | of | above zero on average |")
    print("|---|--:|--:|--:|")
    for name, share in found.items():
        print(f"| `{name}` | {int((share == 0).sum())} | {len(share)} | {float(share.mean()):.1%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
