"""How an attack treats the model, the batch, its steps, its random numbers and bad arguments."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from taut.attacks import ATTACKS, FGSM, PGD, Flips, evaluating, image_seeds, margin
from taut.errors import ConfigError, DataError, ModelError, RegionError
from taut.region import Box


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def images(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 2, 6, 5, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


def recorded(net: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach().clone()))
    return seen


def test_the_model_is_left_as_it_was():
    net = convolutional()
    net.train()
    net[1].eval()  # a frozen batch norm inside a model in training mode
    net[0].bias.requires_grad_(False)
    x, y = images()
    flags = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    computed = []
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad: computed.append(grad.shape))
    PGD(steps=3, restarts=2)(net, x, y, Box.around(x, 0.1))
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [True, False, *[True] * 4]
    assert all(p.grad is None for p in net.parameters())
    assert computed == []  # no gradient of a weight was computed on the way


def test_flags_are_restored_when_the_model_raises():
    net = convolutional()

    def fail(_module: nn.Module, _args: object) -> None:
        raise ZeroDivisionError

    net[4].register_forward_pre_hook(fail)
    x, y = images()
    with pytest.raises(ZeroDivisionError):
        PGD()(net, x, y, Box.around(x, 0.1))
    assert all(module.training for module in net.modules())
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.modules())


def test_evaluation_mode_is_a_switch():
    x, y = images()
    modes = []
    net = convolutional()
    net[1].register_forward_hook(lambda module, _a, _o: modes.append(module.training))
    before = net[1].running_mean.clone()
    FGSM()(net, x, y, Box.around(x, 0.1))
    assert set(modes) == {False}
    assert torch.equal(net[1].running_mean, before)
    modes.clear()
    FGSM(eval_mode=False)(net, x, y, Box.around(x, 0.1))
    assert set(modes) == {True}
    assert not torch.equal(net[1].running_mean, before)


def test_it_works_where_gradients_are_off_and_on_images_that_want_one():
    x, y = images()
    with torch.no_grad():
        found = FGSM()(convolutional(), x, y, Box.around(x, 0.1))
    wants = x.clone().requires_grad_(True)
    other = FGSM()(convolutional(), wants, y, Box.around(x, 0.1))
    assert torch.equal(found.point, other.point)
    assert wants.grad is None


def test_a_step_is_so_many_half_widths_of_the_clipped_box():
    net = nn.Linear(4, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    x = torch.tensor([[0.5, 0.5, 0.05, 1.0]])
    y = torch.tensor([0])
    seen = recorded(net)
    box = Box.around(x, 0.2)
    PGD(steps=3, step=0.25, milestones=(2,), random_start=False, stop_early=False)(net, x, y, box)
    # Half widths 0.2, 0.2, 0.125 (clipped at 0) and 0.1 (clipped at 1), a quarter of each a
    # step, tenfold less after two steps; the projection stops the last two pixels at 0 and at 1.
    expected = torch.tensor(
        [
            [[0.5, 0.5, 0.05, 1.0]],
            [[0.45, 0.55, 0.01875, 1.0]],
            [[0.4, 0.6, 0.0, 1.0]],
            [[0.395, 0.605, 0.0, 1.0]],
        ]
    )
    torch.testing.assert_close(torch.stack(seen), expected)
    assert PGD(steps=4, step=0.8, milestones=(1, 3)).sizes() == pytest.approx(
        (0.8, 0.08, 0.08, 0.008)
    )
    assert PGD(steps=50).sizes() == pytest.approx((0.05,) * 50)
    assert FGSM().sizes() == (1.25,)
    assert FGSM(random_start=False).sizes() == (2.0,)


def test_the_first_success_is_kept_and_the_image_drops_out():
    net = convolutional().eval()
    x, _ = images(12)
    y = net(x).argmax(1)
    box, seeds = Box.around(x, 0.06), torch.arange(12)
    attack = PGD(steps=6, step=0.15, restarts=2)
    assert not bool((margin(net(x), y) < 0).any())
    seen = recorded(net)
    whole = attack(net, x, y, box, seeds=seeds)
    assert 0 < int(whole.success.sum()) < 12  # the case is telling
    sizes = [len(points) for points in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 12 - int(whole.success.sum())
    for i in range(12):
        seen.clear()
        one = slice(i, i + 1)
        attack(net, x[one], y[one], box[one], seeds=seeds[one])
        iterates = torch.cat(seen)
        margins = margin(net(iterates), y[one].expand(len(iterates)))
        broken = (margins < 0).nonzero()
        first = int(broken[0]) if len(broken) else None
        assert (first is not None) == bool(whole.success[i])
        if first is not None:
            assert first == len(margins) - 1  # nothing was computed after it
            torch.testing.assert_close(whole.point[i], iterates[first], atol=1e-6, rtol=0)


def test_a_success_is_kept_though_its_cross_entropy_is_lower():
    """Three classes nearly even lose more than two that are not, yet only the latter is wrong."""

    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            even = torch.cat([0.01 - 0.001 * x, 0 * x, 0 * x], 1)
            wrong = torch.cat([0 * x, 0.2 + 0 * x, 0 * x - 5], 1)
            return torch.where(x < 0.5, even, wrong)

    x, y = torch.full((1, 1), 0.4), torch.tensor([0])
    found = FGSM(step=1.0, random_start=False)(Cliff(), x, y, Box.around(x, 0.3))
    assert bool(found.success.all())
    torch.testing.assert_close(found.point, torch.tensor([[0.7]]))
    to_the_end = FGSM(step=1.0, random_start=False, stop_early=False)
    followed = to_the_end(Cliff(), x, y, Box.around(x, 0.3))
    assert not bool(followed.success.any())
    torch.testing.assert_close(followed.point, x)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("stop_early", [True, False])
def test_the_point_of_highest_loss_is_returned(loss, stop_early):
    net = convolutional().eval()
    x, _ = images(1)
    y = net(x).argmax(1)
    seen = recorded(net)
    eps = 0.01 if stop_early else 0.3  # unbroken, then surely broken and followed to the end
    attack = PGD(steps=5, restarts=3, loss=loss, stop_early=stop_early)
    found = attack(net, x, y, Box.around(x, eps))
    assert bool(found.success.all()) is not stop_early
    iterates = torch.cat(seen[1:] if loss == "margin" else seen)  # margin looks at x itself first
    assert len(iterates) == 6 * 3 * (1 if loss == "ce" else 2)
    labels = y.expand(len(iterates))
    logits = net(iterates)
    if loss == "ce":
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    else:
        losses = -margin(logits, labels)
    torch.testing.assert_close(found.point[0], iterates[losses.argmax()], atol=1e-6, rtol=0)


def test_targets_are_the_most_likely_wrong_classes():
    """Each target's logit grows in its own pixel alone, so the iterates tell which was tried."""
    net = nn.Linear(4, 4, bias=True)
    net.weight.data = torch.eye(4)
    net.bias.data = torch.tensor([9.0, 0.3, 0.1, 0.2])
    x, y = torch.full((1, 4), 0.5), torch.tensor([0])
    seen = recorded(net)
    attack = PGD(steps=1, step=1.0, loss="margin", targets=2, random_start=False)
    attack(net, x, y, Box.around(x, 0.1))
    moved = [(points[0] > 0.55).nonzero().flatten().tolist() for points in seen]
    assert moved == [[], [], [1], [], [3]]


def test_random_starts_depend_on_seed_and_restart_alone():
    net = convolutional().eval()
    x, _ = images(6)
    y = net(x).argmax(1)
    box = Box.around(x, 1e-3)
    seeds = image_seeds(5, range(6))
    seen = recorded(net)
    attack = PGD(steps=1, restarts=2)
    attack(net, x, y, box, seeds=seeds)
    first = [seen[0], seen[2]]
    seen.clear()
    order = torch.tensor([4, 1])
    attack(net, x[order], y[order], box[order], seeds=seeds[order])
    assert torch.equal(seen[0], first[0][order])
    assert torch.equal(seen[2], first[1][order])
    starts = torch.cat(first)
    offsets = ((starts - box.lower.repeat(2, 1, 1, 1)) / 2e-3).flatten(1)
    assert bool((torch.pdist(offsets) > 0.1).all())  # no two starts alike
    assert (
        len(set(image_seeds(0, range(1000)).tolist() + image_seeds(1, range(1000)).tolist()))
        == 2000
    )


def test_starts_are_uniform_on_the_box():
    x = torch.full((40, 200), 0.05)
    box = Box.around(x, 0.2)  # [0, 0.25]
    net = nn.Linear(200, 2)
    seen = recorded(net)
    FGSM(stop_early=False)(net, x, torch.zeros(40, dtype=torch.int64), box)
    start = seen[0] / 0.25
    assert abs(float(start.mean()) - 0.5) < 0.02
    assert abs(float(start.var()) - 1 / 12) < 0.01
    assert float(start.min()) < 0.01
    assert float(start.max()) > 0.99


def test_a_generator_gives_a_stream_of_its_own():
    net = convolutional().eval()
    x, y = images()
    box = Box.around(x, 0.05)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first = PGD(steps=2)(net, x, y, box, generator=generator)
    second = PGD(steps=2)(net, x, y, box, generator=generator)
    again = PGD(steps=2)(net, x, y, box, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.point, again.point)
    assert not torch.equal(first.point, second.point)
    assert torch.equal(torch.get_rng_state(), state)


def test_attacks_are_frozen_and_listed():
    assert {"fgsm": FGSM, "flips": Flips, "pgd": PGD} == ATTACKS
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGD().steps = 3
    assert PGD(steps=3) == PGD(steps=3) != PGD(steps=4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PGD(steps=0),
        lambda: PGD(restarts=0),
        lambda: PGD(step=0.0),
        lambda: PGD(step=float("nan")),
        lambda: FGSM(step=-1.0),
        lambda: PGD(loss="dlr"),
        lambda: PGD(loss="margin", targets=0),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_bad_data_is_refused():
    net = convolutional()
    x, y = images()
    box = Box.around(x, 0.1)
    attack = PGD(steps=1)
    with pytest.raises(RegionError, match="shape"):
        attack(net, x, y, box[:3])
    with pytest.raises(DataError, match="int64"):
        attack(net, x, y.float(), box)
    with pytest.raises(DataError, match="int64"):
        attack(net, x, y[:2], box)
    with pytest.raises(DataError, match="label 3 is out of range"):
        attack(net, x, torch.full_like(y, 3), box)
    with pytest.raises(DataError, match="label -1 is out of range"):
        attack(net, x, torch.full_like(y, -1), box)
    with pytest.raises(ConfigError, match="not both"):
        attack(net, x, y, box, seeds=torch.arange(5), generator=torch.Generator())
    with pytest.raises(ConfigError, match="seeds"):
        attack(net, x, y, box, seeds=torch.arange(4))
    with pytest.raises(ModelError, match="logits"):
        attack(nn.Flatten(0), x, y, box)

    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :3]

    with pytest.raises(ModelError, match="no gradient"):
        attack(Detached(), x, torch.zeros_like(y), Box.around(x, 1e-9))
