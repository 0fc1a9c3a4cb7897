"""The discriminator, the losses on both sides, and where VGG19 comes from."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bfsr_edge.errors import ModelError, TrainingError, UsageError
from bfsr_edge.models import create, parameter_count
from bfsr_edge.resources import find_toml
from bfsr_edge.train import schedule
from bfsr_edge.train.adversarial import Adversary, _corner, explained, feature_distance
from bfsr_edge.train.discriminator import DETAIL_GAIN, Discriminator, PatchDiscriminator, detail
from bfsr_edge.train.features import CONVOLUTIONS, DEVIATION, MEAN, load_vgg
from bfsr_edge.train.losses import focal_frequency, lattice
from bfsr_edge.train.recipe import Adversarial, Data, Optimizer, Recipe, load_recipe
from tests.train.vgg import make_vgg, named_by_hash, vgg_tensors

CPU = torch.device("cpu")
SIDE = 32


def adversary(**weights: Any) -> Adversary:
    """Against crops of 32 pixels, or what a lattice needs."""
    recipe = Recipe(
        data=Data(size=64, crop=64 if "lattice" in weights else SIDE),
        optimizer=Optimizer(betas=(0.8, 0.95)),
        adversarial=Adversarial(**{"channels": 4, "rate": 1e-3, **weights}),
    )
    return Adversary(recipe, CPU)


def pictures(seed: int, count: int = 2, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def backward(loss: Tensor) -> None:
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]  # torch's own


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


# the discriminator


def test_the_discriminator_is_the_published_one() -> None:
    network = Discriminator()
    with torch.no_grad():
        (judged,) = network(torch.rand(2, 3, 128, 128), features=True)
    assert judged.logits.shape == (2, 1)
    assert [tuple(feature.shape[1:]) for feature in judged.features] == [
        *((64, 128, 128), (64, 64, 64), (128, 64, 64), (128, 32, 32), (256, 32, 32)),
        *((256, 16, 16), (512, 16, 16), (512, 8, 8), (512, 8, 8), (512, 4, 4)),
    ]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(module.kernel_size[0], module.stride[0]) for module in convolutions] == [(3, 1), (4, 2)] * 5
    assert [module.bias is not None for module in convolutions] == [True] + [False] * 9
    kernels = 3 * 64 * 9 + 64 * 64 * 16 + 64 * 128 * 9 + 128 * 128 * 16 + 128 * 256 * 9 + 256 * 256 * 16
    kernels += 256 * 512 * 9 + 512 * 512 * 16 + 512 * 512 * 9 + 512 * 512 * 16
    normalisation = 2 * (64 + 2 * 128 + 2 * 256 + 4 * 512)
    linear = 512 * 4 * 4 * 100 + 100 + 100 + 1
    assert sum(parameter.numel() for parameter in network.parameters()) == kernels + 64 + normalisation + linear
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_499_401


def test_features_are_empty_unless_asked_for_and_batches_do_not_mix() -> None:
    torch.manual_seed(0)
    network = Discriminator(4, SIDE)
    one, other = pictures(1), pictures(2)
    alone = network(one)[0]
    together = network(one, other)
    assert alone.features == []
    assert torch.equal(together[0].logits, alone.logits)  # normalised by its own statistics, not by both batches'
    assert not torch.equal(network(torch.cat([one, other]))[0].logits[:2], alone.logits)


@pytest.mark.parametrize("side", [96, 192])
def test_any_multiple_of_32_will_do(side: int) -> None:
    assert Discriminator(2, side)(pictures(0, side=side))[0].logits.shape == (2, 1)


def test_other_sides_are_refused() -> None:
    recipe = Recipe(data=Data(crop=100), adversarial=Adversarial(gan=1.0))
    with pytest.raises(UsageError) as caught:
        Adversary(recipe, CPU)
    assert str(caught.value) == (
        "the discriminator cannot take pictures of 100 pixels\n"
        "  likely because it halves them five times, so their side must be a multiple of 32\n"
        "  next: set data.crop to 128, as SRGAN was published, or take the one of patches: "
        "adversarial.discriminator = 'patch'"
    )
    with pytest.raises(TrainingError, match=r"32×32 pixels in 3 channels, not \(3, 64, 64\)"):
        Discriminator(2, SIDE)(pictures(0, side=64))


def test_the_discriminator_of_patches_judges_each_by_its_62_pixels() -> None:
    network = PatchDiscriminator(4).eval()  # so that batch normalisation does not spread what it sees
    seen = pictures(0, 1, side=136).requires_grad_()
    (judged,) = network(seen, features=True)
    assert [tuple(feature.shape[1:]) for feature in judged.features] == [
        *((4, 64, 64), (8, 32, 32), (16, 16, 16), (16, 16, 16)),
    ]
    assert judged.logits.shape == (1, 1, 16, 16)
    backward(judged.logits[0, 0, 8, 8])
    assert seen.grad is not None
    rows, columns = (seen.grad[0].abs().sum(dim=(0, axis)).nonzero().flatten() for axis in (2, 1))
    assert int(rows[-1] - rows[0]) + 1 == int(columns[-1] - columns[0]) + 1 == 62
    assert network(pictures(0, side=80))[0].logits.shape == (2, 1, 9, 9), "any size"


def test_patches_are_judged_by_their_detail() -> None:
    """A mean of 9 × 9 pixels takes away what is even or slopes, and leaves what is fine, in single precision."""
    even = torch.full((1, 3, 32, 32), 0.7)
    slope = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    for smooth in (even, slope, slope.mT):
        assert detail(smooth).shape == (1, 3, 24, 24)
        assert float(detail(smooth).abs().max()) < 1e-4
    dot = torch.zeros(1, 3, 32, 32)
    dot[:, 1, 16, 16] = 1 / DETAIL_GAIN
    found = detail(dot)
    assert float(found[0, 1, 12, 12]) == pytest.approx(1 - 1 / 81)
    assert float(found[0, 1, 12, 16]) == pytest.approx(-1 / 81)
    assert float(found[0, [0, 2]].abs().max()) == 0
    noise = pictures(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(detail(noise), detail(noise.double().float()))
        assert detail(noise.bfloat16()).dtype == torch.float32


def test_the_discriminator_of_patches_soon_tells_blurred_pictures() -> None:
    """Faint detail on strong low frequencies, as in faces; without `detail` a hundred steps teach it nothing."""
    enemy = adversary(gan=1.0, rate=2e-3, discriminator="patch", channels=8)
    assert enemy.optimizer is not None
    losses = []
    for number in range(60):
        blurred = F.interpolate(pictures(number, 8, 4), scale_factor=16, mode="bicubic")
        fine = 0.05 * (pictures(500 + number, 8, 64) - 0.5)
        loss = enemy.discriminator_loss(blurred, blurred + fine)
        enemy.optimizer.zero_grad()
        backward(loss)
        enemy.optimizer.step()
        losses.append(float(loss.detach()))
    assert max(losses[-10:]) < 0.7, "two coins are 1.386"


# the adversary


def test_all_pictures_are_seen_through_the_same_random_window() -> None:
    side = 2 * SIDE
    terms = Adversarial(gan=0.5, matching=3.0, discriminator="patch", crop=SIDE, channels=2)
    enemy = Adversary(Recipe(data=Data(size=side), adversarial=terms), CPU)
    enemy.discriminator = seen = Fixed()
    whole = torch.arange(side * side).float().view(1, 1, side, side).expand(2, 3, -1, -1) / side**2
    places = set()
    torch.manual_seed(0)
    for _ in range(20):
        found = enemy.generator_loss(whole, whole)
        assert float(found["matching"]) == 0, "the same window of both"
        enemy.discriminator_loss(whole, whole)
        places |= {float(batch[0, 0, 0, 0]) for batch in seen.seen}
        assert {batch.shape[-2:] for batch in seen.seen} == {(SIDE, SIDE)}
    corners = {divmod(round(place * side**2), side) for place in places}
    assert len(corners) > 20  # of 40 draws
    assert max(max(corner) for corner in corners) <= side - SIDE
    torch.manual_seed(0)
    enemy.generator_loss(whole, whole)
    first = float(seen.seen[-1][0, 0, 0, 0])
    torch.manual_seed(0)
    enemy.generator_loss(whole, whole)
    assert float(seen.seen[-1][0, 0, 0, 0]) == first, "drawn from the state that a resumed run takes up"


@pytest.mark.parametrize(("length", "side"), [(512, 256), (512, 128), (512, 200), (512, 512), (64, 48)])
def test_windows_see_all_of_a_picture_alike(length: int, side: int) -> None:
    torch.manual_seed(0)
    seen = torch.zeros(length)
    for _ in range(4000):
        corner = _corner(length, side)
        assert 0 <= corner <= length - side
        seen[corner : corner + side] += 1 / 4000
    fewest = -(-length // side)
    assert float(seen.min()) > 0.4 / fewest, "the outermost pixels too"
    assert float(seen.max()) < 2.2 / fewest, "twice where windows overlap"


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_windows_may_be_of_pictures_that_are_larger(kind: str) -> None:
    recipe = Recipe(data=Data(size=64), adversarial=Adversarial(gan=1.0, discriminator=kind, crop=32, channels=2))
    enemy = Adversary(recipe, CPU)
    assert math.isfinite(float(enemy.discriminator_loss(pictures(0, side=64), pictures(1, side=64)).detach()))


def test_without_gan_there_is_no_discriminator() -> None:
    enemy = adversary(frequency=1.0)
    assert enemy.discriminator is None
    assert enemy.optimizer is None
    assert list(enemy.generator_loss(pictures(1), pictures(2))) == ["frequency"]
    with pytest.raises(TrainingError, match="no discriminator"):
        enemy.discriminator_loss(pictures(1), pictures(2))


def test_the_discriminator_comes_from_the_recipe_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = adversary(gan=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = adversary(gan=1.0)
    assert first.discriminator is not None
    assert second.discriminator is not None
    for mine, theirs in zip(first.discriminator.parameters(), second.discriminator.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert isinstance(first.optimizer, torch.optim.Adam)
    group = first.optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-3, (0.8, 0.95))
    assert first.discriminator.training


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_the_generators_loss_reaches_the_generator_and_not_the_discriminator(kind: str) -> None:
    enemy = adversary(gan=0.5, matching=2.0, frequency=1.0, lattice=1.0, discriminator=kind)
    assert enemy.discriminator is not None
    generator = nn.Conv2d(3, 3, 3, padding=1)
    truth = pictures(2, side=64).requires_grad_()
    terms = enemy.generator_loss(generator(pictures(1, side=64)), truth)
    assert list(terms) == ["gan", "matching", "frequency", "lattice"]
    for term in terms.values():
        assert term.shape == ()
        generator.zero_grad()
        backward(term)
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients(generator))
    assert len(gradients(generator)) == 2
    assert gradients(enemy.discriminator) == []
    assert truth.grad is None
    assert all(parameter.requires_grad for parameter in enemy.discriminator.parameters())


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_the_discriminators_loss_reaches_the_discriminator_and_not_the_generator(kind: str) -> None:
    enemy = adversary(gan=1.0, discriminator=kind)
    assert enemy.discriminator is not None
    prediction = pictures(1).requires_grad_()
    backward(enemy.discriminator_loss(prediction, pictures(2)))
    assert prediction.grad is None
    assert len(gradients(enemy.discriminator)) == len(list(enemy.discriminator.parameters()))


class Fixed(nn.Module):
    """A discriminator whose logit is the mean of the picture, and whose features are the picture and its half."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, *batches: Tensor, features: bool = False) -> list[types.SimpleNamespace]:
        self.seen += batches
        return [
            types.SimpleNamespace(logits=batch.mean(dim=(1, 2, 3)).view(-1, 1), features=[batch, batch[..., :1] / 2])
            for batch in batches
        ]


def test_the_values_are_those_computed_by_hand() -> None:
    enemy = adversary(gan=0.5, matching=3.0)
    enemy.discriminator = Fixed()
    prediction, truth = torch.full((1, 3, 2, 2), 0.25), torch.full((1, 3, 2, 2), 0.75)
    terms = enemy.generator_loss(prediction, truth)
    assert float(terms["gan"]) == pytest.approx(0.5 * math.log(1 + math.exp(-0.25)))
    assert float(terms["matching"]) == pytest.approx(3.0 * (0.5 + 0.25) / 2)
    real, false = math.log(1 + math.exp(-0.75)), math.log(1 + math.exp(0.25))
    assert float(enemy.discriminator_loss(prediction, truth)) == pytest.approx(real + false)


def test_the_share_of_detail_that_is_right() -> None:
    truth = pictures(0, 1, 64)
    even = truth - detail_of(truth)
    other = even + detail_of(pictures(1, 1, 64))
    seen = torch.cat([truth, 0.5 * truth + 0.2, even + detail_of(truth) / 2, other, 1 - truth])
    share = explained(seen.requires_grad_(), truth.expand(5, -1, -1, -1))
    assert share.shape == (5,)
    assert not share.requires_grad
    assert share[:3].tolist() == pytest.approx([1, 1, 1], abs=0.05), "softer is right as far as it goes"
    assert float(share[3]) < 0.05
    assert float(share[4]) == 0, "the wrong way round"
    half = truth + detail_of(truth).std() * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    assert float(explained(half, truth)[0]) == pytest.approx(0.5, abs=0.1), "as much noise as detail"


def detail_of(seen: Tensor) -> Tensor:
    """`detail` at the pictures' own size, about."""
    return seen - F.avg_pool2d(seen, 9, 1, 4, count_include_pad=False)


def test_terms_are_weighed_by_that_share() -> None:
    truth = pictures(0, 4, 64)
    blurred = F.avg_pool2d(truth, 9, 1, 4)
    mixed = torch.cat([truth[:2], blurred[2:]])
    terms = Adversarial(gan=0.5, matching=3.0, discriminator="patch", channels=2, explained=True)
    weighed = Adversary(Recipe(data=Data(size=64), adversarial=terms), CPU)
    plain = Adversary(Recipe(data=Data(size=64), adversarial=dataclasses.replace(terms, explained=False)), CPU)
    assert weighed.discriminator is not None
    share = explained(mixed, truth)
    real, made = weighed.discriminator(truth, mixed, features=True)
    expected = (F.softplus(-made.logits).mean(dim=(1, 2, 3)) * share).mean()
    found = weighed.generator_loss(mixed, truth)
    torch.testing.assert_close(found["gan"], 0.5 * expected)
    layers = [
        ((a - b).abs().mean(dim=(1, 2, 3)) * share).mean() for a, b in zip(made.features, real.features, strict=True)
    ]
    torch.testing.assert_close(found["matching"], 3.0 * torch.stack(layers).mean())
    assert float(found["gan"].detach()) < float(plain.generator_loss(mixed, truth)["gan"].detach())


def test_layers_count_alike_whatever_their_size() -> None:
    mine = [torch.ones(1, 2, 8, 8), torch.ones(1, 4, 2, 2)]
    theirs = [torch.zeros(1, 2, 8, 8), torch.full((1, 4, 2, 2), 4.0)]
    assert float(feature_distance(mine, theirs)) == pytest.approx((1 + 3) / 2)


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_a_discriminator_learns_to_separate_two_sets(kind: str) -> None:
    enemy = adversary(gan=1.0, rate=5e-3, discriminator=kind)
    assert enemy.discriminator is not None
    assert enemy.optimizer is not None

    def lit(seed: int, above: bool) -> Tensor:
        noise = pictures(seed, 8) / 2
        noise[:, :, : SIDE // 2] += 0.5 * above
        noise[:, :, SIDE // 2 :] += 0.5 * (not above)
        return noise

    losses = []
    for number in range(40):
        loss = enemy.discriminator_loss(lit(number, above=False), lit(1000 + number, above=True))
        enemy.optimizer.zero_grad()
        backward(loss)
        enemy.optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.2  # two coins are 1.386
    assert losses[-1] < 0.3
    with torch.no_grad():
        real, false = enemy.discriminator(lit(5000, above=True), lit(5001, above=False))
    # where zero lies between them after 40 steps differs from CPU to CPU
    assert float(real.logits.min()) > float(false.logits.max())
    assert float(real.logits.mean()) > 0 > float(false.logits.mean())


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_the_losses_are_float32_under_autocast(kind: str) -> None:
    enemy = adversary(gan=1.0, matching=1.0, frequency=1.0, lattice=1.0, discriminator=kind)
    with torch.autocast("cpu", torch.bfloat16):
        terms = enemy.generator_loss(pictures(1, side=64), pictures(2, side=64))
        loss = enemy.discriminator_loss(pictures(1, side=64), pictures(2, side=64))
    assert {term.dtype for term in (*terms.values(), loss)} == {torch.float32}


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.train.test_adversarial import adversary, pictures
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
plain, wrapped = (adversary(gan=1.0, matching=1.0, discriminator=sys.argv[2]) for _ in range(2))
wrapped.discriminator = DistributedDataParallel(wrapped.discriminator)
for number in range(3):
    losses = []
    for enemy in (plain, wrapped):
        made = pictures(number).requires_grad_()
        sum(enemy.generator_loss(made, pictures(100 + number)).values()).backward()
        loss = enemy.discriminator_loss(made, pictures(100 + number))
        enemy.optimizer.zero_grad()
        loss.backward()
        enemy.optimizer.step()
        losses.append((float(loss.detach()), made.grad.sum().item()))
    assert losses[0] == losses[1], losses
dist.destroy_process_group()
print("the same")
"""


@pytest.mark.parametrize("kind", ["vgg", "patch"])
def test_it_works_inside_distributed_data_parallel(kind: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", DISTRIBUTED, str(tmp_path / "meeting"), kind]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "the same", ran.stderr


# focal frequency


def test_focal_frequency_is_zero_for_equal_pictures_and_so_is_its_gradient() -> None:
    prediction = pictures(1).requires_grad_()
    loss = focal_frequency(prediction, prediction.detach().clone())
    backward(loss)
    assert float(loss.detach()) == 0
    assert prediction.grad is not None
    assert float(prediction.grad.abs().max()) == 0


def test_focal_frequency_of_two_by_two_by_hand() -> None:
    # differences [[1, 0], [0, 0]] and [[1, 1], [0, 0]]; orthonormal spectra [[½, ½], [½, ½]] and [[1, 0], [1, 0]]
    truth = torch.zeros(1, 2, 2, 2)
    prediction = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]])
    assert float(focal_frequency(prediction[:, :1], truth[:, :1])) == pytest.approx(1 / 4)
    assert float(focal_frequency(prediction[:, 1:], truth[:, 1:])) == pytest.approx(1 / 2)
    # every channel has its own weights, so the mean over both
    assert float(focal_frequency(prediction, truth)) == pytest.approx(3 / 8)
    # difference [[3, 1], [0, 0]]: spectrum [[2, 1], [2, 1]], weights [[1, ½], [1, ½]]
    uneven = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]]]])
    assert float(focal_frequency(uneven, truth[:, :1])) == pytest.approx((4 + 0.5 + 4 + 0.5) / 4)


# lattice


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_pattern_that_repeats_in_every_cell_counts_by_its_variance(period: int) -> None:
    cell = torch.zeros(period, period)
    cell[0, 0] = 1.0
    grid = cell.repeat(64 // period, 64 // period).expand(1, 3, -1, -1)
    assert float(lattice(grid, torch.zeros_like(grid))) == pytest.approx(float(cell.var(correction=0)))
    assert float(lattice(grid, grid)) == 0
    assert float(lattice(grid, torch.zeros_like(grid), cells=7)) == pytest.approx(float(cell.var(correction=0)))


def test_what_differs_from_cell_to_cell_does_not_count() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert float(lattice(flat, torch.zeros_like(flat))) == pytest.approx(0, abs=1e-12)
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::16] = 1.0  # every other cell has it
    stripes[..., 8::16] = -1.0
    assert float(lattice(stripes, torch.zeros_like(stripes))) == 0
    noise = pictures(0, 1, 256) - 0.5
    assert float(lattice(noise, torch.zeros_like(noise))) < float(noise.var()) / 50, "64 cells are averaged"


# VGG19


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vgg(tmp_path_factory.mktemp("vgg"))


def test_vgg_is_conv5_4_before_its_activation(vgg: Path) -> None:
    network = load_vgg(str(vgg))
    seen = pictures(1, side=48)
    features = network(seen)
    assert features.shape == (2, 4, 3, 3)
    assert float(features.min()) < 0 < float(features.max())  # not behind the ReLU
    tensors = vgg_tensors()
    expected = (seen - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(DEVIATION).view(1, 3, 1, 1)
    for number, place in enumerate(CONVOLUTIONS):
        if number:
            expected = F.relu(expected)
        if number in (2, 4, 8, 12):
            expected = F.max_pool2d(expected, 2)
        expected = F.conv2d(expected, tensors[f"features.{place}.weight"], tensors[f"features.{place}.bias"], padding=1)
    torch.testing.assert_close(features, expected)


def test_the_perceptual_term_is_l1_of_features_and_trains_the_generator_only(vgg: Path) -> None:
    enemy = adversary(perceptual=2.0, perceptual_file=str(vgg))
    prediction, truth = pictures(1).requires_grad_(), pictures(2)
    terms = enemy.generator_loss(prediction, truth)
    assert list(terms) == ["perceptual"]
    network = load_vgg(str(vgg))
    expected = 2.0 * (network(prediction.detach()) - network(truth)).abs().mean()
    torch.testing.assert_close(terms["perceptual"].detach(), expected)
    backward(terms["perceptual"])
    assert prediction.grad is not None
    assert float(prediction.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_safetensors_and_a_given_sum_will_do(tmp_path: Path, vgg: Path) -> None:
    plain = tmp_path / "mine.safetensors"
    save_file(vgg_tensors(), plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    seen = pictures(1)
    expected = load_vgg(str(vgg))(seen)
    assert torch.equal(load_vgg(f"{plain}@{digest}")(seen), expected)
    assert torch.equal(load_vgg(str(named_by_hash(plain)))(seen), expected)


FIX = (
    "download https://download.pytorch.org/models/vgg19-dcbb9e9d.pth and set adversarial.perceptual_file to it"  # as is
)


def refusal(file: object) -> str:
    with pytest.raises(ModelError) as caught:
        adversary(perceptual=1.0, perceptual_file=str(file))
    return str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path, vgg: Path) -> None:
    cut = tmp_path / vgg.name
    cut.write_bytes(vgg.read_bytes()[:-100])
    found = hashlib.sha256(cut.read_bytes()).hexdigest()[:8]
    assert refusal(cut) == (
        f"{cut} is not the file it should be: its sha256 begins with {found}, not {vgg.stem[-8:]}\n"
        "  likely because its download was cut short\n"
        "  likely because it is another file that was given this name\n"
        f"  next: {FIX}"
    )


def test_a_wrong_sum_is_refused(vgg: Path) -> None:
    assert f"is not the file it should be: its sha256 begins with {vgg.stem[-8:]}, not 00000000" in refusal(
        f"{vgg}@00000000"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    assert refusal(path) == f"{path} cannot be read\n  likely because No such file or directory\n  next: {FIX}"


def test_a_file_without_a_sum_is_refused(tmp_path: Path, vgg: Path) -> None:
    path = tmp_path / "vgg19.pth"
    path.write_bytes(vgg.read_bytes())
    assert refusal(path) == (
        f"nothing says what {path} should hold\n"
        "  likely because the name of torchvision's file ends in the first 8 digits of its sha256, vgg19-dcbb9e9d.pth\n"
        f"  next: keep that name, or give {path}@SHA256 with what sha256sum prints for a file you trust"
    )


def test_a_file_that_torch_refuses_without_a_word(vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EOFError

    monkeypatch.setattr(torch, "load", fail)
    assert refusal(vgg) == f"{vgg} cannot be opened as weights only\n  likely because EOFError\n  next: {FIX}"


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in vgg_tensors().items() if key != name}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (without("features.34.weight"), "features.34.weight is missing"),
        (without("features.2.bias"), "features.2.weight has the shape (2, 2, 3, 3)"),
        (
            {**vgg_tensors(), "features.5.weight": torch.zeros(3, 7, 3, 3)},
            "features.5.weight has the shape (3, 7, 3, 3)",
        ),
        (
            {**vgg_tensors(), "features.5.weight": torch.zeros(3, 2, 5, 5)},
            "features.5.weight has the shape (3, 2, 5, 5)",
        ),
        ([1, 2], "features.0.weight is missing"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    text = refusal(make_vgg(tmp_path, content))
    assert "holds no VGG19" in text
    assert why in text


def test_what_is_no_weights_file_is_refused(tmp_path: Path) -> None:
    for name in ("vgg19.pth", "vgg19.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"<html>404 Not Found</html>")
        text = refusal(named_by_hash(path))
        assert "cannot be opened as weights only" in text
        assert FIX in text


def test_without_a_file_and_without_torchvision_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torchvision"):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert refusal("") == (
        "the perceptual loss needs the weights of VGG19, and torchvision is not installed\n"
        "  likely because they are not ours to ship\n"
        f"  next: {FIX}; or install the torchvision that goes with this PyTorch"
    )


def test_torchvisions_own_weights_are_asked_for_with_their_sum(monkeypatch: pytest.MonkeyPatch, vgg: Path) -> None:
    """torchvision's interface, by a stand-in: it cannot be installed everywhere, and would download half a gigabyte."""
    online = True

    def get_state_dict(*, progress: bool, check_hash: bool) -> dict[str, Tensor]:
        assert check_hash
        if not online:
            raise OSError("no route to host")
        return vgg_tensors()

    models = types.ModuleType("torchvision.models")
    weights = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(get_state_dict=get_state_dict))
    monkeypatch.setattr(models, "VGG19_Weights", weights, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    assert torch.equal(load_vgg("")(pictures(1)), load_vgg(str(vgg))(pictures(1)))
    online = False
    assert refusal("") == (
        f"torchvision could not get the weights of VGG19\n  likely because no route to host\n  next: {FIX}"
    )


# the recipes


def recipe_of(name: str) -> Recipe:
    return load_recipe(find_toml("train", name))


def test_srgan26_is_as_published() -> None:
    recipe = recipe_of("srgan26")
    assert (recipe.loss.first, recipe.loss.weight) == ("l1", 0.01)
    assert recipe.adversarial == Adversarial(gan=5e-3, perceptual=1.0)
    assert (recipe.data.crop, recipe.batch, recipe.iterations, recipe.challenge) == (128, 8, 40_000, False)
    assert recipe.network.weights == "runs/srgan26-psnr/best.safetensors"
    halved = [schedule.rate(recipe, step) for step in (0, 5_000, 10_000, 20_000, 30_000, 39_999)]
    assert halved == pytest.approx([1e-4, 5e-5, 2.5e-5, 1.25e-5, 6.25e-6, 6.25e-6])


def test_all_three_train_the_same_generator() -> None:
    first = recipe_of("srgan26-psnr").network
    assert parameter_count(create(first.architecture, **first.settings)) == 2_256_131
    for name in ("srgan26", "srgan26-matching"):
        network = recipe_of(name).network
        assert (network.architecture, network.settings) == (first.architecture, first.settings)


def test_srgan26_matching_needs_no_pretrained_weights() -> None:
    weights = recipe_of("srgan26-matching").adversarial
    assert weights.perceptual == 0
    assert min(weights.gan, weights.matching, weights.frequency) > 0


@pytest.mark.parametrize(
    ("crop", "terms", "key"),
    [
        (0, {"discriminator": "gan"}, "adversarial.discriminator"),
        (0, {"crop": 513}, "adversarial.crop"),
        (128, {"crop": 132}, "adversarial.crop"),
        (0, {"gan": 1.0, "discriminator": "patch", "crop": 28}, "at least 32 for a discriminator of patches"),
        (28, {"gan": 1.0, "discriminator": "patch"}, "at least 32 for a discriminator of patches"),
        (0, {"lattice": 1.0, "explained": True}, "adversarial.explained (needs adversarial.gan)"),
        (60, {"lattice": 1.0}, "adversarial.lattice"),
        (68, {"lattice": 1.0}, "adversarial.lattice"),
        (0, {"lattice": -1.0}, "adversarial (weights of at least 0)"),
    ],
)
def test_what_does_not_fit_is_named(crop: int, terms: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(data=Data(crop=crop), adversarial=Adversarial(**terms))
    assert key in str(caught.value)


def test_the_smallest_windows_take_a_single_face() -> None:
    """Behind three halvings batch normalisation still has several numbers."""
    recipe = Recipe(batch=1, adversarial=Adversarial(gan=1.0, discriminator="patch", crop=32, channels=2))
    assert math.isfinite(float(Adversary(recipe, CPU).discriminator_loss(pictures(0, 1), pictures(1, 1)).detach()))
