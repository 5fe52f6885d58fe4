"""Elements moved, copied or averaged by a torch function: one operator for all such calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from taut.errors import UnsupportedOperator
from taut.operators.base import Affine, Shape
from taut.operators.registry import Case, Entry, Inner, Template, Value, register


@dataclass(frozen=True, eq=False)
class Call:
    """A torch function with all of its arguments but the first."""

    function: Callable[..., Tensor]
    args: tuple[object, ...] = ()
    options: tuple[tuple[str, object], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``function(x, *args, **options)``."""
        return self.function(x, *self.args, **dict(self.options))


@dataclass(frozen=True, eq=False)
class Combine(Affine):
    r"""A torch function that is linear with coefficients that are never negative.

    .. math:: z = W x, \qquad W \ge 0

    Permutations, slices, copies, interpolation: points and radii go through the function
    itself, rows through its derivative, which for a linear function does not depend on
    the point. Several images pass it independently.
    """

    name: ClassVar[str] = "combine"
    function: Callable[[Tensor], Tensor]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self.function(radii[0])

    def transpose(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (adjoint(self.function, rows, shapes[0]),)


def adjoint(function: Callable[[Tensor], Tensor], rows: Tensor, shape: Shape) -> Tensor:
    """Pull rows ``(N, *output shape)`` back through a linear function, to ``(N, *shape)``.

    The point at which it is differentiated is zero and takes no memory; through
    functions that return views neither does the evaluation there.
    """
    onward = torch.is_grad_enabled() and rows.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        zero = torch.zeros((), dtype=rows.dtype, device=rows.device)
        at = zero.expand(rows.shape[0], *shape).requires_grad_()
        (pulled,) = torch.autograd.grad(function(at), at, rows, create_graph=onward)
    return pulled


def call(
    function: Callable[..., Tensor],
    args: Sequence[object] = (),
    options: Mapping[str, object] | None = None,
) -> Call:
    """Return a function with its arguments, readers of constants among them read now."""
    named = {} if options is None else options
    return Call(
        function,
        tuple(_plain(value) for value in args),
        tuple((key, _plain(value)) for key, value in named.items()),
    )


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(part) for part in value])
    if isinstance(value, Value):
        raise UnsupportedOperator("with an argument that depends on the input")
    return value() if callable(value) else value


def moved(
    x: Value | Inner,
    function: Callable[..., Tensor],
    args: Sequence[object] = (),
    options: Mapping[str, object] | None = None,
) -> Template:
    """Return the template of a function that moves or copies the elements of each image.

    Raises :class:`UnsupportedOperator` where elements pass from one image to another,
    or where the call fits one size of the batch only.
    """
    _check_images_stay_apart(call(function, args, options), x.shape)
    return Template((x,), lambda: Combine(call(function, args, options)))


def _check_images_stay_apart(function: Call, shape: Shape) -> None:
    count = torch.Size(shape).numel()
    both = torch.arange(2 * count, dtype=torch.float64).view(2, *shape)
    why = "in a form that does not treat every image of a batch alike"
    try:
        whole, parts = function(both), [function(both[:1]), function(both[1:])]
    except (RuntimeError, IndexError, ValueError) as error:  # it fits the batch traced with
        raise UnsupportedOperator(why) from error
    if whole.shape[0] != 2 or not torch.equal(whole, torch.cat(parts)):
        raise UnsupportedOperator(why)


def expanded(x: Value, shape: Shape) -> Value | Inner:
    """Return ``x``, or in front of what follows its copies along the axes of ``shape``."""
    if x.shape == shape:
        return x
    if len(x.shape) != len(shape):
        raise UnsupportedOperator(
            f"where an input of shape {x.shape} grows by an axis to {shape}; use unsqueeze first"
        )
    return Inner(Template((x,), lambda: Combine(Call(Tensor.expand, (-1, *shape)))), shape)


def _cases(generator: torch.Generator) -> list[Case]:
    """Return a case for each kind of map: views, gaps, copies, overlaps and averages."""
    every, linear = slice(None), (("mode", "bilinear"), ("align_corners", True))
    return [
        Case(Combine(Call(Tensor.permute, (0, 3, 1, 2))), ((3, 2, 4),)),
        Case(Combine(Call(torch.roll, ((1, -2), (1, 2)))), ((3, 5),)),
        Case(
            Combine(Call(Tensor.__getitem__, ((every, slice(1, None, 2), [2, 0, 2]),))), ((5, 3),)
        ),
        Case(Combine(Call(Tensor.expand, (-1, 3, 2))), ((3, 1),)),
        Case(Combine(Call(F.pixel_shuffle, (2,))), ((4, 2, 1),)),
        Case(Combine(Call(F.pad, ((1, 2, 2, 0),), (("mode", "reflect"),))), ((2, 3, 4),)),
        Case(Combine(Call(F.interpolate, (None, 2.5), linear)), ((1, 3, 2),)),
        Case(Combine(Call(F.adaptive_avg_pool2d, ((2, 3),))), ((2, 5, 4),)),
    ]


register(Entry("combine", "permute, slice, flip, repeat, expand, upsample, shuffle", _cases))
