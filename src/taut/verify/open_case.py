"""One case of an instance: what is known of it, and what each stage finds out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taut.attacks import image_seeds
from taut.bounds import METHODS
from taut.errors import PropertyError
from taut.graph import Network, trace
from taut.graph.specified import grouped, specified
from taut.property.case import Case
from taut.property.specification import Specification
from taut.region import Box
from taut.verify.boxes import inner_box, outer_box
from taut.verify.complete import Question, verifier
from taut.verify.deadline import Clock, OutOfTime
from taut.verify.inputs import placement
from taut.verify.outcome import State
from taut.verify.precision import (
    finite_margins,
    float32_limit,
    largest_output,
    rounding,
    slack,
)
from taut.verify.replay import outputs_in
from taut.verify.witness import Evaluator, Witness, witnessed

if TYPE_CHECKING:
    from taut.verify.instance import Procedure

_CANDIDATES = 10
"""Counterexamples of one search that are replayed before it is given up."""

_ROUNDING = 2.0**-40
"""What a float64 bound has to exceed to be trusted, relative to the numbers in a row."""


class Behind(nn.Module):
    """A model with a specification behind it: ``(B, *shape)`` to ``(B, G + 1)``.

    Column 0 is 0 and column g minus the largest row of group g, so that the margin of "class" 0
    over class g is at most 0 just where the output is in the group.
    """

    def __init__(self, model: nn.Module, specification: Specification) -> None:
        super().__init__()
        self.model, self.specification = model, specification

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to what an attack on class 0 climbs."""
        values = self.specification.values(self.model(x).flatten(1))
        groups = self.specification.by_group(values)
        return torch.cat([torch.zeros_like(groups[:, :1]), -groups], 1)


class Subject:
    """The network of an instance: the module, its operators, and both in float64."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, ...], evaluators: tuple[Evaluator, ...]
    ) -> None:
        self.model, self.shape, self.evaluators = model, shape, evaluators
        self.device, self.dtype = placement(model)
        self._nets: dict[torch.dtype, Network] = {}

    def net(self, dtype: torch.dtype) -> Network:
        """Return the operators in a precision, traced when they are first needed."""
        if dtype not in self._nets:
            model = self.model if dtype == self.dtype else copy.deepcopy(self.model).to(dtype)
            with torch.no_grad():
                flat = nn.Sequential(model, nn.Flatten()).eval()
                self._nets[dtype] = trace(flat, self.shape).instance()
        return self._nets[dtype]


class OpenCase:
    """A case on its way through the stages.

    ``proved`` are the best lower bounds of the rows, float64 ``(1, R)``, as they were computed,
    ``proved64`` those computed in float64.
    """

    def __init__(self, subject: Subject, case: Case, procedure: Procedure, place: int) -> None:
        self.subject, self.case, self.procedure, self.place = subject, case, procedure, place
        self.specification = case.specification
        size = torch.Size(subject.shape).numel()
        if len(case.lower) != size:
            raise PropertyError(
                f"the property is about {len(case.lower)} inputs, and the network's have {size}"
            )
        self.box = self._shaped(case.lower, case.upper)
        self.inner = self._shaped(case.inner_lower, case.inner_upper)
        rows = len(self.specification.rows)
        self.proved = torch.full((1, rows), -torch.inf, dtype=torch.float64)
        self.proved64 = self.proved.clone()
        self._done: list[str] = []
        self._inside: dict[torch.dtype, Tensor] = {}
        self._sure, self._doubtful = False, False
        self._against, self._note = "", ""

    def _shaped(self, lower: Tensor, upper: Tensor) -> Box:
        shape = (1, *self.subject.shape)
        return Box(lower.view(shape), upper.view(shape)).to(self.subject.device)

    @property
    def is_open(self) -> bool:
        """Whether further stages may prove or break it."""
        return not self._sure and not self._against

    @property
    def state(self) -> State:
        """What is known in the end."""
        if self._doubtful:  # what was not repeated may be none, but nothing is proved beside it
            return State(False, self._against or "not replayed")
        return State(self._sure, self._against or ("" if self._sure else self._note))

    def lost(self) -> None:
        """Take note that memory ran out."""
        self._note = "memory"

    def prepare(self, stage: str) -> None:
        """Do what a stage needs and what is not to be interrupted."""
        if stage in METHODS:
            self.subject.net(self.subject.dtype)
        elif stage != "attack":
            self.subject.net(torch.float64)

    def run(self, stage: str, clock: Clock) -> Witness | None:
        """Carry out a stage; return a counterexample if it found one."""
        if stage == "attack":
            return self._attack()
        if stage in METHODS:
            with torch.no_grad():
                self._bound(stage)
            return None
        return self._complete(stage, clock)

    def _attack(self) -> Witness | None:
        count = self.procedure.starts(self.box.lower.numel())
        few = max(1, count // 8)  # most counterexamples are found by these
        target = Behind(self.subject.model, self.specification)
        found = self._search(target, range(few))
        return found or self._search(target, range(few, count))

    def _search(self, target: Behind, starts: range) -> Witness | None:
        dtype = self.subject.dtype
        one = inner_box(self.inner, torch.float32).to(dtype=dtype)
        many = one.each(lambda end: end.expand(len(starts), *self.subject.shape).contiguous())
        first = self.place * 256
        seeds = image_seeds(self.procedure.seed, (first + start for start in starts))
        labels = torch.zeros(len(starts), dtype=torch.int64, device=self.subject.device)
        found = self.procedure.attack(target, many.center, labels, many, seeds=seeds)
        order = found.margin.argsort()
        likely = [row for row in order.tolist() if float(found.margin[row]) <= 0]
        return self._replayed([found.point[row] for row in likely[:_CANDIDATES]])

    def _replayed(self, points: list[Tensor]) -> Witness | None:
        for point in points:
            found = witnessed(self.subject.model, self.case, point, self.subject.evaluators)
            if found is not None:
                return found
        self._doubtful |= bool(points)
        return None

    def _bound(self, stage: str) -> None:
        dtype = self.subject.dtype
        self._done.append(stage)
        kept = self._keep(self._rows(stage, dtype), dtype)
        if not kept or not bool(self.specification.proved(self.proved)):
            return
        if dtype == torch.float32 and not self._is_borderline():
            self._sure = True
            return
        for name in reversed(self._done) if dtype == torch.float32 else ():
            if self._proved_in_double():
                break
            if not self._keep(self._rows(name, torch.float64), torch.float64):
                return
        self._sure = self._proved_in_double()

    def _proved_in_double(self) -> bool:
        return bool(self.specification.proved(self.proved64 - self._rounding()))

    def _rounding(self) -> Tensor:
        """Return how much of each row's float64 bound may be rounding."""
        outputs, _ = self._middle()
        errors = self._errors(torch.float64)
        return torch.maximum(_ROUNDING * self._scale(outputs.abs().amax()), errors)

    def _errors(self, dtype: torch.dtype) -> Tensor:
        """Return how far rounding inside the network may carry each row, ``(R,)``."""
        if dtype not in self._inside:
            found = rounding(self.subject.net(dtype), outer_box(self.box, dtype))[0].cpu()
            self._inside[dtype] = (self.specification.rows.abs() * found).sum(1)
        return self._inside[dtype]

    def _rows(self, stage: str, dtype: torch.dtype) -> Tensor:
        """Return lower bounds of the rows, float64 ``(1, R)``."""
        net = specified(self.subject.net(dtype), self.specification)
        box = outer_box(self.box, dtype)
        label = torch.zeros(1, dtype=torch.int64, device=box.device)
        return finite_margins(METHODS[stage], net, box, label)[:, 1:].cpu()

    def _keep(self, rows: Tensor, dtype: torch.dtype) -> bool:
        """Keep bounds that no value of the network speaks against; tell whether there is none."""
        if bool(rows.isnan().any()):
            self._against = "nan"
            return False
        outputs, slack = self._middle()
        if bool((rows > self.specification.values(outputs) + slack).any()):
            self._against = "contradiction"
            return False
        self.proved = torch.maximum(self.proved, rows)
        if dtype == torch.float64:
            self.proved64 = torch.maximum(self.proved64, rows)
        return True

    def _contradicts(self, groups: Tensor) -> bool:
        """Whether bounds of the groups, ``(1, G)``, exceed the values of a point."""
        outputs, slack = self._middle()
        values = self.specification.by_group(self.specification.values(outputs) + slack)
        if bool((groups > values).any()):
            self._against = "contradiction"
        return bool(self._against)

    def _middle(self) -> tuple[Tensor, Tensor]:
        """Return the outputs of a point of the box, and the rounding allowed to each row."""
        middle = self.inner.project(self.box.center)
        with torch.no_grad():
            outputs = outputs_in(self.subject.model, middle, torch.float64).flatten(1).cpu()
        return outputs, slack(self._scale(outputs.abs().amax()))

    def _scale(self, largest: Tensor) -> Tensor:
        """Return the largest numbers that a row may cancel, where outputs are so large."""
        sizes = self.specification.rows.abs().sum(1)
        return sizes * largest.cpu() + self.specification.offsets.abs()

    def _is_borderline(self) -> bool:
        """Whether the proof in float32 is by less than float32 is to be trusted with."""
        box = outer_box(self.box, torch.float32)
        largest = largest_output(self.subject.net(torch.float32), box)[0].nan_to_num(torch.inf)
        limit = torch.maximum(float32_limit(self._scale(largest)), self._errors(torch.float32))
        trusted = self.proved > limit
        believed = self.proved.where(trusted, -torch.inf)
        return not bool(self.specification.proved(believed))

    def _complete(self, stage: str, clock: Clock) -> Witness | None:
        """Ask a complete verifier about the largest row of each group, in float64."""
        double = torch.float64
        model = copy.deepcopy(self.subject.model).to(double).eval()
        groups = self.specification.by_group(self.proved64)
        known = torch.cat([torch.full((1, 1), torch.inf, dtype=double), groups], 1)
        threshold = self._rounding().amax(0, keepdim=True)
        zero = torch.zeros(1, dtype=torch.int64, device=self.subject.device)
        question = Question(
            Behind(model, self.specification),
            grouped(self.subject.net(double), self.specification),
            self.box,
            inner_box(self.inner, torch.float32).to(dtype=double),
            zero,
            known.to(zero.device),
            threshold.to(zero.device),
            [clock.left],
            image_seeds(self.procedure.seed, [self.place]).tolist(),
        )
        with torch.no_grad():
            (answer,) = verifier(stage, mip=self.procedure.mip).decide(question)
        if answer.point is not None:
            return self._replayed([answer.point])
        if answer.reason == "timeout":
            raise OutOfTime
        if answer.reason == "nan":
            self._against = "nan"
        elif answer.reason == "memory":
            self._note = "memory"
        elif not answer.reason and float(threshold) < answer.bound < torch.inf:
            self._sure = not self._contradicts(torch.full_like(groups, answer.bound))
        return None
