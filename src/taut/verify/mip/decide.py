"""Margins decided by mixed-integer programs (MIP), or bounded by linear ones (LP)."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.bounds import Intermediate, backward, propagate, refine
from taut.errors import ConfigError, out_of_memory
from taut.graph import Network, trace
from taut.property import true_margins
from taut.verify.complete import Answer, Question
from taut.verify.mip.encode import Encoding
from taut.verify.mip.solve import Solution, Solver, solver_named
from taut.verify.mip.tighten import tightened

_CROWN = ("adaptive", "tight")


@dataclass(frozen=True)
class MIP:
    r"""Minimise :math:`z_y - z_j` over the box by a mixed-integer program, class by class.

    Complete for networks of affine operators, functions of straight pieces, maxima and cells; an
    activation that curves keeps between its lines, and what they leave open is "undecided". The
    linear program comes first, and what it proves needs no search. All is computed in float64,
    whatever the precision of the question, and a bound counts with the solver's tolerances taken
    off (:data:`taut.verify.mip.solve.TOLERANCE`). A solution's image counts where the model
    itself misclassifies it.

    Parameters
    ----------
    solver
        ``highs``, or ``scip`` or ``gurobi`` where their packages are installed.
    relax
        Whether to leave the integers out: the linear program (LP) of Ehlers 2017.
    tighten
        How neurons that bend on CROWN's bounds are bounded first, layer by layer: ``none``,
        ``lp`` or ``mip``.
    share
        Of an image's time that tightening may take, in (0, 1]; 60 seconds count as the time of
        an image without limit.
    protocol
        What a program that ran out of time is worth. ``dual``: what its search had proved by
        then. ``gm-protocol``: nothing; the linear program alone counts (solved first instead of
        after, which decides the same images), and an image that it does not prove either is open
        to attack, that is unknown.

    Source: Tjeng et al. 2019 (MIP), Ehlers 2017 (LP), Gowal et al. 2018 (the protocol).

    Raises
    ------
    ConfigError
        A value out of range, or a solver whose package is not installed.
    """

    solver: str = "highs"
    relax: bool = False
    tighten: str = "none"
    share: float = 0.5
    protocol: str = "dual"

    def __post_init__(self) -> None:
        solver_named(self.solver)
        if self.tighten not in ("none", "lp", "mip"):
            raise ConfigError(f"tighten must be none, lp or mip; got {self.tighten!r}")
        if self.protocol not in ("dual", "gm-protocol"):
            raise ConfigError(f"protocol must be dual or gm-protocol; got {self.protocol!r}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must lie in (0, 1]; got {self.share:g}")
        if self.relax and self.protocol != "dual":
            raise ConfigError("gm-protocol is about programs with integers; set relax to false")

    def decide(self, question: Question) -> list[Answer]:
        """Return an answer for each image, one after the other."""
        with torch.no_grad():
            net = _in_double(question)
            return [self._image(_Image(question, net, place)) for place in range(len(question.y))]

    def _image(self, image: _Image) -> Answer:
        try:
            return self._decided(image)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return image.answer("memory")

    def _decided(self, image: _Image) -> Answer:
        if image.is_proved():
            return image.answer("")
        if image.is_late():
            return image.answer("timeout")
        solver = solver_named(self.solver)
        known = refine(propagate(image.net, image.box), _CROWN)
        image.note(_crown(known, image.y))
        if not all(_finite(known, i) for i in (*known.net.bent(), known.net.output.index)):
            return image.answer("nan")
        if self.tighten != "none" and not image.is_proved():
            until = image.began + self.share * min(image.seconds, 60.0)
            known = tightened(known, solver, until, integers=self.tighten == "mip")
            image.note(_crown(known, image.y))
        reasons: set[str] = set()
        if not image.is_proved() and not image.is_late():
            encoding = Encoding(image.net, known)
            columns = image.open()
            for place, column in enumerate(columns):
                turn = image.left / (len(columns) - place)
                point = self._column(image, encoding, solver, column, turn, reasons)
                if point is not None:
                    return image.answer("", point)
        if image.is_proved():
            return image.answer("")
        if image.is_late():
            reasons.add("timeout")
        for reason in ("memory", "timeout"):
            if reason in reasons:
                return image.answer(reason)
        return image.answer("undecided")

    def _column(
        self,
        image: _Image,
        encoding: Encoding,
        solver: Solver,
        column: int,
        seconds: float,
        reasons: set[str],
    ) -> Tensor | None:
        """Bound one margin in its share of the time; return a counterexample where there is one."""
        until = time.perf_counter() + seconds
        row = torch.zeros(image.net.classes, dtype=torch.float64)
        row[image.label], row[column] = 1.0, -1.0
        program = encoding.minimising(row)
        for attempt in [program.relaxed()] if self.relax else [program.relaxed(), program]:
            # An image the model does not misclassify may have stopped the search: once more.
            for stop_below in (0.0, -math.inf):
                left = until - time.perf_counter()
                if left <= 0:
                    reasons.add("timeout")
                    return None
                found = solver.solve(attempt, left, image.threshold, stop_below)
                image.parts += found.nodes
                point = image.tried(encoding, found)
                if point is not None:
                    return point
                if found.status != "stopped" or found.bound > image.threshold:
                    break
            cut_short = found.status in ("timeout", "memory")
            if cut_short:
                reasons.add(found.status)
            if self.protocol == "dual" or attempt.is_linear or not cut_short:
                image.raise_to(column, found.bound)
            if image.best[column] > image.threshold:
                break
        return None


class _Image:
    """One image under decision: its part of the question, and what is known so far."""

    def __init__(self, question: Question, net: Network, place: int) -> None:
        self.began = time.perf_counter()
        self.net, self.module = net, question.module
        self.box = question.box[place : place + 1].to("cpu", torch.float64)
        self.inner = question.inner[place : place + 1]
        self.y = question.y[place : place + 1].cpu()
        self.label = int(self.y)
        proved = question.proved[place].double().cpu()
        self.best = torch.where(proved.isnan(), -math.inf, proved)
        self.best[self.label] = math.inf
        self.threshold = float(question.threshold[place])
        self.seconds = question.seconds[place]
        self.parts = 0

    def is_proved(self) -> bool:
        return bool((self.best > self.threshold).all())

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.perf_counter() - self.began)

    def is_late(self) -> bool:
        return self.left <= 0

    def open(self) -> list[int]:
        """Return the classes not proved yet, the one with the least bound first."""
        order = self.best.argsort().tolist()
        return [column for column in order if self.best[column] <= self.threshold]

    def note(self, margins: Tensor) -> None:
        """Take note of lower bounds ``(K,)``."""
        self.best = torch.fmax(self.best, margins)

    def raise_to(self, column: int, bound: float) -> None:
        """Take note of a lower bound of one margin."""
        if bound > self.best[column]:
            self.best[column] = bound

    def tried(self, encoding: Encoding, found: Solution) -> Tensor | None:
        """Return the image of a solution where the model misclassifies it in both precisions."""
        if found.point is None:
            return None
        point = encoding.image(found.point, self.inner)
        for dtype in (torch.float32, torch.float64):
            module = copy.deepcopy(self.module).to(dtype)
            logits = module(point[None].to(dtype)).cpu()
            if not bool(true_margins(logits, self.y).amin() < 0):
                return None
        return point

    def answer(self, reason: str, point: Tensor | None = None) -> Answer:
        return Answer(float(self.best.min()), point, reason, self.parts)


def _in_double(question: Question) -> Network:
    """Return the question's network in float64, on the CPU and without gradients."""
    if question.box.dtype == torch.float64 and question.box.device.type == "cpu":
        return question.net.detached()
    module = copy.deepcopy(question.module).double().cpu()
    return trace(module, tuple(question.box.shape[1:])).instance().detached()


def _crown(known: Intermediate, y: Tensor) -> Tensor:
    """Return the margins ``(K,)`` that substitution proves; -inf where it found no number."""
    found = [backward.margins(known.net, known, y, kind)[0] for kind in _CROWN]
    best = torch.fmax(*found)
    return torch.where(best.isnan(), -math.inf, best)


def _finite(known: Intermediate, index: int) -> bool:
    bounds = known.at(index)
    return bool(torch.isfinite(bounds.lower).all() and torch.isfinite(bounds.upper).all())
