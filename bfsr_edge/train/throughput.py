"""How many faces a second training takes: loader, step, both together, and the convolutions alone as a yardstick.

`benchmarks/throughput.py` is the command. The yardstick is what the network's convolution layers cost by themselves on
this machine, in the step's dtype and memory layout: activations, additions, shuffles, loss, optimizer and averaging are
what a step spends beyond it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bfsr_edge import degrade
from bfsr_edge.errors import ModelError
from bfsr_edge.faceset import Face
from bfsr_edge.models import create, gmacs, parameter_count
from bfsr_edge.train.begin import make_batches, new_training, without_weights
from bfsr_edge.train.compile import choose_compile, compile_in_place, explained
from bfsr_edge.train.devices import DTYPES, choose_precision
from bfsr_edge.train.loop import step
from bfsr_edge.train.pairs import worker_count
from bfsr_edge.train.recipe import Recipe
from bfsr_edge.train.state import Training

WARM_UP = 3
"""Steps before any is timed: they choose algorithms, fill caches and, where it is on, compile."""
ENOUGH_ITERATIONS = 1_000_000
"""A run's end would stop the loader in the middle of a measurement."""


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 3
    """Of every measurement in turn, so that a machine that slows down slows all of them."""
    seconds: float = 2.0
    """At least this long for each measurement of each round."""


@dataclass(frozen=True)
class Layer:
    """One convolution as a training step calls it."""

    inputs: tuple[int, ...]
    """Shape N×C×H×W."""
    outputs: tuple[int, ...]
    """Shape N×K×H'×W'."""
    weight: tuple[int, ...]
    """Shape K×C/groups×h×w."""
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_gradient: bool
    """Whether the backward pass goes on below it: not where its input is the picture."""


@dataclass(frozen=True)
class Throughput:
    """What was measured, in faces a second, one figure a round."""

    recipe: Recipe
    """As it was run, see ``begin``."""
    note: str
    """What the figures do not mean; empty: nothing."""
    device: str
    precision: str
    """Executed, not asked."""
    compiled: bool
    """Whether the network went through torch.compile."""
    pipeline: str
    """``cpu`` or ``device``, see ``bfsr_edge.train.recipe.Data.pipeline``."""
    workers: int
    """Processes of the cpu pipeline, else 0."""
    parameters: int
    gmacs: float
    """10⁹ multiply-accumulates of one face, forward."""
    loader: tuple[float, ...]
    """Pairs made, nothing done with them."""
    step: tuple[float, ...]
    """Training steps on one batch that lies on the device."""
    both: tuple[float, ...]
    """As `bfsr-edge train` runs them."""
    convolutions: tuple[float, ...]
    """The step's convolution layers alone, see ``Convolutions``."""

    def median(self, figure: str) -> float:
        """Over rounds, of ``loader``, ``step``, ``both`` or ``convolutions``."""
        return float(statistics.median(getattr(self, figure)))

    @property
    def of_convolutions(self) -> float:
        """Step beside the convolutions alone, in percent; the median of each round's own ratio."""
        return 100 * statistics.median(a / b for a, b in zip(self.step, self.convolutions, strict=True))

    @property
    def loader_per_step(self) -> float:
        """How many times as fast as the step the loader is; the median of each round's own ratio."""
        return statistics.median(a / b for a, b in zip(self.loader, self.step, strict=True))


def begin(recipe: Recipe, device: torch.device) -> tuple[Training, Recipe, str]:
    """What a recipe trains, the recipe as it is timed, and a remark. Weights are random: speed does not depend on them.

    Raises
    ------
    ModelError, UsageError
        The recipe's network does not do.
    """
    recipe = dataclasses.replace(without_weights(recipe), iterations=max(recipe.iterations, ENOUGH_ITERATIONS))
    note = "the step has adversarial terms, the convolutions are the generator's" if recipe.adversarial.used else ""
    try:
        return new_training(recipe, device), recipe, note
    except ModelError as error:
        if not recipe.adversarial.perceptual:
            raise
        rest = dataclasses.replace(recipe.adversarial, perceptual=0.0)
        recipe = dataclasses.replace(recipe, adversarial=rest)
        return new_training(recipe, device), recipe, f"{note}; without the perceptual loss, as here {error.what}"


def make_faces(folder: Path, count: int, size: int) -> Path:
    """A folder of smooth random squares with fine grain, JPEG and WebP by turns: they decode about as slowly as faces.

    ``size`` is their side in pixels.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        grain = rng.normal(0, 3, (size, size, 3))
        face = np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) + grain, 0, 255)
        kind, quality = (("jpg", cv2.IMWRITE_JPEG_QUALITY), ("webp", cv2.IMWRITE_WEBP_QUALITY))[index % 2]
        cv2.imwrite(str(folder / f"{index:04}.{kind}"), face.astype(np.uint8), [quality, 95])
    return folder


def layers_of(recipe: Recipe) -> list[Layer]:
    """The convolutions of one step, in the order of the forward pass. No arithmetic is done: tensors are meta."""
    layers: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        assert not isinstance(module.padding, str)
        layers.append(
            Layer(
                tuple(inputs[0].shape),
                tuple(output.shape),
                tuple(module.weight.shape),
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                inputs[0].requires_grad,
            )
        )

    with torch.device("meta"):
        network = create(recipe.network.architecture, **recipe.network.settings)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        side = recipe.picture_side // degrade.SCALE
        network(torch.empty(recipe.batch, 3, side, side))
    return layers


class Convolutions:
    """The forward pass and both backward passes of convolution layers, and nothing else.

    Biases are left out, as adding them is no convolution. Layers of the same shape share their input and gradient, so
    a large cache helps more here than in a network: the yardstick errs on the fast side.

    Parameters
    ----------
    layers
        From ``layers_of``.
    device, dtype
        Where, and in which precision; everything is channels_last, as in training.
    """

    def __init__(self, layers: Sequence[Layer], device: torch.device, dtype: torch.dtype) -> None:
        self.layers = layers
        self._tensors: dict[tuple[int, ...], Tensor] = {}

        def tensor(shape: tuple[int, ...]) -> Tensor:
            made = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            return made

        for shape in {shape for layer in layers for shape in (layer.inputs, layer.outputs)}:
            self._tensors[shape] = tensor(shape)
        self._weights = [tensor(layer.weight) for layer in layers]

    @torch.no_grad()
    def __call__(self) -> None:
        """One step's worth."""
        aten: Any = torch.ops.aten
        for layer, weight in zip(self.layers, self._weights, strict=True):
            aten.convolution(self._tensors[layer.inputs], weight, None, *_shape(layer))
        for layer, weight in zip(reversed(self.layers), reversed(self._weights), strict=True):
            gradient, inputs = self._tensors[layer.outputs], self._tensors[layer.inputs]
            wanted = [layer.input_gradient, True, False]
            aten.convolution_backward(gradient, inputs, weight, None, *_shape(layer), wanted)


def _shape(layer: Layer) -> tuple[Any, ...]:
    """Stride, padding, dilation, not transposed, no output padding, groups: as ATen's convolutions take them."""
    return [*layer.stride], [*layer.padding], [*layer.dilation], False, [0, 0], layer.groups


def measure(recipe: Recipe, faces: list[Face], device: torch.device, plan: Plan = Plan()) -> Throughput:
    """Time a recipe on ``device``.

    Parameters
    ----------
    recipe
        Batch, precision, pipeline and workers are as it says.
    faces
        What the loader reads; at least as large as the recipe's pictures.
    device
        Where it trains.
    plan
        How long.

    Raises
    ------
    TrainingError, UsageError
        The recipe's network, a face or the device does not do.
    """
    training, recipe, note = begin(recipe, device)
    compiled, _ = choose_compile(recipe, device)
    if compiled:
        compile_in_place(training.network)
    on_device = recipe.data.pipeline == "device" or (recipe.data.pipeline == "auto" and device.type == "cuda")
    workers = 0 if on_device else worker_count(recipe)
    precision = choose_precision(recipe, device)
    train_step = _Step(training, recipe, precision)
    side = recipe.picture_side
    truth = torch.rand(recipe.batch, 3, side, side, device=device)
    low = nn.functional.avg_pool2d(truth, degrade.SCALE)
    convolve = Convolutions(layers_of(recipe), device, DTYPES[precision])
    with explained(recipe.batch):
        for _ in range(WARM_UP):
            train_step(low, truth)
            convolve()
    figures: dict[str, list[float]] = {name: [] for name in ("loader", "step", "both", "convolutions")}
    for _ in range(plan.rounds):
        taken = {
            "loader": _loading(recipe, faces, device, workers, plan, lambda _low, _truth: None),
            "step": _repeated(lambda: train_step(low, truth), device, plan),
            "both": _loading(recipe, faces, device, workers, plan, train_step),
            "convolutions": _repeated(convolve, device, plan),
        }
        for name, seconds in taken.items():
            figures[name].append(recipe.batch / seconds)
    return Throughput(
        recipe=recipe,
        note=note,
        device=str(device),
        precision=precision,
        compiled=compiled,
        pipeline="device" if on_device else "cpu",
        workers=workers,
        parameters=parameter_count(training.network),
        gmacs=gmacs(training.network, side // degrade.SCALE, side // degrade.SCALE),
        **{name: tuple(rates) for name, rates in figures.items()},
    )


class _Step:
    """One step of `loop.train`."""

    def __init__(self, training: Training, recipe: Recipe, precision: str) -> None:
        self._arguments = training, recipe, precision

    def __call__(self, low: Tensor, truth: Tensor) -> None:
        training, recipe, precision = self._arguments
        step(training, recipe, low, truth, precision)
        training.iteration += 1


def _wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _repeated(run: Callable[[], None], device: torch.device, plan: Plan) -> float:
    """Seconds of one call, over as many as last long enough."""
    _wait(device)
    begin = time.perf_counter()
    run()
    _wait(device)
    count = max(1, round(plan.seconds / (time.perf_counter() - begin)))
    begin = time.perf_counter()
    for _ in range(count):
        run()
    _wait(device)
    return (time.perf_counter() - begin) / count


def _loading(
    recipe: Recipe,
    faces: list[Face],
    device: torch.device,
    workers: int,
    plan: Plan,
    use: Callable[[Tensor, Tensor], None],
) -> float:
    """Seconds of one batch with ``use`` of it, by a loader of its own, which ends with the call.

    What lies ready when the clock starts would count as made in no time, so there is no pause before: the batches up to
    then are taken as they come. Workers deliver in turns, so whole turns are timed.
    """
    batches = make_batches(recipe, faces, 0, device)
    turn = max(1, workers)
    for _ in range(max(2, turn)):
        use(*next(batches))
    _wait(device)
    count, begin, passed = 0, time.perf_counter(), 0.0
    # a step that outlasts the plan is not waited for until the turn is over: the loader is not what it waits for
    while passed < plan.seconds or (count % turn and passed < 3 * plan.seconds):
        use(*next(batches))
        count += 1
        passed = time.perf_counter() - begin
    _wait(device)
    return (time.perf_counter() - begin) / count
