"""Projected gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taut.attacks.loop import Attack
from taut.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected signed gradient ascent with restarts.

    Source: Madry et al., *Towards deep learning models resistant to adversarial attacks*, 2018.

    Attributes
    ----------
    steps
        Gradient steps per run; steps + 1 points are checked.
    step
        Length of a step in half widths of the clipped box (eps where it is not clipped), see
        :class:`~taut.attacks.Attack`; None is ``2.5 / steps``, which lets every pixel cross
        the whole box.
    milestones
        The step is divided by ten after each of these numbers of steps.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    steps: int = 40
    step: float | None = None
    milestones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        if self.step is not None:
            check_step(self.step)

    def sizes(self) -> tuple[float, ...]:
        """Return the length of every step, in half widths of the box."""
        size = 2.5 / self.steps if self.step is None else self.step
        return tuple(
            size / 10 ** sum(done >= mark for mark in self.milestones) for done in range(self.steps)
        )


def check_step(step: float) -> None:
    """Raise :class:`ConfigError` when ``step`` is no positive number."""
    if not (math.isfinite(step) and step > 0):
        raise ConfigError(f"step must be positive, in half widths of the box; got {step}")
