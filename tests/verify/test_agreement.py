"""500 small cases by enumeration, branch and bound and programs; 2,000 networks, no error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from branch_nets import margin_at, question, status
from mip_reference import Case, Layer, case, dense_case, minimum_by_milp, minimum_by_regions
from polygons import least, margins
from torch import Tensor, nn

from taut.bounds import METHODS, Ascent
from taut.graph import Network, trace
from taut.property.case import Case as Property
from taut.property.exact import Constraint, Exact
from taut.region import Box
from taut.verify.branch import Branch
from taut.verify.complete import Question
from taut.verify.instance import Procedure, decide
from taut.verify.mip import MIP
from taut.verify.outcome import Answer
from tests.counts import cases

SHORT = Ascent(iterations=2)
NEURONS = Branch(SHORT, SHORT, every=False, candidates=1, pixels=0, attack_steps=2)
PIXELS = Branch(SHORT, SHORT, every=False, candidates=2, attack_steps=0)
QUICK = ("ibp", "crown-ibp", "lbp", "crown", "deepz")
GAPS = (0.3, 0.02, 1e-3, -1e-3, -0.02, -0.3)
"""Least margins, in turn: most of them near zero, where an error would show."""

EXACT = 1e-7
"""How near to each other exact routes are."""


def box_of(shape: Sequence[int], seed: int, moving: int) -> Box:
    """A box of which so many inputs move, by up to 0.4 to either side."""
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    middle = torch.rand(1, size, generator=generator, dtype=torch.float64)
    radius = torch.zeros(1, size, dtype=torch.float64)
    chosen = torch.randperm(size, generator=generator)[:moving]
    radius[0, chosen] = 0.1 + 0.3 * torch.rand(moving, generator=generator, dtype=torch.float64)
    return Box((middle - radius).view(1, *shape), (middle + radius).view(1, *shape))


def last(model: nn.Module) -> nn.Linear:
    *_, layer = (m for m in model.modules() if isinstance(m, nn.Linear))
    return layer


def with_gap(made: Case, y: int, by: float) -> Case:
    """Lower the logit of one class, and so all its margins."""
    last(made.model).bias.data[y] -= by
    shift = np.zeros(len(made.layers[-1].bias))
    shift[y] = by
    end = made.layers[-1]._replace(bias=made.layers[-1].bias - shift)
    return made._replace(layers=[*made.layers[:-1], end])


def minimum(layers: list[Layer], box: Box, y: int) -> float:
    """The least margin: by polygons where two inputs move, else by a program written out."""
    if int((box.radius > 0).sum()) == 2:
        return least(layers, margins(y, 3), box)
    eye = np.eye(3)
    return min(minimum_by_milp(layers, eye[y] - eye[j], box) for j in range(3) if j != y)


def set_up(kind: str, seed: int, moving: int) -> tuple[Case, Box, int, float]:
    """A network, a box, its label, and the least margin, which is one of the gaps."""
    made = case(kind, seed)
    for parameter in made.model.parameters():
        parameter.requires_grad_(False)
    box = box_of(made.shape, seed, moving)
    y, gap = int(made.model(box.center).argmax()), GAPS[seed % len(GAPS)]
    return with_gap(made, y, minimum(made.layers, box, y) - gap), box, y, gap


@pytest.mark.parametrize(
    ("kind", "count", "moving"),
    [
        ("relu", 95, 2),
        ("leaky", 95, 2),
        ("ramp", 95, 2),
        ("conv", 60, 2),
        ("residual", 10, 2),
        ("relu", 5, 4),
        ("leaky", 5, 4),
        ("ramp", 5, 4),
        ("conv", 10, 16),
    ],
)
def test_three_ways_to_decide_margins_agree(kind: str, count: int, moving: int) -> None:
    """A program that its solver gives up leaves an image open; that is rare, and no error."""
    open_, split = 0, 0
    for seed in range(cases(count)):
        made, box, y, exact = set_up(kind, seed, moving)
        asked = question(made.model, box, torch.tensor([y]))
        right = "verified" if exact > 0 else "falsified"
        for method in ((NEURONS, PIXELS)[seed % 2], MIP()):
            (answer,) = method.decide(asked)
            assert answer.bound <= exact + EXACT, (seed, method)
            if isinstance(method, MIP) and status(answer) == "undecided":
                open_ += 1
                continue
            assert status(answer) == right, (seed, method)
            split += answer.parts > 2
            if answer.point is not None:
                assert exact - EXACT <= margin_at(asked, 0, answer.point) < 0
    assert open_ == 0
    assert split > 0 or kind in ("conv", "residual")


def test_polygons_are_cut_as_linear_programs_over_all_patterns_say() -> None:
    for kind in ("relu", "leaky", "ramp", "clip", "abs", "conv", "residual"):
        for seed in range(2):
            made = case(kind, seed)
            box, row = box_of(made.shape, seed, 2), np.array([1.0, -1.0, 0.5])
            found = least(made.layers, [(row[None], np.array([0.25]))], box)
            regions = minimum_by_regions(made.layers, row, box)
            assert found == pytest.approx(regions - 0.25, abs=EXACT)


Groups = list[tuple[np.ndarray, np.ndarray]]


def drawn(seed: int) -> Groups:
    """One to three groups of one to three rows, quarters in the coefficients."""
    generator = np.random.default_rng(seed)
    groups = []
    for _ in range(generator.integers(1, 4)):
        rows = generator.integers(-4, 5, (generator.integers(1, 4), 3)) / 4.0
        rows[np.abs(rows).sum(1) == 0] = 1.0
        groups.append((rows, generator.integers(-2, 3, len(rows)) / 8.0))
    return groups


def as_case(groups: Groups, box: Box) -> Property:
    ends = (tuple(Fraction(v) for v in end.flatten().tolist()) for end in (box.lower, box.upper))
    constraints = tuple(
        tuple(
            Constraint(tuple((k, Fraction(a)) for k, a in enumerate(row) if a), Fraction(side))
            for row, side in zip(rows.tolist(), sides.tolist(), strict=True)
        )
        for rows, sides in groups
    )
    return Property.of(Exact(*ends, constraints), 3)


@pytest.mark.parametrize("kind", ["relu", "leaky", "ramp", "conv"])
def test_three_ways_to_decide_unions_of_polyhedra_agree(kind: str) -> None:
    seen, open_ = Counter[Answer](), 0
    for seed in range(cases(30)):
        made = case(kind, 500 + seed)
        box, groups = box_of(made.shape, seed, 2), drawn(seed)
        shift = round(least(made.layers, groups, box) - GAPS[seed % len(GAPS)], 6)
        groups = [(rows, sides + shift) for rows, sides in groups]
        exact = least(made.layers, groups, box)
        asked = as_case(groups, box)
        for stage in ("branch", "mip"):
            procedure = Procedure(stages=(stage,), timeout=None)
            found = decide(made.model, made.shape, [asked], procedure)
            if stage == "mip" and found.answer is Answer.UNKNOWN:
                open_ += 1
                continue
            assert found.answer is (Answer.UNSAT if exact > 0 else Answer.SAT), (seed, stage)
            if found.witness is not None:
                assert asked.exact.inside(found.witness.point)
                x = torch.tensor([float(v) for v in found.witness.point], dtype=torch.float64)
                z = made.model(x.view(1, *made.shape)).detach().numpy()[0]
                assert min(float((a @ z - b).max()) for a, b in groups) <= 1e-12
        seen[Answer.UNSAT if exact > 0 else Answer.SAT] += 1
    assert open_ == 0
    assert min(seen[Answer.SAT], seen[Answer.UNSAT]) > cases(8), seen


def asked_again(model: nn.Module, net: Network, box: Box, y: Tensor, proved: Tensor) -> Question:
    """A question without limits about a network that is traced already."""
    zero = torch.zeros(1, dtype=torch.float64)
    return Question(model, net, box, box, y, proved, zero, [math.inf], [0])


def renewed(made: Case, seed: int) -> list[Layer]:
    """Draw other weights into a dense network; return its layers."""
    generator = torch.Generator().manual_seed(seed)
    found, old = [], iter(made.layers)
    for module in made.model:  # type: ignore[attr-defined]
        if isinstance(module, nn.Linear):
            for parameter in (module.weight, module.bias):
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(drawn * (0.9 if parameter.dim() > 1 else 0.4))
            weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
            found.append(Layer(weight.copy(), bias.copy(), next(old).bends))
    return found


@pytest.mark.parametrize("kind", ["relu", "leaky", "ramp", "wide"])
def test_no_verdict_on_2000_networks_is_wrong(kind: str) -> None:
    """500 a kind. Every bound is below the minimum, every decision the one it asks for."""
    sizes = (2, 8, 3) if kind == "wide" else (2, 4, 3, 3)
    made = dense_case("relu" if kind == "wide" else kind, 0, sizes)
    graph, seen = trace(made.model, (2,)), Counter[str]()
    for seed in range(cases(500)):
        layers, box = renewed(made, seed), box_of((2,), seed, 2)
        y = made.model(box.center).argmax(1)
        exact = least(layers, margins(int(y), 3), box)
        if seed % 8 == 0:  # where only splits can tell
            by = exact - GAPS[seed // 8 % len(GAPS)]
            with_gap(made, int(y), by)
            exact -= by
        net = graph.instance().detached()
        bounds = METHODS[QUICK[seed % len(QUICK)]].margins(net, box, y)
        assert float(bounds.amin()) <= exact + EXACT, seed
        if float(bounds.amin()) > 0:
            seen["proved at once"] += 1
            continue
        asked = asked_again(made.model, net, box, y, bounds)
        (answer,) = (NEURONS, PIXELS)[seed // 2 % 2].decide(asked)
        assert answer.bound <= exact + EXACT, seed
        assert status(answer) == ("verified" if exact > 0 else "falsified"), seed
        seen[status(answer)] += 1
    assert min(seen[each] for each in ("proved at once", "verified", "falsified")) > cases(30), seen
