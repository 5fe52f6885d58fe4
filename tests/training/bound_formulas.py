"""Bounds written out from their formulas for chains of linear layers and ReLUs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from taut.training import Progress

Layer = tuple[Tensor, Tensor]


def chain(*sizes: int, seed: int = 5, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def batch(count: int = 6, pixels: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.rand(count, pixels, generator=generator, dtype=torch.float64)
    x[0, 0], x[1, 0] = 0.0, 1.0  # so that the clip to [0, 1] matters
    return x, torch.arange(count) % classes


def at(eps: float, eps_max: float | None = None, count: int = 6) -> Progress:
    seeds = torch.arange(count) + 100
    return Progress(step=3, epoch=2, eps=eps, eps_max=eps_max or eps, seeds=seeds)


def ball(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp(min=0), (x + eps).clamp(max=1)


def layers_of(model: nn.Sequential) -> list[Layer]:
    return [(m.weight, m.bias) for m in model if isinstance(m, nn.Linear)]


def through(layer: Layer, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of an affine layer over boxes ``(B, n)``."""
    weight, bias = layer
    positive, negative = weight.clamp(min=0).T, weight.clamp(max=0).T
    return low @ positive + high @ negative + bias, high @ positive + low @ negative + bias


def after_relu(low: Tensor, high: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    crossing = (low < 0) & (high > 0)
    return low.relu(), torch.where(crossing, factor * high, high.relu())


def specification(layer: Layer, label: int) -> Layer:
    """The last layer merged with the rows e_y - e_j, j ascending without y."""
    weight, bias = layer
    others = [j for j in range(len(bias)) if j != label]
    return weight[label] - weight[others], bias[label] - bias[others]


def ibp(
    layers: list[Layer], low: Tensor, high: Tensor, y: Tensor, factor: float = 1.0
) -> list[Tensor]:
    """Elided IBP margins of each image, ``(K - 1,)`` each."""
    for layer in layers[:-1]:
        low, high = after_relu(*through(layer, low, high), factor)
    return [
        through(specification(layers[-1], int(label)), low[i : i + 1], high[i : i + 1])[0][0]
        for i, label in enumerate(y)
    ]


def losses(margins: list[Tensor]) -> Tensor:
    """``log(1 + sum_j exp(-m_j))`` of each image."""
    return torch.stack([torch.log(1 + torch.exp(-m).sum()) for m in margins])


def chord(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and upper intercept of a ReLU's chord, for dead and alive ones the function."""
    slope = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low)))
    return slope, torch.where((low < 0) & (high > 0), -slope * low, 0.0)


def lower_slope(low: Tensor, high: Tensor, kind: str) -> Tensor:
    slope, _ = chord(low, high)
    crossing = (low < 0) & (high > 0)
    if kind == "same-slope":
        return slope
    steep = (high > -low).to(low) if kind == "adaptive" else torch.zeros_like(low)
    return torch.where(crossing, steep, slope)


def substituted(
    layers: list[Layer],
    known: list[tuple[Tensor, Tensor]],
    box: tuple[Tensor, Tensor],
    rows: Tensor,
    kind: str,
) -> Tensor:
    """Lower bounds of rows over the output of the last of ``layers``, for one image.

    ``known`` are the ends of the inputs of the ReLUs between the layers.
    """
    constant = rows.new_zeros(len(rows))
    for index in range(len(layers) - 1, -1, -1):
        weight, bias = layers[index]
        constant = constant + rows @ bias
        rows = rows @ weight
        if index == 0:
            break
        low, high = known[index - 1]
        slope, shift = chord(low, high)
        above, below = rows.clamp(min=0), rows.clamp(max=0)
        constant = constant + below @ shift
        rows = above * lower_slope(low, high, kind) + below * slope
    return constant + rows.clamp(min=0) @ box[0] + rows.clamp(max=0) @ box[1]


def crown(
    layers: list[Layer], box: tuple[Tensor, Tensor], label: int, kind: str, intersect: bool
) -> Tensor:
    """CROWN's margins for one image: every layer by substitution to the input."""
    known: list[tuple[Tensor, Tensor]] = []
    ends = box
    for index, layer in enumerate(layers[:-1]):
        eye = torch.eye(len(layer[1]), dtype=box[0].dtype)
        low = substituted(layers[: index + 1], known, box, eye, kind)
        high = -substituted(layers[: index + 1], known, box, -eye, kind)
        if intersect:
            plain = through(layer, *(end[None] for end in ends))
            low, high = torch.maximum(low, plain[0][0]), torch.minimum(high, plain[1][0])
        known.append((low, high))
        ends = after_relu(low, high)
    last = specification(layers[-1], label)
    eye = torch.eye(len(last[1]), dtype=box[0].dtype)
    return substituted([*layers[:-1], last], known, box, eye, kind)


def lbp(layers: list[Layer], box: tuple[Tensor, Tensor], label: int, kind: str) -> Tensor:
    """LBP's margins for one image, two linear functions of the input a layer."""
    pixels = len(box[0])
    low_a = up_a = torch.eye(pixels, dtype=box[0].dtype)
    low_c = up_c = box[0].new_zeros(pixels)
    for index, layer in enumerate([*layers[:-1], specification(layers[-1], label)]):
        weight, bias = layer
        plus, minus = weight.clamp(min=0), weight.clamp(max=0)
        low_a, up_a = plus @ low_a + minus @ up_a, plus @ up_a + minus @ low_a
        low_c, up_c = plus @ low_c + minus @ up_c + bias, plus @ up_c + minus @ low_c + bias
        low = low_a.clamp(min=0) @ box[0] + low_a.clamp(max=0) @ box[1] + low_c
        high = up_a.clamp(min=0) @ box[1] + up_a.clamp(max=0) @ box[0] + up_c
        if index == len(layers) - 1:
            return low
        slope, shift = chord(low, high)
        flat = lower_slope(low, high, kind)
        low_a, low_c = flat[:, None] * low_a, flat * low_c
        up_a, up_c = slope[:, None] * up_a, slope * up_c + shift
    raise AssertionError("the last layer returns")


def hybrid(layers: list[Layer], box: tuple[Tensor, Tensor], label: int, intersect: bool) -> Tensor:
    """The hybrid zonotope's margins for one image."""
    center, spread = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    terms, radius = torch.diag(spread), torch.zeros_like(center)
    ends = box
    for index, layer in enumerate([*layers[:-1], specification(layers[-1], label)]):
        weight, bias = layer
        center, terms = weight @ center + bias, weight @ terms
        radius = weight.abs() @ radius
        reach = terms.abs().sum(1) + radius
        low, high = center - reach, center + reach
        if index == len(layers) - 1:
            return low
        plain = through(layer, *(end[None] for end in ends))
        ends = after_relu(*(end[0] for end in plain))  # intervals alone, not the zonotope's
        if intersect:
            low, high = torch.maximum(low, plain[0][0]), torch.minimum(high, plain[1][0])
        slope, shift = chord(low, high)
        center, terms = slope * center + shift / 2, slope[:, None] * terms
        radius = slope * radius + shift / 2
    raise AssertionError("the last layer returns")
