"""Small sets of cell choices: where they lie, what they become, and what they bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from combination_helpers import (
    affine_layers,
    assert_same_loss,
    at,
    batch,
    cross_entropies,
    ends,
    ibp_losses,
    mlp,
    traced,
)
from torch import Tensor, nn
from training_helpers import Fixed

from taut.errors import ConfigError
from taut.graph import Graph, trace
from taut.models import Cells
from taut.region import Box
from taut.training import (
    BOUNDS,
    METHODS,
    Batch,
    CellChoices,
    FullBall,
    GridPoint,
    Mix,
    Progress,
    Radii,
    Region,
    SmallBox,
    TrainingAttack,
    choose,
)

EPS = 0.2
ROBUST = Mix(0.0, 0.0)
KINDS: tuple[Any, ...] = ("relaxed", "subset")


def setting(
    n: int = 4, norm: bool = False, **cells: Any
) -> tuple[nn.Sequential, nn.Sequential, Graph, Tensor, Tensor]:
    """A model, what follows its cells, its trace and a batch."""
    behind = mlp(norm=norm)
    model = nn.Sequential(Cells(n, **cells), *behind).double()
    x, y = batch()
    return model, behind, traced(model), x, y


def level(x: Tensor, n: int = 4) -> Tensor:
    """The value of each pixel's cell, written out; the module holds them in float32."""
    return ((x * n).floor().clamp(max=n - 1).float() / (n - 1)).double()


def value_box(x: Tensor, eps: float, ratio: float, point: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (level(end) for end in ends(x, eps))
    tau = ratio * (high - low) / 2
    middle = torch.minimum(torch.maximum(level(point), low + tau), high - tau)
    return middle - tau, middle + tau


def loss_of(region: Region, graph: Graph, x: Tensor, y: Tensor, eps: float = EPS) -> Tensor:
    return GridPoint(region=region, combination=ROBUST).loss(graph, x, y, at(eps)).total


@pytest.mark.parametrize("emit", ["levels", "ends"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", [FullBall(), Radii(3)])
def test_with_ratio_1_it_is_ibp_bit_for_bit(inner: Region, kind: Any, emit: str) -> None:
    torch.manual_seed(4)
    channels = 2 if emit == "ends" else 1
    model = nn.Sequential(
        Cells(3, emit=emit),  # type: ignore[arg-type]
        nn.Conv2d(channels, 3, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    graph = trace(model, (1, 4, 4))
    x, y = torch.rand(7, 1, 4, 4), torch.arange(7) % 3
    totals = [
        loss_of(region, graph, x, y) for region in (CellChoices(1.0, kind=kind, inner=inner), inner)
    ]
    assert torch.equal(*totals)
    gradients = [torch.autograd.grad(total, list(model.parameters())) for total in totals]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_with_ratio_1_there_is_no_attack(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("attacked")

    monkeypatch.setattr(TrainingAttack, "points", refuse)
    _, _, graph, x, y = setting()
    data = Batch(graph, x, y)
    assert len(CellChoices(1.0, kind=kind).boxes(data, EPS, at(EPS))) == 1
    with pytest.raises(AssertionError, match="attacked"):
        CellChoices(0.5, kind=kind).boxes(data, EPS, at(EPS))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_tiny_ratio_it_is_training_at_the_attacked_choice(kind: Any, norm: bool) -> None:
    model, behind, graph, x, y = setting(norm=norm)
    region = CellChoices(1e-9, kind=kind)
    graph.clean(x)  # moves the running statistics, which the attack sees
    point = region.attack.points(Batch(graph, x, y), Box.around(x, EPS), at(EPS))
    model.load_state_dict(setting(norm=norm)[0].state_dict())
    found = loss_of(region, graph, x, y)
    layers = affine_layers(behind, level(x))
    low = high = level(point)
    assert_same_loss(found, ibp_losses(layers, low, high, y).mean(), model, 1e-6)
    if not norm:
        plain = cross_entropies(behind(level(point)), y).mean()
        torch.testing.assert_close(found, plain, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("ratio", [1e-6, 0.1, 0.5, 0.7, 0.999999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_of_values_lies_in_the_choices_and_holds_the_attacked_one(
    ratio: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(Cells(5), nn.Linear(40, 3)).to(dtype)
    x, y = torch.rand(9, 40).to(dtype), torch.arange(9) % 3
    x[:, :10] = x[:, :10].round()
    data = Batch(trace(model, (40,)), x, y)
    region = CellChoices(ratio)
    ((box, weight, node),) = region.boxes(data, EPS, at(EPS, count=9))
    whole = Box.around(x, EPS)
    low, high = model[0](whole.lower), model[0](whole.upper)
    assert (weight, node) == (1.0, 1)
    assert bool((box.lower >= low).all())
    assert bool((box.upper <= high).all())
    assert bool((box.lower <= box.upper).all())
    torch.testing.assert_close(box.upper - box.lower, ratio * (high - low), rtol=1e-4, atol=1e-6)
    chosen = model[0](region.attack.points(data, whole, at(EPS, count=9)))
    slack = (1 - ratio) * 1e-6
    inside = (chosen >= box.lower - slack) & (chosen <= box.upper + slack)
    between = (chosen > low) & (chosen < high)  # ends are held, and so is what lies near enough
    assert bool(inside[~between].all())


@pytest.mark.parametrize("ratio", [0.3, 0.8])
@pytest.mark.parametrize("norm", [False, True])
def test_the_loss_is_the_formulas(ratio: float, norm: bool) -> None:
    model, behind, graph, x, y = setting(norm=norm)
    low, high = ends(x, EPS)
    point = low + 0.9 * (high - low)
    found = loss_of(CellChoices(ratio, Fixed()), graph, x, y)
    layers = affine_layers(behind, level(x))
    wanted = ibp_losses(layers, *value_box(x, EPS, ratio, point), y).mean()
    assert_same_loss(found, wanted, model)


def test_the_named_method_is_the_formulas() -> None:
    model, behind, graph, x, y = setting()
    method = METHODS["cells-sabr"].method
    found = method.loss(graph, x, y, at(EPS))
    region = CellChoices()
    point = region.attack.points(Batch(graph, x, y), Box.around(x, EPS), at(EPS))
    layers = affine_layers(behind, level(x))
    wanted = ibp_losses(layers, *value_box(x, EPS, 0.4, point), y).mean()
    assert_same_loss(found.total, wanted, model)
    assert set(found.parts) == {"robust"}


def test_a_recipe_can_name_it_inside_radii() -> None:
    model, behind, graph, x, y = setting()
    inner = {"name": "cell-choices", "ratio": 0.3, "attack": {"steps": 2}}
    method = choose(
        "ibp",
        {
            "kappa_start": 0.0,
            "kappa_end": 0.0,
            "region": {"name": "radii", "count": 2, "weights": "constant", "inner": inner},
        },
    )
    found = method.loss(graph, x, y, at(EPS)).total
    attack = TrainingAttack(steps=2, step=0.5)
    layers = affine_layers(behind, level(x))
    wanted = torch.zeros((), dtype=torch.float64)
    for eps in (EPS / 2, EPS):
        point = attack.points(Batch(graph, x, y), Box.around(x, eps), at(EPS))
        wanted = wanted + ibp_losses(layers, *value_box(x, eps, 0.3, point), y).mean() / 2
    assert_same_loss(found, wanted, model)


def test_radii_inside_it_share_one_attack() -> None:
    model, behind, graph, x, y = setting()
    region = CellChoices(0.3, inner=Radii(2, "constant"))
    found = loss_of(region, graph, x, y)
    point = region.attack.points(Batch(graph, x, y), Box.around(x, EPS), at(EPS))
    layers = affine_layers(behind, level(x))
    wanted = torch.zeros((), dtype=torch.float64)
    for eps in (EPS / 2, EPS):
        low, high = ends(x, eps)
        inside = torch.minimum(torch.maximum(point, low), high)
        wanted = wanted + ibp_losses(layers, *value_box(x, eps, 0.3, inside), y).mean() / 2
    assert_same_loss(found, wanted, model)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
def test_a_subset_leaves_the_pixels_of_the_largest_gradients_free(ratio: float) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(Cells(4), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = torch.rand(6, 30, dtype=torch.float64), torch.arange(6) % 3
    data = Batch(trace(model, (30,)), x, y)
    region = CellChoices(ratio, Fixed(), kind="subset")
    ((box, weight, node),) = region.boxes(data, EPS / 2, at(EPS, count=6))
    assert (weight, node) == (1.0, 0)
    low, high = ends(x, EPS / 2)
    point = low + 0.9 * (high - low)
    values = level(point).requires_grad_()
    slope = torch.autograd.grad(F.cross_entropy(model[1:](values), y, reduction="sum"), values)[0]
    for row in range(6):
        straddling = (level(low[row]) != level(high[row])).nonzero().flatten().tolist()
        assert len(straddling) > 5
        ranked = sorted(straddling, key=lambda i, row=row: -float(slope[row, i].abs()))
        free = ranked[: round(ratio * len(straddling))]
        wanted_low, wanted_high = point[row].clone(), point[row].clone()
        wanted_low[free], wanted_high[free] = low[row, free], high[row, free]
        torch.testing.assert_close(box.lower[row], wanted_low, rtol=0, atol=1e-15)
        torch.testing.assert_close(box.upper[row], wanted_high, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "taps"])
def test_every_choice_inside_has_a_loss_below_the_bound(bound: str, kind: Any) -> None:
    _, behind, graph, x, y = setting()
    region = CellChoices(0.5, kind=kind, free="random")
    data, progress = Batch(graph, x, y), at(EPS)
    method = choose("ibp", {"bound": bound, "kappa_start": 0.0, "kappa_end": 0.0})
    assert isinstance(method, GridPoint)
    found = GridPoint(region, method.bound, ROBUST).loss(graph, x, y, progress)
    ((box, _, node),) = region.boxes(data, EPS, progress)
    generator = torch.Generator().manual_seed(0)
    shape = (200, *box.shape)
    noise = torch.rand(shape, generator=generator, dtype=torch.float64)
    noise[:100] = noise[:100].round()
    points = (box.lower + noise * (box.upper - box.lower)).detach()
    values = points if node else level(points)
    reached = cross_entropies(behind(values.flatten(0, 1)), y.repeat(200)).view(200, -1)
    assert bool((reached <= found.bounded[0].losses + 1e-9).all())
    assert bool((reached.amax(0) > reached.amin(0)).any())


def test_random_pixels_come_from_the_seeds_of_the_images() -> None:
    _, _, graph, x, y = setting()
    region = CellChoices(0.5, Fixed(), kind="subset", free="random")
    data = Batch(graph, x, y)
    boxes = [region.boxes(data, 0.3, at(EPS))[0].box for _ in range(2)]
    assert torch.equal(boxes[0].lower, boxes[1].lower)
    other = Progress(9, 2, EPS, EPS, seeds=torch.arange(7) + 900)
    assert not torch.equal(region.boxes(data, 0.3, other)[0].box.lower, boxes[0].lower)
    drawn = Progress(9, 2, EPS, EPS, generator=torch.Generator().manual_seed(1))
    again = Progress(9, 2, EPS, EPS, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        region.boxes(data, 0.3, drawn)[0].box.lower, region.boxes(data, 0.3, again)[0].box.lower
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("free", ["gradient", "random"])
def test_a_set_does_not_depend_on_the_other_images(kind: Any, free: Any) -> None:
    _, _, graph, x, y = setting()
    region = CellChoices(0.5, kind=kind, free=free)
    progress = at(EPS)
    assert progress.seeds is not None
    whole = region.boxes(Batch(graph, x, y), EPS, progress)[0].box
    few = Progress(9, 2, EPS, EPS, seeds=progress.seeds[2:4])
    part = region.boxes(Batch(graph, x[2:4], y[2:4]), EPS, few)[0].box
    torch.testing.assert_close(part.lower, whole.lower[2:4], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.upper, whole.upper[2:4], rtol=0, atol=1e-12)


class Past(nn.Module):
    """Reads its pixels past the cells, too."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.layer = Cells(3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.cells(x) + x)
        return out


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_models_it_cannot_work_with_are_refused(ratio: float) -> None:
    x, y = torch.rand(3, 4), torch.arange(3)
    plain = Batch(trace(nn.Sequential(nn.Linear(4, 3)), (4,)), x, y)
    with pytest.raises(ConfigError, match=r"model\.options\.cells"):
        CellChoices(ratio).boxes(plain, EPS, at(EPS, count=3))
    past = Batch(trace(Past(), (4,)), x, y)
    with pytest.raises(ConfigError, match="in another way, too"):
        CellChoices(ratio).boxes(past, EPS, at(EPS, count=3))


def test_fields_that_do_not_fit_are_refused() -> None:
    for ratio in (0.0, 1.5, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"method\.ratio"):
            CellChoices(ratio)
    with pytest.raises(ConfigError, match=r"method\.kind must be one of relaxed, subset"):
        CellChoices(kind="box")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"method\.free"):
        CellChoices(free="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"method\.attack\.scale"):
        CellChoices(attack=TrainingAttack(scale=2.0))
    _, _, graph, x, y = setting()
    data = Batch(graph, x, y)
    for outer in (SmallBox(0.5, inner=CellChoices()), CellChoices(inner=CellChoices())):
        with pytest.raises(ConfigError, match='kind = "subset"'):
            outer.boxes(data, EPS, at(EPS))
    inside = SmallBox(0.5, inner=CellChoices(kind="subset")).boxes(data, EPS, at(EPS))
    assert inside[0].node == 0
