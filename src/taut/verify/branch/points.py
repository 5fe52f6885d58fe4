"""Counterexamples on the way: the corners that bounds point at, and a few steps from the worst."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.attacks import PGD
from taut.attacks.losses import margin
from taut.region import Box
from taut.verify.complete import Question


class Prober:
    """Tries points on the module itself."""

    def __init__(self, question: Question, steps: int) -> None:
        self.question, self.steps = question, steps
        weight = next(question.module.parameters(), question.inner.lower)
        self.inner = question.inner.to(weight.device, weight.dtype)

    def __call__(self, image: Tensor, points: Tensor, box: Box) -> dict[int, Tensor]:
        """Return a misclassified point for each image that has one among ``points (M, *shape)``.

        From the point of least margin of each image a short attack goes on in its ``box``.
        """
        points, found = self.tried(image, points)
        return self.broken(image, points, found, box, leaders=1)

    def tried(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return points moved into the inner boxes of their images, and their margins ``(M,)``."""
        points = self.inner[image].project(points.to(self.inner.lower))
        with torch.no_grad():
            found = margin(self.question.module(points), self.question.y[image])
        return points, found.nan_to_num(torch.inf)

    def broken(
        self, image: Tensor, points: Tensor, found: Tensor, box: Box, *, leaders: int
    ) -> dict[int, Tensor]:
        """Return a misclassified point for each image that has one, by points that were tried.

        Where there is none a short attack goes on from so many points of least margin of each
        image, each in its own ``box``.
        """
        broken: dict[int, Tensor] = {}
        follow: list[int] = []
        for index in image.unique().tolist():
            here = (image == index).nonzero()[:, 0]
            order = here[found[here].argsort(stable=True)][: max(1, leaders)]
            if float(found[order[0]]) < 0:
                broken[index] = points[order[0]]
            else:
                follow += order[:leaders].tolist()
        if follow and self.steps:
            chosen = torch.tensor(follow, device=image.device)
            inner = self.inner[image]
            box = Box(inner.project(box.lower.to(points)), inner.project(box.upper.to(points)))
            broken |= self._followed(image[chosen], points[chosen], box[chosen])
        return broken

    def _followed(self, image: Tensor, points: Tensor, box: Box) -> dict[int, Tensor]:
        attack = PGD(
            steps=self.steps,
            milestones=(self.steps // 2, 3 * self.steps // 4),
            loss="margin",
            targets=1,
            random_start=False,
        )
        found = attack(self.question.module, points, self.question.y[image], box)
        return {
            index: point
            for index, point, success in zip(
                image.tolist(), found.point, found.success.tolist(), strict=True
            )
            if success
        }
