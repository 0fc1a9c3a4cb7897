"""Recipes: what a training run is, as frozen dataclasses. The defaults stand here; a TOML holds only what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfsr_edge.errors import UsageError
from bfsr_edge.settings import from_mapping, overlay, read_toml

CHALLENGE_PARAMETERS = 2_276_356
"""A network of the challenge has fewer."""


@dataclass(frozen=True)
class Network:
    """What is trained."""

    architecture: str = "edge-unet"
    """A name of ``bfsr_edge.models.ARCHITECTURES``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""
    weights: str = ""
    """A checkpoint to begin from, of the same architecture and settings or with fewer residual blocks: the others then
    begin as identities. An EdgeUNet may have another slope: it begins as another function. Empty: random weights."""


@dataclass(frozen=True)
class Data:
    """Where pictures come from and how they are varied."""

    faces: tuple[str, ...] = ()
    """Folders or tars of aligned 512×512 faces."""
    val_lq: str = ""
    """Folder of validation inputs; with ``val_gt`` empty too, pairs are made from faces held out of training."""
    val_gt: str = ""
    """Folder of the true pictures, same file names."""
    holdout: int = 16
    """Faces held out for validation when no pairs are given."""
    size: int = 512
    """Side of a training picture in pixels; the network's input is a quarter of it."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    shifted: float = 0.0
    """Probability of a face moved by up to half a frame and reduced, so that eyes have no fixed place."""
    crop: int = 0
    """Side of a random square cut out of truth and, reduced, input behind the degradation; 0: the whole face."""
    eight_bit_resize: bool = False
    """Resize back on 8-bit integers, as the second reference system does: OpenCV then rounds inside the resize too.
    It concerns the cpu pipeline alone; the device pipeline rounds behind the resize, as both do without it."""
    pipeline: str = "auto"
    """``cpu`` (OpenCV in worker processes), ``device`` (batched torch on the training device) or ``auto``."""
    workers: int = -1
    """Worker processes of the cpu pipeline; -1: one for every two cores."""


@dataclass(frozen=True)
class Augment:
    """Variations of the reference systems' ablations. Each name alone is a probability; all are 0 by default.

    Rotation and colour happen to the truth before it is degraded, so to both pictures alike; Blend and the permutation
    happen to both pictures behind it; CutBlur mixes them. Their order is that of the fields.
    """

    rotation: float = 0.0
    """A turn about the centre; what comes in from outside is the mirrored picture."""
    rotation_degrees: float = 25.0
    """Largest turn either way, in degrees."""
    brightness: float = 0.0
    """All channels times one factor."""
    brightness_range: float = 0.2
    """The factor lies in [1 - range, 1 + range]."""
    hue: float = 0.0
    """A turn of the hue in HSV."""
    hue_range: float = 0.1
    """Largest turn either way, as a part of the full circle."""
    jitter: float = 0.0
    """Photometric distortion; the probability holds for each of its four steps (Liu et al. 2016, arXiv 1512.02325)."""
    jitter_brightness: float = 16.0
    """Largest addition either way, in 1/255."""
    jitter_contrast: tuple[float, float] = (0.75, 1.25)
    """Factor of all channels."""
    jitter_saturation: tuple[float, float] = (0.75, 1.25)
    """Factor of the saturation in HSV."""
    jitter_hue: float = 9.0
    """Largest turn of the hue either way, in OpenCV's unit of 2 degrees."""
    blend: float = 0.0
    """A mix with one random colour (Yoo et al. 2020, arXiv 2004.00448)."""
    blend_alpha: float = 0.6
    """Smallest weight of the picture in the mix; the largest is 1."""
    permutation: float = 0.0
    """The colour channels in another order."""
    cutblur: float = 0.0
    """A rectangle of the truth, reduced, put into the input, or the input kept inside it only (Yoo et al. 2020)."""
    cutblur_alpha: float = 0.7
    """Mean side of the rectangle, as a part of the picture's."""


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    name: str = "adam"
    """``adam``, ``adamw`` or ``muon``: see ``bfsr_edge.train.optimizer``."""
    rate: float = 5e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the two moments of Adam."""
    momentum: float = 0.95
    """muon: of the hidden weights."""
    weight_decay: float = 0.0
    """Weight decay."""
    clip: float = 0.0
    """Largest gradient norm; 0: not clipped."""
    frozen: tuple[str, ...] = ()
    """Parts of the network whose weights stay as they are, such as ``encoder`` or ``decoder.2``."""


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes: see ``bfsr_edge.train.schedule``."""

    kind: str = "flat-cosine"
    """``flat-cosine``, ``cosine-restarts`` or ``multistep``."""
    warmup: int = 200
    """Iterations of linear warm-up."""
    decay: float = 0.4
    """flat-cosine: the last part of the run, over which the rate falls."""
    minimum: float = 0.0
    """Smallest rate, absolute."""
    periods: tuple[int, ...] = ()
    """cosine-restarts: iterations of each cycle."""
    peaks: tuple[float, ...] = ()
    """cosine-restarts: peak of each cycle, as a factor of ``rate``; empty: all 1."""
    minima: tuple[float, ...] = ()
    """cosine-restarts: minimum of each cycle, absolute; empty: all ``minimum``."""
    milestones: tuple[int, ...] = ()
    """multistep: iterations at which the rate is multiplied by ``gamma``."""
    gamma: float = 0.5
    """multistep: the factor."""


@dataclass(frozen=True)
class Loss:
    """What is minimised; the second loss takes over for the last part of the run."""

    first: str = "l1"
    """``l1``, ``mse``, ``charbonnier`` or ``psnr``."""
    then: str = ""
    """A loss for the end of the run; empty: the first one throughout."""
    switch: float = 0.6
    """Part of the run after which ``then`` starts."""
    weight: float = 1.0
    """Factor of the pixel loss."""


@dataclass(frozen=True)
class Adversarial:
    """What a generator is trained with besides the pixel loss; all weights are 0 by default: no discriminator.

    SRGAN (Ledig et al. 2017, arXiv 1609.04802) as mmediting trains it has ``gan`` and ``perceptual``. ``matching`` and
    ``frequency`` or ``lattice`` are our substitute where no pretrained features are at hand.
    """

    gan: float = 0.0
    """Vanilla GAN loss against the discriminator."""
    discriminator: str = "vgg"
    """``vgg``, SRGAN's, or ``patch``, which judges patch by patch: see ``bfsr_edge.train.discriminator``."""
    crop: int = 0
    """Side in pixels of the random window that the discriminator sees of each picture, the same in both; 0: all of it.
    The network sees whole faces then, and the discriminator costs as little as with crops."""
    perceptual: float = 0.0
    """L1 between VGG19 features conv5_4."""
    perceptual_file: str = ""
    """VGG19 weights as torchvision publishes them (``vgg19-dcbb9e9d.pth``); empty: from torchvision, if installed."""
    matching: float = 0.0
    """L1 between the discriminator's features of result and truth (Wang et al. 2018, arXiv 1711.11585)."""
    frequency: float = 0.0
    """Focal frequency loss (Jiang et al. 2021, arXiv 2012.12821)."""
    lattice: float = 0.0
    """Against the grid of a PixelShuffle: see ``bfsr_edge.train.losses.lattice``."""
    explained: bool = False
    """Weigh ``gan`` and ``matching`` of each picture by how much of its detail is right: what is too blurred to show
    any is then not made up. See ``bfsr_edge.train.adversarial.explained``."""
    channels: int = 64
    """Width of the discriminator's first convolution."""
    rate: float = 1e-4
    """Peak learning rate of the discriminator; it follows the generator's schedule."""

    @property
    def used(self) -> bool:
        """Whether there is anything beyond the pixel loss."""
        return max(self.weights) > 0

    @property
    def weights(self) -> tuple[float, ...]:
        """Of all terms."""
        return self.gan, self.perceptual, self.matching, self.frequency, self.lattice


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Raises
    ------
    UsageError
        A value is out of range, named with its key.
    """

    name: str = "edge"
    """Also the folder below ``runs/``."""
    summary: str = ""
    """One line."""
    challenge: bool = False
    """Keep the challenge's rules: fewer than ``CHALLENGE_PARAMETERS``, trained from scratch."""
    network: Network = Network()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    adversarial: Adversarial = Adversarial()
    iterations: int = 20_000
    """Optimizer steps of the whole run."""
    batch: int = 8
    """Faces a step, over all processes together."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is validated and kept; 0: none."""
    precision: str = "auto"
    """``fp32``, ``bf16``, ``fp16`` or ``auto``: bf16 where the device's hardware multiplies it, else fp16 on a GPU and
    fp32 on a CPU. fp32 is exact: no TF32."""
    compile: str = "auto"
    """torch.compile: ``on``, ``off`` or ``auto``, which means on for a GPU with a compiler at hand."""
    seed: int = 0
    """Of the first weights, the order of faces and every draw."""
    validate_every: int = 1000
    """Iterations."""
    checkpoint_every: int = 500
    """Iterations between resume states."""
    log_every: int = 50
    """Iterations between rows of log.csv."""

    @property
    def picture_side(self) -> int:
        """Side in pixels of the truths that a step sees."""
        return self.data.crop or self.data.size

    @property
    def judged_side(self) -> int:
        """Side in pixels of what a discriminator sees of each picture."""
        return self.adversarial.crop or self.picture_side

    def __post_init__(self) -> None:
        plan, augment, side = self.schedule, self.augment, self.picture_side
        cycles = len(plan.periods)
        checks = {
            "iterations": self.iterations >= 1,
            "batch": self.batch >= 1,
            "ema": 0 <= self.ema < 1,
            "seed (0 to 2⁶³ - 1)": 0 <= self.seed < 1 << 63,
            "data.holdout (at least 1 where no pairs are given)": self.data.holdout >= 1
            or bool(self.data.val_lq or self.data.val_gt),
            "data.workers (at least -1)": self.data.workers >= -1,
            "data.size (a multiple of 64)": self.data.size >= 64 and self.data.size % 64 == 0,
            "data.flip": 0 <= self.data.flip <= 1,
            "data.shifted": 0 <= self.data.shifted <= 1,
            "data.crop (a multiple of 4, at most data.size)": 0 <= self.data.crop <= self.data.size
            and self.data.crop % 4 == 0,
            "augment (probabilities in 0 … 1)": all(
                0 <= getattr(augment, name) <= 1
                for name in ("rotation", "brightness", "hue", "jitter", "blend", "permutation", "cutblur")
            ),
            "augment.rotation_degrees (0 … 180)": 0 <= augment.rotation_degrees <= 180,
            "augment.brightness_range (0 … 1)": 0 <= augment.brightness_range <= 1,
            "augment.hue_range (0 … 0.5)": 0 <= augment.hue_range <= 0.5,
            "augment.jitter_contrast (smallest, largest)": _ordered(augment.jitter_contrast),
            "augment.jitter_saturation (smallest, largest)": _ordered(augment.jitter_saturation),
            "augment.blend_alpha (0 … 1)": 0 <= augment.blend_alpha <= 1,
            "augment.cutblur_alpha (0 … 1)": 0 <= augment.cutblur_alpha <= 1,
            "adversarial (weights of at least 0)": min(self.adversarial.weights) >= 0,
            "adversarial.matching (needs adversarial.gan)": not self.adversarial.matching or self.adversarial.gan > 0,
            "adversarial.explained (needs adversarial.gan)": not self.adversarial.explained or self.adversarial.gan > 0,
            "adversarial.discriminator": self.adversarial.discriminator in ("vgg", "patch"),
            "adversarial.crop (0 … data.crop or data.size)": 0 <= self.adversarial.crop <= side,
            "adversarial.crop or data.crop (at least 32 for a discriminator of patches)": not self.adversarial.gan
            or self.adversarial.discriminator != "patch"
            or self.judged_side >= 32,
            "adversarial.lattice (needs a data.crop of 64 or more, a multiple of 8)": not self.adversarial.lattice
            or (side >= 64 and side % 8 == 0),
            "adversarial.channels (at least 1)": self.adversarial.channels >= 1,
            "adversarial.rate": self.adversarial.rate > 0,
            "compile": self.compile in ("auto", "on", "off"),
            "optimizer.rate": self.optimizer.rate > 0,
            "optimizer.name": self.optimizer.name in ("adam", "adamw", "muon"),
            "optimizer.momentum (in 0 … 1, below 1)": 0 <= self.optimizer.momentum < 1,
            "optimizer.betas (in 0 … 1, below 1)": all(0 <= beta < 1 for beta in self.optimizer.betas),
            "optimizer.weight_decay and clip (at least 0)": min(self.optimizer.weight_decay, self.optimizer.clip) >= 0,
            "schedule.kind": plan.kind in ("flat-cosine", "cosine-restarts", "multistep"),
            "schedule.warmup (at least 0)": plan.warmup >= 0,
            "schedule.periods": plan.kind != "cosine-restarts" or (cycles > 0 and min(plan.periods) >= 1),
            "schedule.peaks (one for each period)": len(plan.peaks) in (0, cycles),
            "schedule.minima (one for each period)": len(plan.minima) in (0, cycles),
            "schedule.milestones": plan.kind != "multistep" or len(plan.milestones) > 0,
            "schedule.decay": 0 <= plan.decay <= 1,
            "loss.first": self.loss.first in LOSSES,
            "loss.then": self.loss.then in ("", *LOSSES),
            "loss.switch (0 … 1)": 0 <= self.loss.switch <= 1,
            "loss.weight (at least 0)": self.loss.weight >= 0,
            "loss.weight (above 0 where there is no other term)": self.loss.weight > 0 or self.adversarial.used,
            "precision": self.precision in ("auto", "fp32", "bf16", "fp16"),
            "data.pipeline": self.data.pipeline in ("auto", "cpu", "device"),
            "validate_every, checkpoint_every and log_every": min(
                self.validate_every, self.checkpoint_every, self.log_every
            )
            >= 1,
        }
        bad = [key for key, good in checks.items() if not good]
        if bad:
            raise UsageError(
                f"recipe {self.name!r} has a value out of range: {', '.join(bad)}",
                fix="the docstrings of bfsr_edge/train/recipe.py say what is allowed",
            )


LOSSES = ("l1", "mse", "charbonnier", "psnr")


def _ordered(ends: tuple[float, float]) -> bool:
    return 0 <= ends[0] <= ends[1]


def load_recipe(path: Path | None, *overlays: dict[str, Any]) -> Recipe:
    """The recipe in ``path`` (or the defaults), with further tables laid over it in order.

    Raises
    ------
    UsageError
        A file, key or value is wrong.
    """
    values = {"name": path.stem, **read_toml(path)} if path else {}
    for extra in overlays:
        values = overlay(values, extra)
    return from_mapping(Recipe, values, str(path) if path else "recipe")
