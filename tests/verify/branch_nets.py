"""Tiny networks, their exact least margins, and questions about them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from taut.bounds import METHODS
from taut.graph import trace
from taut.operators.ramp import ParamRamp
from taut.region import Box
from taut.verify.complete import Answer, Question

WIDTH, CLASSES = 5, 3
ACTIVATIONS = ("relu", "leaky", "ramp")


def dense(activation: str, seed: int, inputs: int = 3, scale: float = 3.0) -> nn.Sequential:
    """Two hidden layers, float64; weights large enough that most neurons bend."""
    make = {
        "relu": nn.ReLU,
        "leaky": lambda: nn.LeakyReLU(0.2),
        "ramp": lambda: ParamRamp((WIDTH,), r=0.6, eta=0.1),
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
    }[activation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(inputs, WIDTH), make(), nn.Linear(WIDTH, WIDTH), make(),
            nn.Linear(WIDTH, CLASSES),
        )  # fmt: skip
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(scale)
    return net.double().eval().requires_grad_(False)


def _hinges(activation: nn.Module) -> tuple[float, list[tuple[float, float]]]:
    """Return s and (c, k) such that the activation is s z + the sum of c relu(z - k)."""
    if isinstance(activation, nn.ReLU):
        return 0.0, [(1.0, 0.0)]
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope, [(1 - activation.negative_slope, 0.0)]
    assert isinstance(activation, ParamRamp)
    eta, r = float(activation.eta), float(activation.r.flatten()[0])
    return eta, [(1 - eta, 0.0), (eta - 1, r)]


def exact_minimum(net: nn.Sequential, box: Box, y: int, other: int) -> float:
    """Minimise z_y - z_other over one box by a mixed-integer program, written out."""
    low, high = box.lower[0].numpy(), box.upper[0].numpy()
    lower, upper, integer = list(low), list(high), [0] * len(low)
    rows: list[tuple[dict[int, float], float, float]] = []  # coefficients, low, high

    def variable(least: float, most: float, whole: int = 0) -> int:
        lower.append(least)
        upper.append(most)
        integer.append(whole)
        return len(lower) - 1

    here = list(range(len(low)))
    for place, layer in enumerate(net):
        if not isinstance(layer, nn.Linear):
            continue
        w, b = layer.weight.numpy(), layer.bias.numpy()
        center, radius = (low + high) / 2, (high - low) / 2
        low, high = w @ center + b - abs(w) @ radius, w @ center + b + abs(w) @ radius
        after = []
        for i, (l, u) in enumerate(zip(low, high, strict=True)):  # noqa: E741
            z = variable(l, u)
            rows.append(({**dict(zip(here, -w[i], strict=True)), z: 1.0}, b[i], b[i]))
            after.append(z)
        here = after
        if place + 1 == len(net):
            break
        made, (slope, hinges) = [], _hinges(net[place + 1])
        for z, l, u in zip(here, low, high, strict=True):  # noqa: E741
            total: dict[int, float] = {z: slope}
            for c, k in hinges:
                h, d = variable(0.0, max(u - k, 0.0)), variable(0, 1, 1)
                most, least = max(u - k, 0.0), min(l - k, 0.0)
                rows.append(({h: 1.0, z: -1.0}, -k, math.inf))  # h >= z - k
                rows.append(({h: 1.0, d: -most}, -math.inf, 0.0))  # h <= (u - k) d
                rows.append(({h: 1.0, z: -1.0, d: -least}, -math.inf, -k - least))
                total[h] = c
            a = variable(-math.inf, math.inf)
            rows.append(({a: 1.0, **{v: -c for v, c in total.items()}}, 0.0, 0.0))
            made.append(a)
        here = made
        with torch.no_grad():
            low, high = (net[place + 1](torch.tensor(end)).numpy() for end in (low, high))
    matrix = np.zeros((len(rows), len(lower)))
    for at, (entries, _, _) in enumerate(rows):
        matrix[at, list(entries)] = list(entries.values())
    cost = np.zeros(len(lower))
    cost[here[y]], cost[here[other]] = 1.0, -1.0
    found = milp(
        cost,
        integrality=np.array(integer),
        bounds=Bounds(np.array(lower), np.array(upper)),
        constraints=LinearConstraint(
            matrix, np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
        ),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0
    return float(found.fun)


def worst_margin(net: nn.Sequential, box: Box, y: int) -> float:
    """The exact least margin over one box."""
    return min(exact_minimum(net, box, y, other) for other in range(CLASSES) if other != y)


def shifted(net: nn.Sequential, y: int, by: float) -> nn.Sequential:
    """Lower the logit of one class, and so all its margins."""
    net[-1].bias.data[y] -= by
    return net


def question(net: nn.Module, box: Box, y: Tensor, **fields: object) -> Question:
    """Ask about all margins, without limits."""
    operators = trace(net, tuple(box.shape[1:])).instance()
    proved = torch.full((len(y), operators.classes), -math.inf, dtype=torch.float64)
    asked = Question(
        net, operators, box, box, y, proved.scatter(1, y[:, None], math.inf),
        torch.zeros(len(y), dtype=torch.float64), [math.inf] * len(y), list(range(len(y))),
    )  # fmt: skip
    return replace(asked, **fields)  # type: ignore[arg-type]


def case(activation: str, seed: int, sign: float, inputs: int = 3) -> tuple[Question, float]:
    """A network and box whose least margin is ``sign`` times 0.02 of its spread."""
    net = dense(activation, seed, inputs)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, inputs, generator=generator, dtype=torch.float64)
    box, y = Box.around(x, 0.3), net(x).argmax(1)
    least = worst_margin(net, box, int(y))
    crown = float(METHODS["crown"].margins(trace(net, (inputs,)).instance(), box, y).amin())
    gap = 0.1 * max(0.1, least - crown)
    return question(shifted(net, int(y), least - sign * gap), box, y), sign * gap


def status(answer: Answer) -> str:
    """What an answer says: ``falsified``, ``verified`` or its reason."""
    return "falsified" if answer.point is not None else answer.reason or "verified"


def margin_at(asked: Question, image: int, point: Tensor) -> float:
    """The least margin at a point, which has to lie in the image's inner box."""
    assert bool(asked.inner[image : image + 1].contains(point[None]).all())
    logits = asked.module(point[None])[0]
    y = int(asked.y[image])
    return min(float(logits[y] - logits[j]) for j in range(len(logits)) if j != y)
