"""How far a bound computed in float32 is to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.bounds import IBP, BoundMethod
from taut.graph import Network
from taut.region import Box

RELATIVE = 1e-4
ABSOLUTE = 1e-5
"""A float32 bound is borderline below ``max(ABSOLUTE, RELATIVE * scale)``."""


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


def largest_output(net: Network, box: Box) -> Tensor:
    """Return the largest number (n,) that interval bounds let a logit come to.

    What cancels in a margin may be larger than the logits of the image itself.
    """
    found = IBP().outputs(net, box)
    return torch.maximum(found.lower.abs(), found.upper.abs()).amax(1).double()
