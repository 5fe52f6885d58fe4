"""Calls that move, copy or leave out elements: permute, slice, split, flip, repeat, upsample."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taut.errors import UnsupportedOperator
from taut.operators.base import Shape
from taut.operators.combine import Call, Combine, call, expanded, moved
from taut.operators.registry import Template, Value, builds
from taut.operators.shape import Identity

_MOVES = (
    "permute",
    "transpose",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "flip",
    "fliplr",
    "roll",
    "narrow",
    "select",
    "index_select",
    "tile",
    "repeat_interleave",
)


def _passing_on(function: Callable[..., Tensor]) -> Callable[..., Template]:
    """Return a builder that hands all arguments on to the function itself."""

    def build(
        shape: Shape, module: None, input: Value, *args: object, **options: object
    ) -> Template:
        return moved(input, function, args, options)

    return build


for _name in _MOVES:  # methods take what the functions take, and sizes one by one as well
    builds(getattr(torch, _name), _name)(_passing_on(getattr(Tensor, _name)))
builds("repeat")(_passing_on(Tensor.repeat))
builds(F.pixel_shuffle)(_passing_on(F.pixel_shuffle))
builds(F.pixel_unshuffle)(_passing_on(F.pixel_unshuffle))
builds(F.channel_shuffle)(_passing_on(F.channel_shuffle))


@builds(nn.PixelShuffle)
def _pixel_shuffle(shape: Shape, module: nn.PixelShuffle, input: Value) -> Template:
    return moved(input, F.pixel_shuffle, (module.upscale_factor,))


@builds(nn.PixelUnshuffle)
def _pixel_unshuffle(shape: Shape, module: nn.PixelUnshuffle, input: Value) -> Template:
    return moved(input, F.pixel_unshuffle, (module.downscale_factor,))


@builds(nn.ChannelShuffle)
def _channel_shuffle(shape: Shape, module: nn.ChannelShuffle, input: Value) -> Template:
    return moved(input, F.channel_shuffle, (module.groups,))


@builds(torch.broadcast_to, "expand", "expand_as", "broadcast_to")
def _expand(shape: Shape, module: None, input: Value, *_: object, **__: object) -> Template:
    # The sizes were resolved when shapes were propagated; only the batch is free.
    found = expanded(input, shape)
    return Template((input,), Identity) if isinstance(found, Value) else found.template


@builds(operator.getitem)
def _getitem(
    shape: Shape, module: None, input: Value | tuple[Value, ...], index: object
) -> Template | tuple[Template, ...]:
    if isinstance(input, tuple):  # some of the results of a split
        if not isinstance(index, slice):
            raise UnsupportedOperator("with an index that is not a number or a slice")
        return tuple(Template((each,), Identity) for each in input[index])
    taken = index if isinstance(index, tuple) else (index,)
    first = taken[0] if taken else slice(None)
    used = sum(each is not None and each is not Ellipsis for each in taken)
    if not (first == slice(None) if isinstance(first, slice) else first is Ellipsis):
        raise UnsupportedOperator("with an index of the batch axis; begin with ':'")
    if first is Ellipsis and used > len(input.shape):
        raise UnsupportedOperator("with an index of the batch axis behind '...'")
    return moved(input, Tensor.__getitem__, (taken,))


def _parts(shapes: Sequence[Shape], x: Value, dim: int, keep: bool = True) -> tuple[Template, ...]:
    """Return one template per part, parts that lie one after the other along an axis."""
    axis = dim % (len(x.shape) + 1)
    if axis == 0:
        raise UnsupportedOperator("along the batch axis; name another one")
    sizes = [each[axis - 1] if keep else 1 for each in shapes]
    if sum(sizes) != x.shape[axis - 1]:
        raise UnsupportedOperator("with parts that overlap or leave gaps")
    starts = [sum(sizes[:place]) for place in range(len(sizes))]

    def part(start: int, size: int) -> Template:
        if keep:
            return Template((x,), lambda: Combine(Call(Tensor.narrow, (axis, start, size))))
        return Template((x,), lambda: Combine(Call(Tensor.select, (axis, start))))

    return tuple(part(start, size) for start, size in zip(starts, sizes, strict=True))


@builds(torch.chunk, torch.split, torch.tensor_split, "chunk", "split", "tensor_split")
def _split(
    shapes: tuple[Shape, ...],
    module: None,
    input: Value,
    *sizes: object,
    dim: int | None = None,
    **_: object,
) -> tuple[Template, ...]:
    # How many parts there are, and how large, was resolved when shapes were propagated.
    along = sizes[1] if len(sizes) > 1 else 0
    if dim is None:
        dim = along if isinstance(along, int) else 0
    return _parts(shapes, input, dim)


@builds(torch.unbind, "unbind")
def _unbind(
    shapes: tuple[Shape, ...], module: None, input: Value, dim: int = 0
) -> tuple[Template, ...]:
    return _parts(shapes, input, dim, keep=False)


@builds(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def _upsample(shape: Shape, module: nn.Upsample, input: Value) -> Template:
    return _interpolate(
        shape,
        None,
        input,
        module.size,
        module.scale_factor,
        module.mode,
        module.align_corners,
        module.recompute_scale_factor,
    )


@builds(F.interpolate)
def _interpolate(
    shape: Shape,
    module: None,
    input: Value,
    size: object = None,
    scale_factor: object = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Template:
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear") or antialias:
        said = "antialias=True" if antialias else f"mode={mode!r}"
        raise UnsupportedOperator(f"with {said}; use nearest, linear or bilinear interpolation")
    options = {
        "size": size,
        "scale_factor": scale_factor,
        "mode": mode,
        "align_corners": align_corners,
        "recompute_scale_factor": recompute_scale_factor,
    }
    return Template((input,), lambda: Combine(call(F.interpolate, (), options)))
