"""Every bounding method: sound against samples and exact solvers, ordered as theorems promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn

from taut.bounds import IBP, METHODS, Ascent, Backward, BoundMethod, Optimised, interval
from taut.graph import trace
from taut.operators import LINES, Activation
from taut.property import true_margins
from taut.region import Box
from tests.counts import cases
from tests.soundness.harness import (
    KINDS,
    SEEDS,
    around_operator,
    assert_gradients,
    assert_sound,
    assert_sound_in_float32,
    case,
    evaluate,
    every_case,
    generator,
    labelled_boxes,
    points_of,
    random_box,
    random_module,
    traced,
    uniform,
)

VARIANTS: dict[str, BoundMethod] = {
    **METHODS,
    **{f"{b}/{k}": Backward(before=b, lines=k) for b in ("ibp", "crown") for k in LINES},
    **{f"lbp/{k}": Backward("lbp", depth=1, lines=k) for k in LINES},
    "ibp-1": Backward("ibp", depth=1),
    "crown-lbp/tight": Backward("lbp", lines="tight"),
    "crown-lbp-2": Backward("lbp", depth=2),
    "relaxed-crown-1/tight": Backward("crown", depth=1, lines="tight"),
    "published crown": Backward("crown", lines="adaptive", intersect=False),
    "published lbp": Backward("lbp", depth=1, lines="adaptive", intersect=False),
    "published relaxed-crown-2": Backward("crown", depth=2, lines="adaptive", intersect=False),
    "shared alpha-crown": Optimised(Ascent(iterations=3, shared=True)),
}


QUICK: dict[str, BoundMethod] = {
    **METHODS,
    **{f"ibp/{k}": Backward(before="ibp", lines=k) for k in LINES},
    "lbp/tight": Backward("lbp", depth=1, lines="tight"),
    "published relaxed-crown-2": VARIANTS["published relaxed-crown-2"],
    "alpha-crown": Optimised(Ascent(iterations=1)),
    "shared alpha-crown": Optimised(Ascent(iterations=1, shared=True)),
}
"""Every method, and every family of lines in one of them."""


@pytest.mark.parametrize(("name", "number"), every_case())
@settings(max_examples=cases(2), deadline=None)
@given(seed=SEEDS)
def test_every_operator_under_every_method(name: str, number: int, seed: int) -> None:
    g = generator(seed)
    net = around_operator(case(name, number, seed), g)
    box = random_box(g, 3, 5, scale=0.5)
    logits = evaluate(net, points_of(box, generator(seed)))
    bounded = isinstance(case(name, number, seed).operator, Activation) and any(
        math.isfinite(end)
        for end in case(name, number, seed).operator.domain  # type: ignore[attr-defined]
    )
    for method in QUICK.values():
        if bounded and not getattr(method, "intersect", True):
            continue  # bounds that may be worse than intervals may leave the domain
        assert_sound(net, box, method, logits)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.01, 0.1, 0.5]))
def test_traced_networks_under_every_method(kind: str, seed: int, scale: float) -> None:
    net = traced(kind, seed)
    box = random_box(generator(seed), 3, *net.input_shape, scale=scale)
    logits = evaluate(net, points_of(box, generator(seed)))
    for method in VARIANTS.values():
        assert_sound(net, box, method, logits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_sound_up_to_rounding(kind: str, method: str) -> None:
    assert_sound_in_float32(kind, METHODS[method])


@pytest.mark.parametrize("method", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_has_its_own_margins(kind: str, method: str) -> None:
    """At eps = 0 every method returns the margins themselves."""
    module, shape = random_module(kind, 11)
    x = uniform(generator(11), 4, *shape)
    net = trace(module, shape).instance()
    logits = module(x)
    y = logits.argmax(1)
    margins = VARIANTS[method].margins(net, Box.around(x, 0.0), y)
    torch.testing.assert_close(margins, true_margins(logits, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(40), deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.02, 0.1, 0.4]))
def test_tight_lines_order_the_methods(kind: str, seed: int, scale: float) -> None:
    """IBP <= CROWN-IBP <= CROWN with tight lines."""
    net = traced(kind, seed)
    box, y = labelled_boxes(net, seed, 4, scale)
    ibp = IBP().margins(net, box, y)
    crown_ibp = Backward("ibp", "tight").margins(net, box, y)
    crown = Backward("crown", "tight").margins(net, box, y)
    assert bool((ibp <= crown_ibp + 1e-9).all())
    assert bool((crown_ibp <= crown + 1e-9).all())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS)
def test_constant_lines_reproduce_ibp(kind: str, seed: int) -> None:
    """Slope-zero lines in CROWN-IBP give the elided IBP margins."""
    net = traced(kind, seed)
    box, y = labelled_boxes(net, seed, 3, 0.3)
    ibp = IBP().margins(net, box, y)
    constant = Backward("ibp", "constant").margins(net, box, y)
    torch.testing.assert_close(constant, ibp, rtol=1e-9, atol=1e-9)
    if kind != "residual":  # across a join, substitution couples what intervals do not
        full = Backward("crown", "constant").margins(net, box, y)
        torch.testing.assert_close(full, ibp, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_margins_do_not_depend_on_what_is_kept(kind: str, seed: int) -> None:
    """Keeping fewer intervals, and working in place without gradients, changes nothing."""
    net = traced(kind, seed)
    box, y = labelled_boxes(net, seed, 3, 0.3)
    ends = box.lower.clone(), box.upper.clone()
    kept = interval.margins(net, interval.propagate(net, box), y)
    assert torch.equal(IBP().margins(net, box, y), kept)
    with torch.no_grad():
        assert torch.equal(IBP().margins(net, box, y), kept)
        assert torch.equal(interval.margins(net, interval.propagate(net, box), y), kept)
    assert torch.equal(box.lower, ends[0])
    assert torch.equal(box.upper, ends[1])


def test_adaptive_lines_can_be_below_ibp() -> None:
    """The ordering is the tight lines' own."""
    below = 0
    for seed in range(40):
        net = traced("deep", seed)
        box, y = labelled_boxes(net, seed, 4, 0.4)
        adaptive = Backward("ibp", "adaptive").margins(net, box, y)
        below += int((adaptive < IBP().margins(net, box, y) - 1e-9).any())
    assert below > 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_elided_margins_are_never_looser(kind: str, seed: int) -> None:
    """Merging the last layer with the margins beats plain bounds of the logits."""
    net = traced(kind, seed)
    box, y = labelled_boxes(net, seed, 3, 0.3)
    bounds = interval.propagate(net, box).at(net.output.index)
    plain = bounds.lower.gather(1, y[:, None]) - bounds.upper
    elided = IBP().margins(net, box, y)
    others = torch.isfinite(elided)
    assert bool((elided[others] >= plain[others] - 1e-9).all())


@settings(max_examples=cases(20), deadline=None)
@given(seed=SEEDS)
def test_a_linear_net_is_bounded_exactly(seed: int) -> None:
    """Elided IBP reaches the margin at the explicit worst corner."""
    module, shape = random_module("linear", seed)
    assert isinstance(module, nn.Linear)
    box = random_box(generator(seed), 3, *shape)
    net = trace(module, shape).instance()
    y = net(box.center).argmax(1)
    for method in METHODS.values():
        margins = method.margins(net, box, y)
        for image in range(3):
            for other in range(4):
                if other == y[image]:
                    continue
                row = module.weight[y[image]] - module.weight[other]
                corner = torch.where(row > 0, box.lower[image], box.upper[image])
                logits = module(corner)
                exact = logits[y[image]] - logits[other]
                assert math.isclose(
                    float(margins[image, other].detach()), float(exact.detach()), abs_tol=1e-9
                )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [5, 6])
def test_convolution_equals_its_unrolled_matrix(stride: int, padding: int, size: int) -> None:
    """Conv CROWN is dense CROWN on the unrolled convolution."""
    torch.manual_seed(size + 10 * stride + 100 * padding)
    conv = nn.Conv2d(2, 3, 3, stride, padding).double()
    width = conv(torch.zeros(1, 2, size, size).double()).numel()
    head = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    folded = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), *head)
    count = 2 * size * size
    basis = torch.eye(count).double().view(count, 2, size, size)
    constant = conv(torch.zeros(1, 2, size, size).double()).flatten()
    unrolled = nn.Linear(count, width).double()
    unrolled.weight.data = (conv(basis).flatten(1) - constant).T.contiguous()
    unrolled.bias.data = constant
    flat = nn.Sequential(nn.Flatten(), unrolled, nn.ReLU(), *head)
    box = random_box(generator(size), 3, 2, size, size, scale=0.3)
    shape = (2, size, size)
    one, two = trace(folded, shape).instance(), trace(flat, shape).instance()
    y = folded(box.center).argmax(1)
    for method in QUICK.values():
        torch.testing.assert_close(
            method.margins(one, box, y), method.margins(two, box, y), rtol=1e-9, atol=1e-9
        )


@settings(max_examples=cases(10), deadline=None)
@given(seed=SEEDS)
def test_clipped_pixels_contribute_nothing(seed: int) -> None:
    """At 0 and 1 the outer half of the ball is cut off."""
    module, shape = random_module("conv", seed)
    g = generator(seed)
    x = (uniform(g, 3, *shape) > 0.5).double()
    clipped = Box.around(x, 0.2)
    inward = Box(torch.where(x > 0, x - 0.2, x), torch.where(x > 0, x, x + 0.2))
    net = trace(module, shape).instance()
    y = module(x).argmax(1)
    for method in METHODS.values():
        torch.testing.assert_close(method.margins(net, clipped, y), method.margins(net, inward, y))
    for method in (IBP(), Backward("ibp", "tight"), Backward("crown", "tight")):
        whole = method.margins(net, Box.around(x, 0.2, data_range=None), y)
        assert bool((whole <= method.margins(net, clipped, y) + 1e-9).all())


def exact_margin(module: nn.Sequential, box: Box, image: int, y: int, other: int) -> float:
    """Minimise a margin of a one-hidden-layer ReLU net by mixed-integer programming."""
    first, last = module[0], module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    w, b = first.weight.detach().numpy(), first.bias.detach().numpy()
    row = (last.weight[y] - last.weight[other]).detach().numpy()
    low, high = box.lower[image].numpy(), box.upper[image].numpy()
    l = np.minimum(w, 0) @ high + np.maximum(w, 0) @ low + b  # noqa: E741 - the field's name
    u = np.maximum(w, 0) @ high + np.minimum(w, 0) @ low + b
    n, h = len(low), len(b)
    zero, eye = np.zeros((h, n)), np.eye(h)
    big_l, big_u = np.diag(np.minimum(l, 0)), np.diag(np.maximum(u, 0))
    # Variables: x, activations a, indicators d. a >= Wx + b; a <= Wx + b - l (1 - d); a <= u d.
    rows = [
        LinearConstraint(np.hstack([-w, eye, np.zeros((h, h))]), b, np.inf),
        LinearConstraint(np.hstack([-w, eye, -big_l]), -np.inf, b - np.minimum(l, 0)),
        LinearConstraint(np.hstack([zero, eye, -big_u]), -np.inf, 0),
    ]
    result = milp(
        np.concatenate([np.zeros(n), row, np.zeros(h)]),
        constraints=rows,
        integrality=np.concatenate([np.zeros(n + h), np.ones(h)]),
        bounds=(
            np.concatenate([low, np.zeros(2 * h)]),
            np.concatenate([high, np.maximum(u, 0), np.ones(h)]),
        ),
    )
    assert result.success
    return float(result.fun + (last.bias[y] - last.bias[other]).item())


@settings(max_examples=cases(15), deadline=None)
@given(seed=SEEDS)
def test_no_method_exceeds_the_exact_minimum(seed: int) -> None:
    module, shape = random_module("dense", seed)
    assert isinstance(module, nn.Sequential)
    box = random_box(generator(seed), 2, *shape, scale=0.5)
    net = trace(module, shape).instance()
    y = net(box.center).argmax(1)
    exact = torch.tensor(
        [
            [
                math.inf if j == y[i] else exact_margin(module, box, i, int(y[i]), j)
                for j in range(4)
            ]
            for i in range(2)
        ]
    )
    for method in VARIANTS.values():
        assert bool((method.margins(net, box, y) <= exact + 1e-6).all())


def test_crown_does_not_depend_on_the_budget() -> None:
    net = traced("conv", 2)
    box, y = labelled_boxes(net, 2, 3, 0.4)
    whole = Backward("crown").margins(net, box, y)
    split = Backward("crown", budget=1).margins(net, box, y)
    torch.testing.assert_close(whole, split, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_leave_nothing_behind(kind: str) -> None:
    module, shape = random_module(kind, 9)
    graph = trace(module, shape)
    box = random_box(generator(9), 3, *shape, scale=0.2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    y = module(box.center).argmax(1)
    first = [m.margins(graph.instance(), box, y) for m in METHODS.values()]
    second = [m.margins(graph.instance(), box, y) for m in METHODS.values()]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("kind", ["deep", "conv", "norm", "residual"])
def test_gradients_of_bounds_equal_finite_differences(kind: str, method: str) -> None:
    module, shape = random_module(kind, 4)
    box = random_box(generator(4), 2, *shape, scale=0.3)
    graph = trace(module, shape)
    y = module(box.center).argmax(1)

    def loss() -> Tensor:
        margins = METHODS[method].margins(graph.instance(), box, y)
        return margins[torch.isfinite(margins)].sum()

    assert_gradients(loss, module)
