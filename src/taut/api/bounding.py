"""``taut.bounds`` and ``taut.margins``: a network over a region, in one call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taut.attacks import evaluating
from taut.bounds import BoundMethod, Bounds, method_named
from taut.errors import ConfigError, ModelError, RegionError
from taut.graph import Network, trace
from taut.property import check_labels
from taut.region import Region


def bounds(
    model: nn.Module,
    region: Region,
    method: str | BoundMethod = "crown-ibp",
    lines: str | None = None,
) -> Bounds:
    r"""Return bounds of every logit over a region, per image.

    .. math:: l_k \le z_k(x') \le u_k \quad\text{for every } x' \in \text{region}

    The model is neither wrapped nor changed. Batch normalisation takes its running statistics
    and dropout does nothing, whatever mode the model is in. Gradients of the bounds reach the
    model's parameters; wrap the call in ``torch.no_grad()`` where they are not needed.

    The bounds are computed in the precision of the model and are sound up to its rounding;
    :func:`taut.certify` is the function that deals with rounding and gives verdicts.

    Parameters
    ----------
    model
        Any sequential or branching module of supported operators, ``(B, *shape)`` to logits
        ``(B, K)``.
    region
        One input set per image, ``(B, *shape)`` in raw pixels; see :meth:`taut.Box.around` and
        :meth:`taut.LpBall.around`.
    method
        A name of ``taut methods``, such as ``"ibp"``, ``"crown-ibp"``, ``"crown-lbp"``,
        ``"crown"`` or ``"alpha-crown"``, or a method object of your own making.
    lines
        Bounding lines of unstable neurons, for the methods that have a choice: ``"tight"``,
        ``"adaptive"``, ``"constant"``, ``"zero"``, ``"one"``, ``"same-slope"``, or ``"best"``
        of the first two (the default).

    Returns
    -------
    Bounds
        ``lower`` and ``upper``, ``(B, K)`` each.

    Raises
    ------
    ModelError
        When the model cannot be traced or does not accept the region's shape;
        :class:`~taut.errors.UnsupportedOperator` names an operation without a rule.
    RegionError
        When the region is empty, not finite, or of another type or device than the model.
    ConfigError
        When the method or its lines are unknown.

    Examples
    --------
    >>> import torch, taut
    >>> net = torch.nn.Linear(2, 2)
    >>> found = taut.bounds(net, taut.Box.around(torch.rand(3, 2), 0.1), "ibp")
    >>> bool((found.lower <= found.upper).all())
    True

    """
    chosen = _method(method, lines)
    return chosen.outputs(_network(model, region), region)


def margins(
    model: nn.Module,
    region: Region,
    y: Tensor,
    method: str | BoundMethod = "crown-ibp",
    lines: str | None = None,
) -> Tensor:
    r"""Return lower bounds of the margins :math:`z_y - z_j` over a region.

    An image keeps its label on its whole box where ``margins.amin(1) > 0``, up to rounding;
    see :func:`bounds` for that and for the other arguments and errors.

    Parameters
    ----------
    model, region, method, lines
        As in :func:`bounds`.
    y
        Labels ``(B,)``, whole numbers from 0 to K - 1.

    Returns
    -------
    Tensor
        Shape ``(B, K)``, +inf in the column of the label.

    Raises
    ------
    DataError
        When labels do not fit.

    """
    chosen = _method(method, lines)
    net = _network(model, region)
    check_labels(y, net.classes, len(region))
    return chosen.margins(net, region, y.long())


def _method(method: str | BoundMethod, lines: str | None) -> BoundMethod:
    if isinstance(method, str):
        return method_named(method, lines)
    if lines is not None:
        raise ConfigError("lines is for methods by name; a method object has its own")
    return method


def _network(model: nn.Module, region: Region) -> Network:
    """Return the traced model, checked against the region."""
    region.check()
    if len(region) == 0:
        raise RegionError("the region holds no image; give at least one")
    place, kind = region.device, region.dtype
    for name, weight in model.named_parameters():
        if weight.device != place or (weight.is_floating_point() and weight.dtype != kind):
            raise RegionError(
                f"the region is {_words(kind, place)} and the model's {name} "
                f"{_words(weight.dtype, weight.device)}; convert one, for example with "
                "region.to(device, dtype)"
            )
    with evaluating(model):
        net = trace(model, tuple(region.shape[1:])).instance()
    if net.classes < 2:
        raise ModelError(f"the model has {net.classes} output; a classifier has at least two")
    return net


def _words(dtype: torch.dtype, device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} on {device}"
