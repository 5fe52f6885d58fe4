"""The fast gradient sign method: one step."""

from __future__ import annotations

from dataclasses import dataclass

from taut.attacks.loop import Attack
from taut.attacks.pgd import check_step


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step along the sign of the gradient.

    Source: Goodfellow et al., *Explaining and harnessing adversarial examples*, 2015; with the
    random start and the step of Wong et al., *Fast is better than free*, 2020.

    Attributes
    ----------
    step
        Length of the step in half widths of the clipped box, see
        :class:`~taut.attacks.Attack`; None is 1.25 from a random start, and 2 from the image,
        which reaches a corner of the box from anywhere.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None:
            check_step(self.step)

    def sizes(self) -> tuple[float, ...]:
        """Return the length of the one step, in half widths of the box."""
        if self.step is not None:
            return (self.step,)
        return (1.25 if self.random_start else 2.0,)
