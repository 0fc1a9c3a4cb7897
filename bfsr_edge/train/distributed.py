"""Several processes that train one network: where torchrun puts each of them, and what they tell each other.

torchrun starts N copies of the same command and numbers them by environment variables. Each makes its share of every
batch; gradients are averaged by DistributedDataParallel; the first process alone writes, validates and speaks. What
one of them decides (to stop, to give up) they agree on here, so that none waits for one that has left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bfsr_edge.errors import BfsrError, TrainingError, UsageError
from bfsr_edge.train.devices import checked_device
from bfsr_edge.train.pairs import Share
from bfsr_edge.train.recipe import Recipe

# the others wait this long while the first process validates; one that dies is noticed at once all the same
PATIENCE = timedelta(hours=2)
LAST_PIXEL = 32
"""Side of pictures of which one pixel is left behind the halvings of SRGAN's discriminator."""


class PeerFailed(TrainingError):
    """Another process of the run has an error, and says so itself."""


@dataclass(frozen=True)
class Place:
    """Where torchrun puts this process."""

    rank: int = 0
    """Its number."""
    world: int = 1
    """All processes, on all machines."""
    local: int = 0
    """Its number on this machine."""
    local_world: int = 1
    """All processes on this machine."""


def launched() -> Place:
    """This process's place, from torchrun's environment; alone without one."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return Place(*(int(os.environ.get(name, default)) for name, default in names.items()))


class Processes:
    """The processes of a run, as one of them sees them. Alone, every method answers at once.

    Parameters
    ----------
    place
        Which one this is.
    device
        Where it trains.
    control
        The group for short messages between CPUs; None when alone.
    """

    def __init__(self, place: Place, device: torch.device, control: dist.ProcessGroup | None = None) -> None:
        self.place = place
        self.device = device
        self._control = control

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, validates and speaks."""
        return self.place.rank == 0

    @property
    def share(self) -> Share:
        """Its part of every batch."""
        return Share(self.place.rank, self.place.world)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes; alone, the module itself."""
        if self._control is None:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes of a tensor on the device. Collective: every process calls it."""
        if self._control is None:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.place.world

    def any(self, flag: bool) -> bool:
        """Whether any process says yes. Collective."""
        return self._lowest(self.place.rank if flag else self.place.world) < self.place.world

    def agree(self, number: int) -> bool:
        """Whether all processes have the same number. Collective."""
        return not self.any(self._lowest(number) != number)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every process's tensor of the same shape, on the CPU, in their order. Collective."""
        if self._control is None:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.place.world)]
        dist.all_gather(found, values, group=self._control)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """An error of ours inside, in any process, ends the block for all. Collective.

        Raises
        ------
        BfsrError
            The error, in the first of the processes that have one.
        PeerFailed
            In all others.
        """
        error: BfsrError | None = None
        try:
            yield
        except BfsrError as caught:
            error = caught
        first = self._lowest(self.place.world if error is None else self.place.rank)
        if error is not None and first == self.place.rank:
            raise error
        if first < self.place.world:
            failed = PeerFailed(f"process {first} of {self.place.world} has an error and says which")
            failed.exit_code = error.exit_code if error else failed.exit_code
            raise failed

    def _lowest(self, number: int) -> int:
        if self._control is None:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MIN, group=self._control)
        return int(value)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo on CPUs, NCCL on GPUs) and leave them at the end.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto``; with several processes each takes the GPU of its local number.

    Raises
    ------
    UsageError
        The device is not there, or cannot be shared.
    TrainingError
        The processes do not find each other, or one of them ended.
    """
    place = launched()
    if place.world == 1:
        yield Processes(place, checked_device(device))
        return
    mine = _own_device(device, place)
    ours = not dist.is_initialized()  # a caller that has joined already also leaves
    try:
        if ours:
            dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=PATIENCE)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Processes(place, mine, control)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            f"process {place.rank} of {place.world} lost the others",
            why=("one of them was killed or ran out of memory",),
            fix="look for that one's message above; the same command goes on from the last state",
        ) from error
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def _own_device(device: str, place: Place) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda:"):
        raise UsageError(
            f"{place.world} processes cannot share {device}",
            why=("each process takes a GPU of its own, by its number",),
            fix="--device cuda, with CUDA_VISIBLE_DEVICES=… in front of torchrun to choose GPUs",
        )
    if device != "cuda":
        return checked_device(device)
    mine = checked_device(f"cuda:{place.local}")
    torch.cuda.set_device(mine)
    return mine


def check_batch(recipe: Recipe, place: Place) -> None:
    """UsageError unless the recipe's batch can be shared out; PeerFailed behind the first process, which says so."""
    normalised = recipe.adversarial.gan > 0 and recipe.adversarial.discriminator == "vgg"
    too_few = normalised and recipe.judged_side == LAST_PIXEL and recipe.batch // place.world == 1
    if place.rank and (recipe.batch % place.world or too_few):
        raise PeerFailed("the first process says what is wrong with the batch")
    if too_few:
        raise UsageError(
            "a batch of 1 face in a process is too small for a discriminator on crops of 32 pixels",
            why=("its last layers see one pixel of each face, and their normalisation needs more than one number",),
            fix=f"--batch {2 * place.world}",
        )
    if recipe.batch % place.world:
        below = recipe.batch // place.world * place.world
        fits = [number for number in (below, below + place.world) if number]
        raise UsageError(
            f"a batch of {recipe.batch} faces cannot be shared by {place.world} processes",
            why=("batch counts the faces of all processes together, so it must be a multiple of their number",),
            fix=f"--batch {' or --batch '.join(map(str, fits))}, or another --nproc-per-node",
        )
