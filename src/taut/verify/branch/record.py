"""What is known of each image while its parts come and go, and the answers in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from taut.verify.complete import Answer, Question

_PATIENCE = 64  # sub-problems that a bound between zero and the threshold gets in any case
_DOUBLINGS = 4  # of an image's sub-problems, before its pace is judged


class Closing(Protocol):
    """Some sub-problems of any kind."""

    @property
    def image(self) -> Tensor:
        """Whose region each is a part of, int64 ``(N,)``."""

    @property
    def proved(self) -> Tensor:
        """Lower bounds of its margins, ``(N, K)``."""


class Record:
    """The books of a run.

    Every part ends up closed: proved, given up, or of an image that is decided or out of time.
    So the least bound of the closed parts holds on the whole region.
    """

    def __init__(self, question: Question, most: int, give_up: float) -> None:
        self.question, self.most, self.give_up = question, most, give_up
        self.closed = torch.full_like(question.proved, torch.inf)
        self.points: dict[int, Tensor] = {}
        self.reasons: dict[int, str] = {}
        self.settled = set[int]()
        self.counts = [0] * len(question.y)
        self.spent = [0.0] * len(question.y)
        self._near: dict[int, int] = {}
        self._risen: dict[int, list[tuple[int, float]]] = {}

    def going(self) -> list[int]:
        """Return the images that are neither settled, nor broken, nor stopped."""
        return [image for image in range(len(self.counts)) if self.is_open(image)]

    def is_open(self, image: int) -> bool:
        """Whether an image is neither settled, nor broken, nor stopped."""
        return not (image in self.settled or image in self.points or image in self.reasons)

    def close(self, parts: Closing) -> None:
        """Take note of parts that will not be split again."""
        index = parts.image[:, None].expand_as(parts.proved)
        self.closed.scatter_reduce_(0, index, parts.proved, "amin")

    def settle(self, images: Iterable[int]) -> None:
        """Take note of images no part of which is open."""
        self.settled.update(images)

    def broken(self, points: Mapping[int, Tensor]) -> None:
        """Take note of counterexamples."""
        self.points.update(points)

    def stop(self, image: int, reason: str) -> None:
        """Give an image up."""
        self.reasons.setdefault(image, reason)

    def count(self, images: Iterable[int]) -> None:
        """Count a sub-problem of each of these images."""
        for image, more in Counter(images).items():
            self.counts[image] += more

    def spend(self, images: list[int], seconds: float) -> None:
        """Share out the time of a batch among the images of its parts."""
        for image in images:
            self.spent[image] += seconds / len(images)

    def left(self, image: int) -> float:
        """Return the seconds an image has left."""
        return self.question.seconds[image] - self.spent[image]

    def expire(self) -> None:
        """Stop the images whose time or number of parts is used up."""
        for image in self.going():
            if self.left(image) <= 0:
                self.stop(image, "timeout")
            elif self.counts[image] >= self.most:
                self.stop(image, "undecided")

    def near(self, images: Iterable[int]) -> None:
        """Take note of images whose open parts all have bounds above zero, not above the threshold.

        They get as many more sub-problems as they have had, then higher precision has to decide:
        the least margin itself may lie below the threshold.
        """
        for image in images:
            first = self._near.setdefault(image, self.counts[image])
            if self.counts[image] > 2 * first + _PATIENCE:
                self.stop(image, "undecided")

    def rise(self, bounds: list[float]) -> None:
        """Take note of the least bound of each image's open parts; give up where that is hopeless.

        The bound rises about as the logarithm of the number of parts. With the pace of the last
        two doublings, one that lacks more doublings than the time left allows, and ``give_up``
        more, is not waited for.
        """
        for image in self.going() if self.give_up < math.inf else ():
            risen = self._risen.setdefault(image, [])
            count, bound = max(1, self.counts[image]), bounds[image]
            if not math.isfinite(bound) or (risen and count < 2 * risen[-1][0]):
                continue
            risen.append((count, bound))
            if len(risen) < _DOUBLINGS:
                continue
            first, before = risen[-3]
            pace = max(0.0, bound - before) / math.log2(count / first)
            lacking = float(self.question.threshold[image]) - bound
            more = max(0.0, self.left(image)) / max(self.spent[image], 1e-9)
            affordable = math.log2(1 + more)
            if lacking > pace * (affordable + self.give_up):
                self.stop(image, "hopeless")

    def answers(self) -> list[Answer]:
        """Return the answers, all parts being closed."""
        bounds = torch.maximum(self.closed.amin(1), self.question.proved.amin(1))
        bounds = bounds.where(bounds.isfinite(), -torch.inf)
        threshold = self.question.threshold.tolist()
        found = []
        for image, bound in enumerate(bounds.tolist()):
            point, reason = self.points.get(image), self.reasons.get(image, "undecided")
            if point is not None or bound > threshold[image]:
                reason = ""
            found.append(Answer(bound, point, reason, self.counts[image]))
        return found
