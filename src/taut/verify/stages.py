"""The stages of the cascade: each looks at the undecided images of one batch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from taut.attacks import image_seeds
from taut.attacks.loop import Attack
from taut.bounds import BoundMethod
from taut.graph import Network, trace
from taut.property import true_margins
from taut.region import Box
from taut.verify.boxes import exact_box, inner_box, outer_box
from taut.verify.complete import Answer, Complete, Question
from taut.verify.precision import finite_margins, float32_limits, margin_rounding, slack
from taut.verify.replay import replay
from taut.verify.verdict import NO_PREDICTION, Evidence


class Images:
    """One batch under certification: what is known of each image so far.

    ``logits`` and ``proved`` are float64 (n, K), or None before the first image was
    evaluated; ``proved`` holds the best lower bound of each margin, +inf in the true column.
    ``doubts`` holds candidates that could not be replayed: later stages may break such an image,
    but a proof beside one does not count.
    """

    def __init__(self, x: Tensor, y: Tensor, indices: list[int]) -> None:
        self.x, self.y, self.indices = x, y, indices
        self.labels: list[int] = y.tolist()
        self.predicted = [NO_PREDICTION] * len(x)
        self.seconds = [0.0] * len(x)
        self.open = list(range(len(x)))
        self.parts = [0] * len(x)
        self.doubts: dict[int, Evidence] = {}
        self.logits: Tensor | None = None
        self.proved: Tensor | None = None

    def see(self, index: Tensor, logits: Tensor) -> None:
        """Take note of the logits of some images."""
        if self.logits is None:
            self.logits = logits.new_full((len(self.x), logits.shape[1]), torch.nan)
            self.proved = torch.full_like(self.logits, -torch.inf)
            self.proved.scatter_(1, self.y[:, None], torch.inf)
        self.logits[index] = logits

    def bound(self, row: int) -> float:
        """Return the largest lower bound proved for the smallest margin of an image."""
        return -math.inf if self.proved is None else float(self.proved[row].amin())


class Stages:
    """What the stages share: the model, its trace, the region and the tools.

    Parameters
    ----------
    model
        In evaluation mode.
    eps
        Radius in pixel units.
    attack
        The search for counterexamples.
    seed
        Of its random starts.
    data_range
        Pixel range; None for an unclipped region.
    methods
        Bounding methods by stage name, in the order of the stages.
    shape
        Shape of one image.
    complete
        Complete verifiers by stage name.
    timeout
        Seconds an image has in all, for the complete verifiers.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float,
        attack: Attack,
        seed: int,
        data_range: tuple[float, float] | None,
        methods: Mapping[str, BoundMethod],
        shape: tuple[int, ...],
        complete: Mapping[str, Complete],
        timeout: float | None,
    ) -> None:
        self.model, self.eps, self.attack, self.seed = model, eps, attack, seed
        self.data_range, self.methods, self.shape = data_range, methods, shape
        self.complete, self.timeout = complete, math.inf if timeout is None else timeout
        self.net = trace(model, shape).instance() if methods or complete else None
        self._double: Network | None = None

    def run(self, stage: str, images: Images, rows: list[int]) -> list[Evidence | None]:
        """Return evidence for each of these images of the batch; None leaves one undecided."""
        index = torch.tensor(rows, device=images.x.device)
        if stage == "clean":
            return self._clean(images, rows, index)
        if stage == "attack":
            return self._search(images, rows, index)
        if stage in self.complete:
            return self._decide(stage, images, rows, index)
        return self._bound(stage, images, index)

    def _clean(self, images: Images, rows: list[int], index: Tensor) -> list[Evidence | None]:
        logits = self.model(images.x[index]).double()
        images.see(index, logits)
        finite = torch.isfinite(logits).all(1).tolist()
        found: list[Evidence | None] = []
        for row, predicted, sane in zip(rows, logits.argmax(1).tolist(), finite, strict=True):
            images.predicted[row] = predicted if sane else NO_PREDICTION
            if not sane:
                found.append(Evidence(reason="nan"))
            elif predicted != images.labels[row]:
                found.append(self._replayed(images, row, images.x[row]))
            else:
                found.append(None)
        return found

    def _search(self, images: Images, rows: list[int], index: Tensor) -> list[Evidence | None]:
        x, y = images.x[index], images.y[index]
        exact = exact_box(x, self.eps, self.data_range)
        inner = inner_box(exact, torch.float32)
        seeds = image_seeds(self.seed, (images.indices[row] for row in rows))
        found = self.attack(self.model, x, y, inner.to(dtype=x.dtype), seeds=seeds)
        points = inner.project(found.point.float())
        return [
            self._replayed(images, row, point) if success else None
            for row, point, success in zip(rows, points, found.success.tolist(), strict=True)
        ]

    def _replayed(self, images: Images, row: int, point: Tensor) -> Evidence:
        x, label = images.x[row], images.labels[row]
        return Evidence(replay=replay(self.model, x, label, self.eps, point, self.data_range))

    def _bound(self, stage: str, images: Images, index: Tensor) -> list[Evidence | None]:
        assert images.proved is not None
        assert images.logits is not None
        assert self.net is not None
        x, y, logits = images.x[index], images.y[index], images.logits[index]
        exact = exact_box(x, self.eps, self.data_range)
        box = outer_box(exact, x.dtype)
        fresh = finite_margins(self.methods[stage], self.net, box, y)
        if x.dtype == torch.float64:
            fresh = fresh - margin_rounding(self.net, box)[:, None]
        proved = torch.maximum(images.proved[index], fresh)
        above = (proved.amin(1) > 0).nonzero()[:, 0]
        if x.dtype == torch.float32 and len(above):
            sizes = proved[above].where(torch.isfinite(proved[above]), 0.0)
            seen = torch.cat([logits[above], sizes], 1).abs().amax(1)
            limits = float32_limits(self.net, box[above], seen)
            doubtful = above[proved[above].amin(1) <= limits]
            if len(doubtful):
                proved[doubtful] = self._in_double(stage, exact[doubtful], y[doubtful])
        return self._noted(images, index, proved)

    def _noted(self, images: Images, index: Tensor, proved: Tensor) -> list[Evidence | None]:
        """Keep margins ``(n, K)`` that can be trusted; return what they are evidence of."""
        assert images.proved is not None
        assert images.logits is not None
        logits = images.logits[index]
        smallest = proved.amin(1)
        most = true_margins(logits, images.y[index]) + slack(logits.abs().amax(1))[:, None]
        impossible = (proved > most).any(1)
        usable = ~smallest.isnan() & ~impossible
        images.proved[index[usable]] = proved[usable]
        return [
            Evidence(reason="nan")
            if math.isnan(bound)
            else Evidence(reason="contradiction")
            if contradicts
            else Evidence(bound=bound)
            if bound > 0
            else None
            for bound, contradicts in zip(smallest.tolist(), impossible.tolist(), strict=True)
        ]

    def _in_double(self, stage: str, box: Box, y: Tensor) -> Tensor:
        """Return what the stages up to this one prove when computed in float64."""
        names = list(self.methods)
        done = names[: names.index(stage) + 1]
        found = [finite_margins(self.methods[name], self._double_net(), box, y) for name in done]
        return torch.stack(found).amax(0) - margin_rounding(self._double_net(), box)[:, None]

    def _double_net(self) -> Network:
        if self._double is None:
            self._double = trace(copy.deepcopy(self.model).double(), self.shape).instance()
        return self._double

    def _decide(
        self, stage: str, images: Images, rows: list[int], index: Tensor
    ) -> list[Evidence | None]:
        """Ask a complete verifier, in float64 again where float32 is too coarse to decide."""
        answers = self._answers(stage, images, rows, index)
        bounds = torch.tensor([answer.bound for answer in answers], dtype=torch.float64)
        assert images.proved is not None
        known = images.proved[index]
        proved = torch.maximum(known, bounds.to(known)[:, None])
        noted = self._noted(images, index, proved)
        found: list[Evidence | None] = []
        for row, answer, evidence in zip(rows, answers, noted, strict=True):
            if answer.point is not None:
                inner = inner_box(
                    exact_box(images.x[row][None], self.eps, self.data_range), torch.float32
                )
                point = inner.project(answer.point[None].to(inner.lower))[0]
                found.append(self._replayed(images, row, point))
            elif evidence is not None and (evidence.reason or not answer.reason):
                found.append(evidence)
            elif answer.reason in ("", "undecided"):
                found.append(None)
            else:
                found.append(Evidence(reason=answer.reason))
        for row, answer in zip(rows, answers, strict=True):
            images.parts[row] += answer.parts
        return found

    def _answers(self, stage: str, images: Images, rows: list[int], index: Tensor) -> list[Answer]:
        """Ask in the precision of the images; in float64 what stays undecided near zero."""
        assert images.proved is not None
        assert images.logits is not None
        assert self.net is not None
        began, x = time.perf_counter(), images.x[index]
        exact = exact_box(x, self.eps, self.data_range)
        inner = inner_box(exact, torch.float32).to(dtype=x.dtype)
        left = [self.timeout - images.seconds[row] for row in rows]
        seeds = image_seeds(self.seed, (images.indices[row] for row in rows)).tolist()
        box = outer_box(exact, x.dtype)
        if x.dtype == torch.float32:
            limit = float32_limits(self.net, box, images.logits[index].abs().amax(1))
        else:
            limit = margin_rounding(self.net, box)
        verifier, proved = self.complete[stage], images.proved[index]
        question = Question(
            self.model, self.net, box, inner, images.y[index], proved, limit, left, seeds
        )
        answers = verifier.decide(question)
        near = [
            at
            for at, answer in enumerate(answers)
            if answer.reason == "undecided" and answer.bound > -limit[at]
        ]
        if near and x.dtype == torch.float32:
            spent = (time.perf_counter() - began) / len(rows)
            here = torch.tensor(near, device=x.device)
            fine = margin_rounding(self._double_net(), exact[here])
            again = Question(
                self.model,
                self._double_net(),
                exact[here],
                inner[here].to(dtype=torch.float64),
                images.y[index[here]],
                _trusted(proved[here], limit[here]),
                fine,
                [left[at] - spent for at in near],
                [seeds[at] for at in near],
            )
            for at, answer, least in zip(near, verifier.decide(again), fine, strict=True):
                both = replace(answer, parts=answer.parts + answers[at].parts)
                answers[at], limit[at] = both, least
        return [
            _believed(answer, most) for answer, most in zip(answers, limit.tolist(), strict=True)
        ]


def _believed(answer: Answer, limit: float) -> Answer:
    """Return an answer whose bound is above zero only where it is a proof."""
    if not answer.reason and answer.bound > limit:
        return answer
    return replace(answer, bound=min(answer.bound, 0.0))


def _trusted(proved: Tensor, limit: Tensor) -> Tensor:
    """Return the float32 bounds ``(n, K)`` above the limit; the others count as unknown."""
    return proved.where(proved.isinf() | (proved > limit[:, None]), -torch.inf)
