"""What a generator is trained with besides the pixel loss: SRGAN, and a substitute without pretrained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.errors import TrainingError
from bfsr_edge.train.discriminator import Discriminator, PatchDiscriminator, detail
from bfsr_edge.train.features import load_vgg
from bfsr_edge.train.losses import focal_frequency, lattice
from bfsr_edge.train.recipe import Recipe

JITTER = 16
"""Pixels by which windows are moved, so that a discriminator sees all phases of a network's grids."""


class Adversary:
    """The discriminator with its optimizer, and the losses on both sides.

    Parameters
    ----------
    recipe
        ``adversarial`` holds the weights of the terms; ``judged_side`` is the side of what the discriminator sees;
        ``optimizer.betas`` and ``seed`` are the discriminator's too.
    device
        Where it lives.

    Raises
    ------
    UsageError
        The pictures' side does not suit the discriminator.
    ModelError
        The weights of VGG19 are needed, and missing or damaged.
    """

    discriminator: nn.Module | None
    """None without ``adversarial.gan``. May be replaced by itself in DistributedDataParallel; always in training mode,
    so its running statistics are never used."""
    optimizer: torch.optim.Optimizer | None
    """The discriminator's Adam; whoever trains sets its rate, takes its steps and saves its state."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.weights = recipe.adversarial
        self.discriminator = self.optimizer = None
        if self.weights.gan > 0:
            # the generator's first weights and torch's random state do not depend on there being a discriminator
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(recipe.seed)
                network = _discriminator(recipe)
            # the layout that convolutions want, as for the generator
            self.discriminator = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # not typed
            self.optimizer = torch.optim.Adam(
                self.discriminator.parameters(), lr=self.weights.rate, betas=recipe.optimizer.betas
            )
        self._vgg = load_vgg(self.weights.perceptual_file).to(device) if self.weights.perceptual > 0 else None

    def generator_loss(self, prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the recipe by name, to be added to the pixel loss.

        Parameters
        ----------
        prediction
            The generator's output, float32 N×3×side×side in [0, 1] but not clipped. The gradient of every term goes
            into it, and into nothing else.
        truth
            The same in photographs.

        Returns
        -------
        dict
            ``gan``, ``perceptual``, ``matching``, ``frequency`` and ``lattice``, as far as their weight is above 0;
            each a float32 number on the device.
        """
        terms: dict[str, Tensor] = {}
        truth = truth.detach()
        if self.discriminator is not None:
            matched = self.weights.matching > 0
            seen, aim = self._window(prediction, truth)
            batches = (seen, aim) if matched else (seen,)
            share = explained(seen, aim) if self.weights.explained else None
            with _frozen(self.discriminator):
                judged = self.discriminator(*batches, features=matched)
            terms["gan"] = self.weights.gan * _taken_for(judged[0].logits, real=True, share=share)
            if matched:
                distance = feature_distance(judged[0].features, judged[1].features, share)
                terms["matching"] = self.weights.matching * distance
        if self._vgg is not None:
            terms["perceptual"] = self.weights.perceptual * self._vgg.distance(prediction, truth)
        if self.weights.frequency > 0:
            terms["frequency"] = self.weights.frequency * focal_frequency(prediction, truth)
        if self.weights.lattice > 0:
            terms["lattice"] = self.weights.lattice * lattice(prediction, truth)
        return terms

    def discriminator_loss(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Vanilla GAN loss of the discriminator: cross-entropy on photographs plus that on results, each of weight 1.

        Call it behind the generator's backward pass: the running statistics change here.

        Parameters
        ----------
        prediction, truth
            As for `generator_loss`; no gradient goes into either.

        Raises
        ------
        TrainingError
            The recipe has no discriminator.
        """
        if self.discriminator is None:
            raise TrainingError("this recipe has no discriminator to train", fix="give adversarial.gan a weight")
        real, false = self.discriminator(*self._window(truth.detach(), prediction.detach()))
        return _taken_for(real.logits, real=True) + _taken_for(false.logits, real=False)

    def _window(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """The same window of ``adversarial.crop`` pixels of all, drawn from torch's global generator."""
        side = self.weights.crop
        if not side:
            return pictures
        top, left = (_corner(length, side) for length in pictures[0].shape[-2:])
        return tuple(picture[..., top : top + side, left : left + side] for picture in pictures)


def _corner(length: int, side: int) -> int:
    """Where a window begins: one of the fewest that cover ``length``, moved by up to ``JITTER`` pixels.

    Were every place as likely, the middle of the face would be judged in nearly every step and hair hardly ever.
    """
    count = -(-length // side)
    place = int(torch.randint(count, ())) * (length - side) // max(1, count - 1)
    return min(max(0, place + int(torch.randint(-JITTER, JITTER + 1, ()))), length - side)


def _discriminator(recipe: Recipe) -> nn.Module:
    plan = recipe.adversarial
    if plan.discriminator == "patch":
        return PatchDiscriminator(plan.channels)
    return Discriminator(plan.channels, recipe.judged_side)


def explained(prediction: Tensor, truth: Tensor) -> Tensor:
    """The share of the variance of the truth's `detail` that the prediction's explains: R², no gradient.

    Parameters
    ----------
    prediction, truth
        N×3×H×W.

    Returns
    -------
    Tensor
        N numbers in [0, 1]: near 0 for a face that is too blurred to show any detail, about ½ for a clear one. Detail
        that is there the wrong way round counts as none.
    """
    mine, theirs = (detail(pictures.detach()).flatten(1) for pictures in (prediction, truth))
    return F.cosine_similarity(mine, theirs).clamp_min(0).square()


def feature_distance(prediction: Sequence[Tensor], truth: Sequence[Tensor], share: Tensor | None = None) -> Tensor:
    """Feature matching (Wang et al. 2018, arXiv 1711.11585): L1 of each layer, averaged over the layers.

    ``share`` weighs the pictures: N numbers.
    """
    pairs = zip(prediction, truth, strict=True)
    distances = [F.l1_loss(mine.float(), theirs.detach().float(), reduction="none") for mine, theirs in pairs]
    return torch.stack([_mean(distance, share) for distance in distances]).mean()


def _taken_for(logits: Tensor, *, real: bool, share: Tensor | None = None) -> Tensor:
    """Cross-entropy of being taken for photographs (``real``) or for results."""
    aim = torch.full_like(logits, float(real), dtype=torch.float32)
    return _mean(F.binary_cross_entropy_with_logits(logits.float(), aim, reduction="none"), share)


def _mean(values: Tensor, share: Tensor | None) -> Tensor:
    """Over everything, pictures weighed by their share if there is one."""
    return values.mean() if share is None else (values.flatten(1).mean(dim=1) * share).mean()


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """What is computed inside sends no gradient to the network's parameters, only through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
