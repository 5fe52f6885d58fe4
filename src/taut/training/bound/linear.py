"""The linear bounds of the bounding grid, trained with: LBP, CROWN-LBP, CROWN, zonotopes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from taut.bounds import Backward, BoundMethod, Intermediate
from taut.bounds import Zonotope as ZonotopeMethod
from taut.graph import Network
from taut.region import Box
from taut.training.bound.blend import Blend

Lines = Literal["tight", "adaptive", "same-slope", "constant", "zero", "one", "best"]
"""Families of bounding lines, see :data:`taut.operators.forms.LINES`; ``best`` tries two."""


@dataclass(frozen=True)
class GridBound(Blend):
    r"""A point of the bounding grid, mixed with IBP as in CROWN-IBP.

    .. math:: l = (1-\beta)\, l_\text{IBP} + \beta\, l, \qquad
              \beta = \beta_0 + (\beta_1 - \beta_0)\, \varepsilon/\varepsilon_{\max}

    Gradients flow through the bounds of the layers before, which place the lines. All that the
    forward or backward walks make is kept for them, so that batches have to be small.

    Parameters
    ----------
    beta_start, beta_end
        Weight of the bound at eps 0 and at full eps, in [0, 1]; the rest is IBP's.
    intersect
        Whether the bounds of the layers before are never worse than intervals. Without, they are
        as published, and every neuron is bounded.

    """

    intersect: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.method()  # checks the fields

    @abstractmethod
    def method(self) -> BoundMethod:
        """Return the method of the bounding grid."""

    def margins(self, network: Network, box: Box, known: Intermediate, y: Tensor) -> Tensor:
        """Return the method's margins."""
        return self.method().margins(network, box, y)


@dataclass(frozen=True)
class LBP(GridBound):
    """LBP: two linear functions of the input carried forward around every node.

    Parameters
    ----------
    beta_start, beta_end, intersect
        See :class:`GridBound`.
    lines
        Bounding lines; with ``tight``, the paper's, LBP is never looser than IBP.

    References
    ----------
    Lyu et al., *Towards evaluating and training verifiably robust neural networks* (2021), Sec. 3.

    """

    lines: Lines = "tight"

    @property
    def dear(self) -> tuple[str, ...]:
        """LBP."""
        return ("lbp",)

    def method(self) -> BoundMethod:
        """Return LBP with the lines chosen."""
        return Backward("lbp", self.lines, depth=1, intersect=self.intersect)


@dataclass(frozen=True)
class CrownLBP(GridBound):
    """CROWN-LBP: one backward pass over LBP's bounds of the layers before.

    Parameters
    ----------
    beta_start, beta_end, intersect
        See :class:`GridBound`.
    lines
        Bounding lines; with ``tight``, the paper's, it is never looser than LBP and CROWN-IBP.

    References
    ----------
    Lyu et al., *Towards evaluating and training verifiably robust neural networks* (2021), Sec. 3.

    """

    lines: Lines = "tight"

    @property
    def dear(self) -> tuple[str, ...]:
        """CROWN-IBP, which is cheaper, and CROWN-LBP."""
        return ("crown-ibp", "crown-lbp")

    def method(self) -> BoundMethod:
        """Return CROWN-LBP with the lines chosen."""
        return Backward("lbp", self.lines, intersect=self.intersect)


@dataclass(frozen=True)
class CROWN(GridBound):
    """CROWN: substitution to the input from the logits and from every layer before.

    With ``same-slope`` lines, and without ``intersect``, it is the bound of the convex outer
    adversarial polytope's dual network (Fast-Lin); with ``adaptive`` lines DeepPoly.

    Parameters
    ----------
    beta_start, beta_end, intersect
        See :class:`GridBound`.
    lines
        Bounding lines.

    References
    ----------
    Zhang et al., *Efficient neural network robustness certification with general activation
    functions* (2018); Wong and Kolter, *Provable defenses against adversarial examples via the
    convex outer adversarial polytope* (2018), Theorem 1.

    """

    lines: Lines = "adaptive"

    @property
    def dear(self) -> tuple[str, ...]:
        """CROWN-IBP, which is cheaper, and CROWN."""
        return ("crown-ibp", "crown")

    def method(self) -> BoundMethod:
        """Return CROWN with the lines chosen."""
        return Backward("crown", self.lines, intersect=self.intersect)


@dataclass(frozen=True)
class Zonotope(GridBound):
    """Zonotopes carried forward, plain (DeepZ) or hybrid.

    Parameters
    ----------
    beta_start, beta_end, intersect
        See :class:`GridBound`.
    hybrid
        Whether new errors go into a box (DiffAI's hybrid zonotope) instead of generators of their
        own, one for each unstable neuron.

    References
    ----------
    Mirman et al., *Differentiable abstract interpretation for provably robust neural networks*
    (2018), Sec. 4; Singh et al., *Fast and effective robustness certification* (2018).

    """

    hybrid: bool = True

    @property
    def dear(self) -> tuple[str, ...]:
        """The zonotope that is trained with."""
        return ("hybrid-zonotope",) if self.hybrid else ("deepz",)

    def method(self) -> BoundMethod:
        """Return the zonotope."""
        return ZonotopeMethod(hybrid=self.hybrid, intersect=self.intersect)
