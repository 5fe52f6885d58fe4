"""Exact minima of small networks by other routes: linear regions one by one, and scipy's milp.

A network is a list of layers: a matrix, a bias, and for each neuron the function
``eta z + (1 - eta) clip(z, low, high)`` (eta 1 leaves it as it is).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor, nn

from taut.bounds import Intermediate, propagate, refine
from taut.graph import Network, trace
from taut.operators.ramp import ParamRamp
from taut.region import Box

Bend = tuple[float, float, float]
IDENTITY: Bend = (1.0, -math.inf, math.inf)
RELU: Bend = (0.0, 0.0, math.inf)


class Layer(NamedTuple):
    matrix: np.ndarray
    bias: np.ndarray
    bends: Sequence[Bend]


class Case(NamedTuple):
    model: nn.Module
    layers: list[Layer]
    shape: tuple[int, ...]


def dense(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple:
    """Matrix and bias of an affine function, by its values at the unit vectors."""
    count = math.prod(shape)
    with torch.no_grad():
        bias = function(torch.zeros(1, *shape).double()).flatten(1)
        found = function(torch.eye(count).double().view(-1, *shape)).flatten(1) - bias
    return found.T.numpy(), bias[0].numpy()


def bend(kind: str, count: int) -> tuple[nn.Module, list[Bend]]:
    """An activation and what it does to ``count`` neurons."""
    if kind == "relu":
        return nn.ReLU(), [RELU] * count
    if kind == "leaky":
        return nn.LeakyReLU(0.2), [(0.2, 0.0, math.inf)] * count
    if kind == "abs":
        return Abs(), [(-1.0, 0.0, math.inf)] * count
    if kind == "clip":
        return nn.Hardtanh(-0.3, 0.4), [(0.0, -0.3, 0.4)] * count
    module = ParamRamp((count,), 0.1).double()
    module.r.data.uniform_(0.1, 0.8)
    return module, [(float(module.eta), 0.0, r) for r in module.r.tolist()]


class Abs(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.abs()


def dense_case(kind: str, seed: int, sizes: Sequence[int] = (4, 5, 4, 3)) -> Case:
    torch.manual_seed(seed)
    layers, modules = [], []
    for before, after in itertools.pairwise(sizes[:-1]):
        linear = nn.Linear(before, after).double()
        linear.weight.data.mul_(2)
        module, bends = bend(kind, after)
        modules += [linear, module]
        layers.append(Layer(*dense(linear, (before,)), bends))
    last = nn.Linear(sizes[-2], sizes[-1]).double()
    layers.append(Layer(*dense(last, (sizes[-2],)), [IDENTITY] * sizes[-1]))
    return Case(nn.Sequential(*modules, last).eval(), layers, (sizes[0],))


def convolution_case(seed: int) -> Case:
    """Convolution, batch normalisation, ReLU, average pooling, leaky ReLU."""
    torch.manual_seed(seed)
    conv, norm = nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2)
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.3, 2)
    tail = nn.Sequential(nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(2, 3))
    model = nn.Sequential(conv, norm, nn.ReLU(), tail, nn.LeakyReLU(0.1), nn.Linear(3, 3))
    model = model.double().eval()
    conv.weight.data.mul_(2)
    layers = [
        Layer(*dense(nn.Sequential(conv, norm), (1, 4, 4)), [RELU] * 8),
        Layer(*dense(tail, (2, 2, 2)), [(0.1, 0.0, math.inf)] * 3),
        Layer(*dense(model[-1], (3,)), [IDENTITY] * 3),
    ]
    return Case(model, layers, (1, 4, 4))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(h + self.second(h)) - 0.5 * h)


def residual_case(seed: int) -> Case:
    torch.manual_seed(seed)
    model = Residual().double().eval()
    for part in (model.first, model.second):
        part.weight.data.mul_(2)

    def middle(h: Tensor) -> Tensor:
        return torch.cat([h + model.second(h), h], 1)

    def last(both: Tensor) -> Tensor:
        return model.last(both[:, :4] - 0.5 * both[:, 4:])

    layers = [
        Layer(*dense(model.first, (4,)), [RELU] * 4),
        Layer(*dense(middle, (4,)), [RELU] * 4 + [IDENTITY] * 4),
        Layer(*dense(last, (8,)), [IDENTITY] * 3),
    ]
    return Case(model, layers, (4,))


def pooling_case(seed: int) -> Case:
    """A convolution, max pooling of pairs of columns and rows, a linear layer.

    The maximum of four is taken in two steps, ``max(a, b) = b + relu(a - b)``.
    """
    torch.manual_seed(seed)
    conv, last = nn.Conv2d(1, 2, 2), nn.Linear(2, 3)
    model = nn.Sequential(conv, nn.MaxPool2d(2), nn.Flatten(), last).double().eval()
    conv.weight.data.mul_(2)

    def pairs(x: Tensor) -> Tensor:
        z = conv(x)
        left, right = z[..., 0], z[..., 1]
        return torch.cat([left - right, right], 1)

    def quads(both: Tensor) -> Tensor:
        z = both[:, :2] + both[:, 2:]
        return torch.cat([z[..., 0] - z[..., 1], z[..., 1]], 1)

    def end(both: Tensor) -> Tensor:
        return last(both[:, :2] + both[:, 2:])

    layers = [
        Layer(*dense(pairs, (1, 3, 3)), [RELU] * 4 + [IDENTITY] * 4),
        Layer(*dense(quads, (4, 2)), [RELU] * 2 + [IDENTITY] * 2),
        Layer(*dense(end, (4,)), [IDENTITY] * 3),
    ]
    return Case(model, layers, (1, 3, 3))


def case(kind: str, seed: int) -> Case:
    """A random network of a kind with its layers."""
    special = {"conv": convolution_case, "residual": residual_case, "pool": pooling_case}
    return special[kind](seed) if kind in special else dense_case(kind, seed)


KINDS = ("relu", "leaky", "ramp", "clip", "abs", "conv", "residual", "pool")


def minimum_by_milp(layers: Sequence[Layer], row: np.ndarray, box: Box) -> float:
    """The least value by a big-M program: each clip is relu(z - low) - relu(z - high) + low."""
    low, up = (end[0].flatten().double().numpy() for end in (box.lower, box.upper))
    lower, upper, whole, rows = list(low), list(up), [0] * len(low), []
    # Each neuron is a form over the variables: coefficients by variable, and a constant.
    forms = [({i: 1.0}, 0.0) for i in range(len(low))]

    def form(weights: np.ndarray, shift: float) -> tuple[dict[int, float], float]:
        total: dict[int, float] = {}
        for weight, (terms, constant) in zip(weights, forms, strict=True):
            shift += weight * constant
            for index, entry in terms.items():
                total[index] = total.get(index, 0.0) + weight * entry
        return total, float(shift)

    def relu(z: tuple[dict[int, float], float], knee: float) -> dict[int, float]:
        reach = [
            sum(a * (lower, upper)[int((a > 0) == s)][i] for i, a in z[0].items()) for s in (0, 1)
        ]
        big = max(abs(z[1] + r - knee) for r in reach) + 1.0
        value, choice = len(lower), len(lower) + 1
        lower.extend([0.0, 0.0])
        upper.extend([big, 1.0])
        whole.extend([0, 1])
        negative = {i: -a for i, a in z[0].items()}
        rows.append(({**negative, value: 1.0}, z[1] - knee, math.inf))
        rows.append(({**negative, value: 1.0, choice: big}, -math.inf, z[1] - knee + big))
        rows.append(({value: 1.0, choice: -big}, -math.inf, 0.0))
        return {value: 1.0}

    for layer in layers:
        after = []
        for weights, shift, (eta, left, right) in zip(*layer, strict=True):
            terms, constant = form(weights, shift)
            if eta == 1.0:
                after.append((terms, constant))
                continue
            found = {i: eta * a for i, a in terms.items()}
            for knee, sign in ((left, 1 - eta), (right, eta - 1)):
                if math.isfinite(knee):
                    found.update({i: sign * a for i, a in relu((terms, constant), knee).items()})
            after.append((found, eta * constant + (1 - eta) * left))
        forms = after
    terms, constant = form(row, 0.0)
    cost = np.zeros(len(lower))
    cost[list(terms)] = list(terms.values())
    matrix = np.zeros((len(rows), len(lower)))
    for place, (entries, _, _) in enumerate(rows):
        matrix[place, list(entries)] = list(entries.values())
    sides = [np.array(side) for side in list(zip(*rows, strict=True))[1:]]
    found = milp(
        cost,
        integrality=whole,
        bounds=Bounds(lower, upper),
        constraints=LinearConstraint(matrix, *sides),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0
    return float(found.fun) + constant


def minimum_by_regions(layers: Sequence[Layer], row: np.ndarray, box: Box) -> float:
    """The least value over all linear regions, each a linear program of its own."""
    ends = np.stack([end[0].flatten().double().numpy() for end in (box.lower, box.upper)], 1)
    best = math.inf

    def least(cost: np.ndarray, rows: list[np.ndarray], sides: list[float]) -> float | None:
        limits = {"A_ub": np.array(rows), "b_ub": np.array(sides)} if rows else {}
        found = linprog(cost, bounds=ends, **limits)
        return float(found.fun) if found.status == 0 else None

    def walk(depth: int, neuron: int, matrix, shift, done, rows, sides) -> None:
        nonlocal best
        layer = layers[depth]
        if neuron == len(layer.bends):
            forms = np.array([f for f, _ in done]), np.array([c for _, c in done])
            if depth + 1 < len(layers):
                after = layers[depth + 1]
                pre = after.matrix @ forms[0], after.matrix @ forms[1] + after.bias
                walk(depth + 1, 0, *pre, [], rows, sides)
                return
            found = least(row @ forms[0], rows, sides)
            if found is not None:
                best = min(best, found + float(row @ forms[1]))
            return
        form, constant = matrix[neuron], shift[neuron]
        eta, left, right = layer.bends[neuron]
        pieces = [(-math.inf, math.inf, 1.0, 0.0)]
        if eta != 1.0:
            pieces = [
                (-math.inf, left, eta, (1 - eta) * left),
                (left, right, 1.0, 0.0),
                (right, math.inf, eta, (1 - eta) * right),
            ]
        for start, stop, slope, offset in pieces:
            if start == stop:
                continue
            more = [(-form, constant - start), (form, stop - constant)]
            kept = [(f, s) for f, s in more if math.isfinite(s)]
            if any(s == -math.inf for _, s in more):
                continue
            now_rows, now_sides = rows + [f for f, _ in kept], sides + [s for _, s in kept]
            if kept and least(np.zeros(len(ends)), now_rows, now_sides) is None:
                continue
            piece = (slope * form, slope * constant + offset)
            walk(depth, neuron + 1, matrix, shift, [*done, piece], now_rows, now_sides)

    walk(0, 0, layers[0].matrix, layers[0].bias, [], [], [])
    return best


def known(model: nn.Module, box: Box) -> tuple[Network, Intermediate]:
    """The network of a model and CROWN's bounds of every node."""
    net = trace(model, tuple(box.shape[1:])).instance().detached()
    return net, refine(propagate(net, box), ("adaptive", "tight"))
