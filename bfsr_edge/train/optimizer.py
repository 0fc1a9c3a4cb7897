"""How weights move: Adam, AdamW, or Muon, which learns faster here (train/README.md).

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982) takes the
momentum of each hidden weight matrix and moves along the nearest orthogonal matrix, so that all directions are learnt
at one pace, not only the few that dominate the gradient. A convolution's weights count as one row for each output
channel. Biases, and the convolutions that read the picture or write the result, go by AdamW. torch's own
``torch.optim.Muon`` takes matrices only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bfsr_edge.models import Network
from bfsr_edge.train.devices import multiplies_bf16
from bfsr_edge.train.recipe import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, chosen by Jordan et al. for a steep start; singular values end between 0.7 and 1.2."""
ITERATIONS = 5
UPDATE = 0.2
"""Root mean square of an update at rate 1, about that of Adam's, so that both go by one rate (Liu et al. 2025)."""


def make_optimizer(plan: Optimizer, network: Network, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over all weights of ``network`` that need a gradient."""
    moving = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    options: dict[str, Any] = {"lr": plan.rate, "betas": plan.betas, "weight_decay": plan.weight_decay}
    if plan.name != "muon":
        kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.name]
        optimizer: torch.optim.Optimizer = kind(moving.values(), **options, fused=device.type == "cuda")
        return optimizer
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in moving.items():
        outer = weight.ndim < 2 or name.split(".")[0] in network.ends
        (others if outer else hidden).append(weight)
    # not fused: after an overflow in fp16 a fused AdamW is called all the same, and skips only its own weights
    return Muon(hidden, others, momentum=plan.momentum, **options)


class Muon(torch.optim.AdamW):
    """Muon for some weights and AdamW for the others, as one optimizer with one rate.

    Parameters
    ----------
    hidden
        Weights of two or more dimensions; the first counts the rows, the rest are one.
    others
        All further weights.
    momentum
        Of the hidden weights, with Nesterov's look ahead.
    **options
        Of ``torch.optim.AdamW``. Weight decay is decoupled for all weights.
    """

    def __init__(self, hidden: list[nn.Parameter], others: list[nn.Parameter], *, momentum: float, **options: Any):
        super().__init__(
            [{"params": hidden, "orthogonal": True}, {"params": others, "orthogonal": False}],
            **options,
        )
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # none is ever given
        """Move all weights by their gradients. Those of the hidden weights are used up."""
        hidden, rate, decay = (self.param_groups[0][key] for key in ("params", "lr", "weight_decay"))
        alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight in hidden:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:  # AdamW reads no state without steps
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(weight))
            state["step"] += 1
            mean = state["momentum"].lerp_(weight.grad, 1 - self.momentum)
            alike[tuple(weight.shape)].append((weight, weight.grad.lerp(mean, self.momentum)))
            weight.grad = None  # what has none is left out by AdamW
        for pairs in alike.values():  # weights of one shape in one product
            matrices = torch.stack([direction.flatten(1) for _, direction in pairs])
            pace = UPDATE * max(matrices.shape[1:]) ** 0.5
            for (weight, _), direction in zip(pairs, orthogonal(matrices), strict=True):
                weight.mul_(1 - rate * decay).add_(direction.reshape(weight.shape), alpha=-rate * pace)
        super().step()


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values come out between 0.5 and 1.5.

    Parameters
    ----------
    matrices
        N×rows×columns; zero matrices stay zero.

    Returns
    -------
    torch.Tensor
        The same shape and type. Computed in bf16 where the device multiplies it, which is enough here.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    if multiplies_bf16(x.device):
        x = x.bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    out: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return out
