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
        inner = self.inner[image]
        points = inner.project(points.to(inner.lower))
        y = self.question.y[image]
        with torch.no_grad():
            found = margin(self.question.module(points), y)
        found = found.nan_to_num(torch.inf)
        broken: dict[int, Tensor] = {}
        leaders = []
        for index in image.unique().tolist():
            here = (image == index).nonzero()[:, 0]
            first = here[found[here].argmin()]
            if float(found[first]) < 0:
                broken[index] = points[first]
            else:
                leaders.append(int(first))
        if leaders and self.steps:
            box = Box(inner.project(box.lower.to(points)), inner.project(box.upper.to(points)))
            broken |= self._followed(image[leaders], points[leaders], box[torch.tensor(leaders)])
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
