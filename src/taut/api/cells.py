"""``taut.cell_accuracy``: the forward-pass check that ABSCERT calls verification."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taut.attacks import evaluating
from taut.errors import ConfigError, ModelError
from taut.models import Cells, cells_of
from taut.region import PIXELS
from taut.verify.inputs import check_images, check_model, placement


def required_cells(model: nn.Module) -> Cells:
    """Return the cells a model begins with, or raise :class:`ModelError`."""
    found = cells_of(model)
    if found is None:
        raise ModelError(
            "the model does not begin with taut.models.Cells, so it has no cells; build it with "
            'cells, for example taut.build_model("dm-small-p2", cells={"n": 9, "emit": "ends"})'
        )
    return found


@torch.no_grad()
def cell_accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 500) -> float:
    r"""Return the share of images whose own cells a network classifies correctly.

    .. math:: \frac1N\,\#\{i : \arg\max f'(\varphi(B(x_i, \varepsilon))) = y_i\}

    where :math:`\varphi` maps every pixel of a ball to the one cell that most of it lies in, the
    upper one where two have as much. For cells of a width d of at least
    :math:`2\varepsilon` that is the cell of the pixel :math:`x_i` itself, whatever eps is. So this
    is the natural accuracy of the network, and 100 % less it is what the paper prints as verified
    error.

    It proves nothing of the other images of the ball. A pixel with an edge of the grid within eps
    can be moved to the next cell, and the network then sees a value that was not looked at;
    :func:`taut.certify` takes all of them into account.

    Parameters
    ----------
    model
        A network that begins with :class:`taut.models.Cells`.
    x
        Images ``(N, *shape)``, floating point, raw pixels of [0, 1].
    y
        Labels ``(N,)``, whole numbers from 0 to K - 1.
    batch_size
        Images at a time.

    Raises
    ------
    ModelError
        When the model has no cells, or the images do not fit it.
    DataError
        When images are not finite or leave [0, 1], or labels do not fit.
    ConfigError
        When ``batch_size`` is below 1.

    References
    ----------
    Zhang et al., *Boosting verified training for robust image classifications via abstraction*
    (2023), Algorithm 1, printed as verification. Its radii are on pixels of [-1, 1] and thus
    twice those of taut.

    Examples
    --------
    >>> import torch, taut
    >>> net = taut.build_model("fc3", (1, 4, 4), 3, cells={"n": 3, "emit": "ends"})
    >>> x = torch.rand(6, 1, 4, 4)
    >>> taut.cell_accuracy(net, x, net(x).argmax(1))
    1.0

    """
    required_cells(model)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1 image; got {batch_size}")
    check_images(x, PIXELS)
    device, dtype = placement(model)
    check_model(model, x[:1].detach().to(device, dtype), y, len(x))
    right = 0
    with evaluating(model):
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            logits = model(x[part].detach().to(device, dtype))
            right += int((logits.argmax(1) == y[part].to(device)).sum())
    return right / len(x)
