"""auto_LiRPA beside taut: the same bounds from both, where both are installed.

auto_LiRPA is no requirement of taut. Benchmarks print its figures where it can be imported and
leave them out where it cannot.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taut.property import margin_rows, pad_true_class
from taut.region import Box

HOWTO = (
    "auto_LiRPA is not installed; get it with: pip install --no-deps appdirs packaging tqdm "
    "graphviz git+https://github.com/Verified-Intelligence/auto_LiRPA"
)

NAME = "auto_LiRPA"

LINES = {"adaptive": "adaptive", "zero": "zero-lb", "one": "one-lb", "same-slope": "same-slope"}
"""Its names for taut's line families; it has no others for ReLU."""

METHODS = {
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "CROWN-Optimized",
}

AS_PUBLISHED: dict[str, Any] = {"sparse_intermediate_bounds": False}
"""Options with which it bounds every neuron by substitution and takes what it finds."""

INTERSECTED: dict[str, Any] = {"compare_crown_with_ibp": True, "minimum_sparsity": 1.0}
"""Options with which it bounds unstable neurons only and never worse than by intervals.

Which neurons are unstable is decided for a batch as a whole: to compare, give it one image.
"""


def installed() -> bool:
    return importlib.util.find_spec(NAME) is not None


def version() -> str:
    return f"{NAME} {_library().__version__}"


def _library() -> Any:
    """Import it; it is no requirement, so type checkers do not know it."""
    with _calling(torch.get_default_dtype()):
        return importlib.import_module(NAME)


class Peer:
    """A network that auto_LiRPA bounds.

    Parameters
    ----------
    net
        The network, in evaluation mode; it is not changed.
    shape
        Shape of one image.
    batch
        Images of every call.
    lines
        A key of :data:`LINES`.
    options
        Further ``bound_opts``, such as :data:`AS_PUBLISHED`.

    """

    def __init__(
        self,
        net: nn.Module,
        shape: Sequence[int],
        batch: int,
        *,
        lines: str = "adaptive",
        options: dict[str, Any] | None = None,
    ) -> None:
        dtype = next(net.parameters()).dtype
        chosen = {"activation_bound_option": LINES[lines], **(options or {})}
        library = _library()
        with _calling(dtype):
            self.module = library.BoundedModule(
                net, torch.zeros(batch, *shape, dtype=dtype), bound_opts=chosen, device="cpu"
            )

    def margins(self, box: Box, y: Tensor, classes: int, method: str) -> Tensor:
        """Return margin lower bounds ``(B, K)``, +inf at the true class, last layer merged."""
        rows = margin_rows(y, classes, box.lower)
        with _calling(box.lower.dtype):
            lower, _ = self.module.compute_bounds(
                x=(_bounded(box),), C=rows, method=METHODS[method], bound_upper=False
            )
        return pad_true_class(lower.detach(), y)

    def timed(self, box: Box, y: Tensor, classes: int, method: str) -> Callable[[], Tensor]:
        """Return :meth:`margins` as a function with nothing around its own call, for timing.

        alpha-CROWN gets gradients, without which it would leave its lines as they are.
        """
        rows, region = margin_rows(y, classes, box.lower), _bounded(box)

        def call() -> Tensor:
            with torch.set_grad_enabled(method == "alpha-crown"):
                found: Tensor = self.module.compute_bounds(
                    x=(region,), C=rows, method=METHODS[method], bound_upper=False
                )[0]
            return found.detach()

        return call

    def outputs(self, box: Box, method: str) -> tuple[Tensor, Tensor]:
        """Return both bounds of the logits, ``(B, K)`` each."""
        with _calling(box.lower.dtype):
            lower, upper = self.module.compute_bounds(x=(_bounded(box),), method=METHODS[method])
        return lower.detach(), upper.detach()


@contextmanager
def _calling(dtype: torch.dtype) -> Iterator[None]:
    """Silence its warnings, and make ``dtype`` the default: some of its identities have that."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings(record=True):  # it sets filters of its own
            yield
    finally:
        torch.set_default_dtype(usual)


def _bounded(box: Box) -> Any:
    library = _library()
    ball = library.PerturbationLpNorm(x_L=box.lower, x_U=box.upper)
    return library.BoundedTensor((box.lower + box.upper) / 2, ball)
