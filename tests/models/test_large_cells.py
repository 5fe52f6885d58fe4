"""The networks for photographs on cells, a few channels wide, on images of 64 x 64 pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import taut
from taut.graph import trace
from taut.models import MODELS, Cells
from taut.training.initialise import initialise

SHAPE, CLASSES, N = (3, 64, 64), 3, 7
LARGE = ("resnet18", "vgg11", "alexnet", "inception-v1")


def network(name: str) -> nn.Sequential:
    """The small version of a network, behind both ends of cells."""
    entry, cells = MODELS[name], Cells(N, emit="ends")
    torch.manual_seed(4)
    rest = entry.factory((6, *SHAPE[1:]), CLASSES, activation="relu", **entry.narrow)
    return nn.Sequential(cells, *rest)


def images(count: int = 12) -> taut.ImageSet:
    """Smooth colours, one per class, with some noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    coarse = torch.rand(CLASSES, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear")
    noise = 0.1 * torch.rand(count, *SHAPE, generator=generator)
    pixels = ((0.9 * smooth[labels] + noise) * 255).to(torch.uint8)
    return taut.ImageSet.from_tensors(pixels, labels, CLASSES)


@pytest.mark.parametrize("name", LARGE)
def test_it_sees_cells_alone(name: str) -> None:
    net, x = network(name).eval(), images().pixels()
    cells = net[0].steps()
    k = cells.cell(x)
    inside = (k + 0.1 + 0.8 * torch.rand(k.shape, generator=torch.Generator().manual_seed(2))) / N
    assert torch.equal(cells.cell(inside), k)
    with torch.no_grad():
        assert torch.equal(net(inside), net(x))  # any other image of the same cells
        assert not torch.equal(net((inside + 1 / N).clamp(max=1)), net(x))


@pytest.mark.parametrize("name", LARGE)
def test_a_step_of_training_is_one_of_plain_sgd_on_the_ends(name: str) -> None:
    data, net = images(), network(name)
    other = network(name)
    drawn = [m for m in (*net.modules(), *other.modules()) if isinstance(m, nn.Dropout)]
    for module in drawn:
        module.p = 0.0
    settings = taut.Settings(
        epochs=1, eps=0.0, batch_size=12, optimiser="sgd", lr=0.05, momentum=0.0,
        device="cpu", threads=1,
    )  # fmt: skip
    trained = taut.fit(net, data, "natural", settings=settings).model
    # the same step, written down: all upper ends, then all lower ones
    other.train()
    lower = 2 * (data.images.int() * N // 255).clamp(max=N - 1) / N - 1
    ends = torch.cat([lower + 2 / N, lower], 1)
    loss = nn.functional.cross_entropy(other[1:](ends), data.labels)
    grads = torch.autograd.grad(loss, list(other.parameters()))
    for (key, value), start, grad in zip(
        trained.named_parameters(), other.parameters(), grads, strict=True
    ):
        # sums run in another order, since the loop shuffles the images
        assert torch.allclose(value, start - 0.05 * grad, rtol=1e-3, atol=2e-5), key
    assert any(bool((grad.abs() > 0).any()) for grad in grads)


@pytest.mark.parametrize("name", LARGE)
def test_an_attack_climbs_through_the_cells_and_stays_in_the_ball(name: str) -> None:
    net, data, eps = network(name).eval(), images(), 0.06
    initialise("kaiming", net, trace(net, SHAPE), seed=0)  # else little of the image arrives
    x = data.pixels()
    with torch.no_grad():
        y = net(x).argmax(1)
    assert taut.cell_accuracy(net, x, y) == 1.0
    found = taut.attack(net, x, y, eps, taut.PGD(steps=8), seed=3)
    assert float((found.point - x).abs().max()) <= eps + 1e-6
    assert float(found.point.min()) >= 0
    assert float(found.point.max()) <= 1
    k = net[0].steps().cell
    assert (k(found.point) != k(x)).any()  # it moves pixels to other cells

    @torch.no_grad()
    def margins(points: Tensor) -> Tensor:
        logits, own = net(points), y[:, None]
        others = logits.scatter(1, own, -torch.inf).amax(1)
        return logits.gather(1, own)[:, 0] - others

    assert torch.equal(found.success, margins(found.point) <= 0)
    assert torch.allclose(found.margin, margins(found.point), atol=1e-5)
    # corners of the ball that know nothing of the gradient do worse
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        signs = torch.randint(2, x.shape, generator=generator) * 2 - 1
        shaken = margins((x + eps * signs).clamp(0, 1))
        assert float(found.margin.mean()) < float(shaken.mean())
