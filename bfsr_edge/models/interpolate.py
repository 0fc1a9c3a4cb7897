"""Network interpolation: between the weights of two networks of one architecture (Wang et al. 2018, arXiv 1809.00219).

A generator that was trained from a PSNR network stays close to it, so a network between the two is a choice between
few artefacts and much texture that needs no further training.
"""

from __future__ import annotations

from bfsr_edge.errors import ModelError, UsageError
from bfsr_edge.models.base import Network
from bfsr_edge.models.registry import create


def interpolate(first: Network, second: Network, alpha: float) -> Network:
    """A new network whose weights are ``(1 - alpha) · first + alpha · second``, in evaluation mode on the CPU.

    Parameters
    ----------
    first, second
        Of the same architecture and settings, float32; neither is changed.
    alpha
        In [0, 1]: 0 gives the weights of ``first`` bit for bit, 1 those of ``second``.

    Raises
    ------
    UsageError
        ``alpha`` is outside of [0, 1].
    ModelError
        The networks differ in architecture or settings.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha lies in 0 … 1, {alpha:g} does not", fix="0 is the first network, 1 the second")
    if (first.architecture, first.settings) != (second.architecture, second.settings):
        mine, other = (f"{network.architecture} with {network.settings}" for network in (first, second))
        raise ModelError(
            f"these two networks have no weights in common: {mine}, and {other}",
            why=("interpolation needs the same layers in both",),
            fix="take two checkpoints of the same architecture and settings, best one trained from the other",
        )
    between = create(first.architecture, **first.settings)
    theirs = second.state_dict()
    # in float64, so that the ends are exact and the middle is rounded once
    between.load_state_dict(
        {
            name: ((1 - alpha) * tensor.double().cpu() + alpha * theirs[name].double().cpu()).to(tensor.dtype)
            for name, tensor in first.state_dict().items()
        }
    )
    return between.eval()
