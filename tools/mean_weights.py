"""The mean of checkpoints' weights: network interpolation (Wang et al. 2018, arXiv 1809.00219).

    python tools/mean_weights.py mean.safetensors runs/part-1/last.safetensors runs/part-2/last.safetensors

The checkpoints are of one network, trained from the same beginning, as are two parts of one training. The mean of
sharper ones keeps what they agree on and softens what each drew for itself. What is equal in all stays bit by bit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from bfsr_edge.errors import BfsrError, ModelError
from bfsr_edge.models import Network, load_checkpoint, save_checkpoint


def mean(networks: list[Network]) -> Network:
    """The first network with the mean of all weights; ModelError where they are not all the same network."""
    first = networks[0]
    if any((one.architecture, one.settings) != (first.architecture, first.settings) for one in networks):
        raise ModelError("these are different networks", fix="give checkpoints of one architecture and its settings")
    states = [one.state_dict() for one in networks]
    for name, weight in first.state_dict().items():
        every = torch.stack([state[name] for state in states]).double()
        weight.copy_(every[0] + (every - every[0]).mean(dim=0))
    return first


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("checkpoints", nargs="+", type=Path)
    given = options.parse_args(arguments)
    try:
        network = mean([load_checkpoint(path) for path in given.checkpoints])
        save_checkpoint(given.out, network, {"mean_of": " ".join(path.name for path in given.checkpoints)})
    except BfsrError as error:
        print(f"mean_weights: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
