"""How far a bound computed in float32 is to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.bounds import BoundMethod, backward, interval
from taut.bounds.methods import outputs_by
from taut.graph import Network
from taut.operators import Affine, Steps
from taut.region import Box, Region

RELATIVE = 1e-4
ABSOLUTE = 1e-5
"""A float32 bound is borderline below ``max(ABSOLUTE, RELATIVE * scale)``."""

_SLACK = 1e-3


def float32_limit(scale: Tensor) -> Tensor:
    """Return up to what a float32 bound is borderline, from the largest numbers in play."""
    return (RELATIVE * scale).clamp(min=ABSOLUTE)


def finite_margins(method: BoundMethod, net: Network, box: Box, y: Tensor) -> Tensor:
    """Return margin bounds as float64 (n, K); a row with NaN or infinity is all NaN."""
    found = method.margins(net, box, y).double()
    if found.shape != (len(y), net.classes):
        raise ValueError(
            f"{method!r} returned margins of shape {tuple(found.shape)} for {len(y)} images and "
            f"{net.classes} classes"
        )
    true = y[:, None]
    sane = torch.isfinite(found.scatter(1, true, 0.0)).all(1)
    return found.scatter(1, true, torch.inf).where(sane[:, None], torch.nan)


def float32_limits(net: Network, box: Box, seen: Tensor) -> Tensor:
    """Return up to what a margin of each image is borderline in float32, ``(n,)``.

    From the largest numbers: those ``seen`` ``(n,)``, those interval bounds let a logit come to,
    and what rounding inside the network may carry to a margin (:func:`rounding`). A number that
    is not finite makes every bound borderline.
    """
    inter = interval.propagate(net, box)
    scale = torch.maximum(seen, _largest(inter).nan_to_num(torch.inf))
    return torch.maximum(float32_limit(scale), 2 * _errors(inter).amax(1))


def largest_output(net: Network, box: Box) -> Tensor:
    """Return the largest number (n,) that interval bounds let a logit come to.

    What cancels in a margin may be larger than the logits of the image itself.
    """
    return _largest(interval.propagate(net, box))


def rounding(net: Network, box: Box) -> Tensor:
    r"""Return how far rounding may carry each output, float64 ``(n, K)``, to first order.

    .. math:: e' = |W|\,e + u\,(|W|\,a + |b|), \qquad u = 4\,\mathrm{eps}

    from layer to layer, with the largest numbers a that interval bounds let each neuron come to
    and the precision of the box. So numbers that cancel inside the network are seen, which the
    outputs do not show. Activations are taken to stretch errors by no more than 1, and sums to
    err by a few last bits. Where a number is not finite the error is infinite.
    """
    return _errors(interval.propagate(net, box))


def margin_rounding(net: Network, box: Box) -> Tensor:
    """Return how far rounding may carry a margin of each image, ``(n,)``; see :func:`rounding`."""
    return 2 * rounding(net, box).amax(1)


def slack(scale: Tensor) -> Tensor:
    """Return by how much a bound may exceed a value of the network itself, for rounding alone.

    ``scale`` holds the largest numbers in play. A bound beyond that is wrong.
    """
    return ABSOLUTE + _SLACK * scale


def _largest(inter: interval.Intermediate) -> Tensor:
    def lower(net: Network, region: Region, rows: Tensor) -> Tensor:
        return backward.lower(net, net.output.index, rows, inter, lines=None)

    found = outputs_by(lower, inter.net, inter.region)
    return torch.maximum(found.lower.abs(), found.upper.abs()).amax(1).double()


@torch.no_grad()
def _errors(inter: interval.Intermediate) -> Tensor:
    unit = 4 * torch.finfo(inter.like.dtype).eps
    most, errors = [], []
    for node in inter.net.nodes:
        found = inter.interval(node.index)
        most.append(found.center.abs() + found.radius)
        operator, inputs = node.operator, node.inputs
        if operator is None or isinstance(operator, Steps):
            errors.append(torch.zeros_like(most[-1]))
        elif isinstance(operator, Affine):
            shift = operator.forward(*(torch.zeros_like(most[i][:1]) for i in inputs)).abs()
            sizes = operator.magnitude(*(most[i] for i in inputs)) + shift
            errors.append(operator.magnitude(*(errors[i] for i in inputs)) + unit * sizes)
        else:
            largest = torch.stack([errors[i].flatten(1).amax(1) for i in inputs]).amax(0)
            same = len(inputs) == 1 and errors[inputs[0]].shape == most[-1].shape
            wide = largest.view(-1, *[1] * (most[-1].dim() - 1))
            errors.append((errors[inputs[0]] if same else wide) + unit * most[-1])
    return errors[-1].double().nan_to_num(torch.inf)
