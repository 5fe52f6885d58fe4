"""Branch and bound over sub-problems of many images at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from taut.bounds.optimised import Ascent
from taut.errors import ConfigError
from taut.verify.branch.search import Search
from taut.verify.complete import Answer, Question

Refresh = Literal["never", "inputs", "always"]


@dataclass(frozen=True)
class Branch:
    r"""Split regions until every part is proved or a counterexample turns up.

    Of each image the part with the worst bound comes first. Parts are split

    - at an edge between cells, where the network sees its pixels through a grid; where few
      combinations of cells are left they are all evaluated;
    - in the middle of a pixel, where few pixels move; in small networks thousands of such boxes
      are bounded together (:mod:`taut.verify.branch.tiles`);
    - else at a neuron, where its activation bends; multipliers of the constraint are optimised
      with the lines (beta-CROWN).

    Of the best ``candidates`` by score (:mod:`taut.verify.branch.choose`) that one is taken whose
    worse half has the best quick bound. Margins that are proved on a part are not bounded on
    its own parts again.
    Margins that lie between 0 and the threshold are left to higher precision.

    Where time does not run out the tree depends on the image alone, and so do the answers, but
    for which of several counterexamples is met first; in company a part that is proved may get a
    better bound.
    Source: Wang et al. 2021 (beta-CROWN); Bunel et al. 2020 (scores); De Palma et al. 2021
    (filtered smart branching).

    Parameters
    ----------
    ascent
        Gradient steps on lines and multipliers for the parts.
    root
        Gradient steps for whole regions; parts begin with the lines and multipliers of those
        they come from.
    every
        Whether the bounds of the layers before are optimised too, once for each image.
    facets
        How many pairs of neurons of each layer get constraints (:mod:`taut.bounds.pairs`), chosen
        once for the worst margin of each image that is not split by pixels; the parts keep those
        with the largest multipliers, and none where the bound gains next to nothing. 0 for none.
    clip
        How many neurons of a part that is nearly proved, where neurons are split, are bounded anew
        over the points at which its margin could still fail (:mod:`taut.verify.branch.clip`).
        There bounds count up to just above the threshold. 0 for none.
    candidates
        How many splits of highest score are tried; 1 takes the best score at its word.
    refresh
        Which parts get new CROWN bounds of the layers before: those with smaller inputs
        (``inputs``), ``always``, or ``never``; else what the whole region has is cut and
        propagated.
    pixels
        Images of which at most so many pixels move are split by pixels.
    tiles
        Whether such images are split by nothing else, without optimised lines, where the network
        is small; batches are then as large as the network allows.
    combinations
        How many combinations of cells are evaluated rather than bounded.
    attack_steps
        Gradient steps from the worst corner of each batch; 0 tries corners alone.
    batch_size
        Margins bounded together at most; fewer where memory is short.
    parts
        Sub-problems an image may have; after so many it stays undecided.
    give_up
        How many times more its sub-problems would have to double than the time of an image allows,
        at the pace its bound has risen with, for it to be given up (reason "hopeless"): 5 where it
        would take 32 times as many. Time alone ends the search by default.
    budget
        Bytes for coefficients; a quarter of what is free by default.

    Raises
    ------
    ConfigError
        A value out of range.

    """

    ascent: Ascent = Ascent(iterations=4)  # noqa: RUF009 - frozen
    root: Ascent = Ascent(iterations=20)  # noqa: RUF009 - frozen
    every: bool = True
    facets: int = 256
    clip: int = 256
    candidates: int = 3
    refresh: Refresh = "inputs"
    pixels: int = 20
    tiles: bool = True
    combinations: int = 1024
    attack_steps: int = 10
    batch_size: int = 256
    parts: int = 10**6
    give_up: float = math.inf
    budget: int | None = None

    def __post_init__(self) -> None:
        least = {"candidates": 1, "batch_size": 1, "parts": 1, "combinations": 1}
        least |= {"pixels": 0, "attack_steps": 0, "facets": 0, "clip": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} must be at least {value}; got {getattr(self, name)}")
        if not self.give_up >= 0:
            raise ConfigError(f"give_up must be at least 0 doublings; got {self.give_up}")
        if self.refresh not in get_args(Refresh):
            raise ConfigError(
                f"refresh must be one of {', '.join(get_args(Refresh))}; got {self.refresh!r}"
            )
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"budget must be a positive number of bytes; got {self.budget}")

    def decide(self, question: Question) -> list[Answer]:
        """Return an answer for each image of the question."""
        return Search(self, question).run()
