"""One run of a drawn graph on zeros: shapes, memory that is overwritten, the batch's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from taut.errors import ModelError, UnsupportedOperator, first_line, out_of_memory
from taut.graph.messages import named, source_line
from taut.graph.reading import Expression, writes_in_place
from taut.operators.registry import Live

BATCH = 3  # an unusual number, so that a node that loses the batch axis is noticed
_OTHER = 5  # the size a batch might have had as well

_CASTS = ("to", "_to_copy", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")
_COPIES = ("alias", "lift", "lift_fresh", "lift_fresh_copy")


class BatchSize(int):
    """A number computed from the size of the batch; ``other`` is it for another size.

    Where both are equal the number does not depend on the batch and is a plain one again.
    """

    other: int

    def __new__(cls, value: int, other: int) -> BatchSize:
        """Return the number for both sizes."""
        found = super().__new__(cls, value)
        found.other = other
        return found

    def __neg__(self) -> BatchSize:
        return BatchSize(-int(self), -self.other)


class _PerBatchError(Exception):
    """A number that is no size was computed from the size of the batch."""


class _InPlaceError(Exception):
    """The result of a call that would change a parameter or buffer is needed."""


def _with_both(name: str) -> Callable[[BatchSize, Any], Any]:
    apply = getattr(int, name)

    def combine(self: BatchSize, value: Any) -> Any:
        if not isinstance(value, int):
            raise _PerBatchError
        found = apply(int(self), int(value))
        other = apply(self.other, value.other if isinstance(value, BatchSize) else value)
        return found if found == other else BatchSize(found, other)

    return combine


def _refuse(self: BatchSize, *_: Any) -> Any:
    raise _PerBatchError


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(BatchSize, f"__{_name}__", _with_both(f"__{_name}__"))
    setattr(BatchSize, f"__r{_name}__", _with_both(f"__r{_name}__"))
for _name in ("truediv", "rtruediv", "pow", "rpow", "divmod", "rdivmod", "float", "abs"):
    setattr(BatchSize, f"__{_name}__", _refuse)


@dataclass(frozen=True)
class Probed:
    """What a run on zeros told of every node that is needed or depends on the image."""

    values: dict[fx.Node, Any]
    """Tensors without memory that have the node's shape and type; other values as they are."""
    stale: dict[fx.Node, fx.Node]
    """Nodes that read memory after the node named here had overwritten it."""
    same: frozenset[fx.Node]
    """Casts and copies that change neither type nor device."""


class Probe(fx.Interpreter):
    """Runs a graph of modules in evaluation mode once on zeros.

    Batch normalisation and dropout in functional form pass their input on, so that running
    statistics and the generator are left alone whatever mode they were drawn in.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, wanted: frozenset[fx.Node]) -> None:
        super().__init__(root, graph=graph)
        self.wanted = wanted
        self.at: fx.Node | None = None
        self.dynamic: set[fx.Node] = set()
        self.found = Probed({}, {}, frozenset())
        self._same: set[fx.Node] = set()
        self._groups: dict[fx.Node, dict[int, int]] = {}
        """The memory a node's result lies in, each with its version when the node was run."""
        self._versions: list[int] = []
        self._writers: dict[int, fx.Node] = {}

    def probe(self, images: Tensor) -> Probed:
        """Run on ``images`` and return what was seen.

        Raises :class:`~taut.errors.ModelError` when the graph does not take the images.
        """
        try:
            with torch.no_grad():
                self.run(images)
        except _PerBatchError as error:
            assert self.at is not None
            raise UnsupportedOperator(per_batch(self.at)) from error
        except _InPlaceError as error:
            assert self.at is not None
            raise UnsupportedOperator(
                f"no rule for {named(self.at.target)} in place on a parameter or buffer at node "
                f"{self.at.name!r}{source_line(self.at)}; compute a new tensor"
            ) from error
        except Exception as error:  # shapes that do not fit surface as whatever torch raises
            if out_of_memory(error):
                raise
            place = f" at node {self.at.name!r}{source_line(self.at)}" if self.at else ""
            raise ModelError(
                f"the model does not accept images of shape {tuple(images.shape[1:])}{place}: "
                f"{first_line(error)}"
            ) from error
        return Probed(self.found.values, self.found.stale, frozenset(self._same))

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note what it does to memory."""
        self.at = n
        if n.op == "placeholder" or any(i in self.dynamic for i in n.all_input_nodes):
            self.dynamic.add(n)
        self._note_stale(n)
        if writes_in_place(n) and n.all_input_nodes[0] not in self.dynamic:
            return self._leave_alone(n)
        before = {i: _versions(self.env[i]) for i in n.all_input_nodes}
        result = super().run_node(n)
        for source, versions in before.items():
            if versions != _versions(self.env[source]):
                self._overwritten(source, n)
        self._groups[n] = self._memory(n, result)
        if self._is_copy(n, result):
            self._same.add(n)
        self.found.values[n] = _abstract(result)
        return result

    def _leave_alone(self, n: fx.Node) -> None:
        """Do not run a call that would change a buffer; refuse it where its result is needed."""
        if n in self.wanted:
            raise _InPlaceError
        self._overwritten(n.all_input_nodes[0], n)
        self._groups[n] = {}

    def _overwritten(self, source: fx.Node, by: fx.Node) -> None:
        for group in self._groups[source]:
            self._versions[group] += 1
            self._writers[group] = by

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function; sizes of the batch are marked."""
        if target is F.batch_norm:
            return (args[0] if args else kwargs["input"]).clone()
        if target in (F.dropout, F.dropout2d):
            return args[0] if args else kwargs["input"]
        result = super().call_function(target, args, kwargs)
        asks = target in (getattr, torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)
        if not asks or not self._is_image_like(args[0]):
            return result
        if target is torch.ops.aten.sym_size.int:
            return _marked(args[0].shape)[args[1]]
        if target is torch.ops.aten.sym_numel.default:
            return _elements(args[0])
        return _marked(result) if args[1] == "shape" else result

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method; sizes of the batch are marked."""
        result = super().call_method(target, args, kwargs)
        if target == "size" and self._is_image_like(args[0]):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            sizes = _marked(args[0].shape)
            return sizes if dim is None else sizes[dim]
        if target in ("numel", "nelement") and self._is_image_like(args[0]):
            return _elements(args[0])
        return result

    def _is_image_like(self, value: Any) -> bool:
        """Whether sizes asked for now are those of a tensor with one row per image."""
        assert self.at is not None
        depends = any(i in self.dynamic for i in self.at.all_input_nodes)
        return depends and isinstance(value, Tensor) and value.dim() > 0

    def _note_stale(self, n: fx.Node) -> None:
        for source in n.all_input_nodes:
            for group, version in self._groups[source].items():
                if self._versions[group] != version:
                    self.found.stale[n] = self._writers[group]

    def _memory(self, n: fx.Node, result: Any) -> dict[int, int]:
        """Return the memory that a result shares with the node's inputs, or new memory."""
        own = {tensor.untyped_storage()._cdata for tensor in _tensors(result)}
        groups: dict[int, int] = {}
        for source in n.all_input_nodes:
            if own & {tensor.untyped_storage()._cdata for tensor in _tensors(self.env[source])}:
                groups.update((group, self._versions[group]) for group in self._groups[source])
        if own and not groups:
            self._versions.append(0)
            groups[len(self._versions) - 1] = 0
        return groups

    def _is_copy(self, n: fx.Node, result: Any) -> bool:
        """Whether a node passes its tensor on, in the type and on the device it has."""
        if not isinstance(result, Tensor) or n.op not in ("call_method", "call_function"):
            return False
        if not n.args or not isinstance(n.args[0], fx.Node):
            return False
        if named(n.target).rpartition(".")[2] not in (*_CASTS, *_COPIES):
            return False
        source = self.env[n.args[0]]
        if not isinstance(source, Tensor):
            return False
        return result.dtype == source.dtype and result.device == source.device


def _marked(sizes: torch.Size) -> torch.Size:
    """Return sizes whose first is that of the batch."""
    if sizes[0] != BATCH:
        return sizes
    return torch.Size((BatchSize(BATCH, _OTHER), *sizes[1:]))


def _elements(x: Tensor) -> int:
    count = x.numel()
    return BatchSize(count, count // BATCH * _OTHER) if x.shape[0] == BATCH else count


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _versions(value: Any) -> tuple[int, ...]:
    return tuple(version_of(tensor) for tensor in _tensors(value))


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor's memory was written to."""
    return 0 if tensor.is_inference() else tensor._version


def _abstract(value: Any) -> Any:
    """Return a value with its tensors replaced by tensors without memory."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, (list, tuple)) and any(isinstance(each, Tensor) for each in value):
        return tuple(_abstract(each) for each in value)
    return value


def per_batch(node: fx.Node) -> str:
    """Return the message for a call with a number that depends on the size of the batch."""
    return (
        f"no rule for {named(node.target)} with a number that depends on how many images there "
        f"are at node {node.name!r}{source_line(node)}; each image must be treated alike"
    )


def is_batch(value: Any) -> bool:
    """Whether a number is the size of the batch itself."""
    return isinstance(value, BatchSize) and (int(value), value.other) == (BATCH, _OTHER)


def is_size(value: Any) -> bool:
    """Whether a value is made of sizes only (an int, a torch.Size, a tuple of ints)."""
    if isinstance(value, (int, torch.dtype, torch.device)):
        return True
    return isinstance(value, tuple) and all(isinstance(v, int) for v in value)


def needed_for(output: fx.Node) -> frozenset[fx.Node]:
    """Return the nodes a node's value depends on, itself among them."""
    found, waiting = {output}, [output]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return frozenset(found)


def same_for_every_image(expression: Expression) -> Live | None:
    """Return an expression of the batch's size as a reader of one row for all images.

    None where its value differs from image to image, or from one size of a batch to another.
    """
    other = replace(expression, given={n: _for_other(v) for n, v in expression.given.items()})
    one, two = expression(), other()
    if one.shape == two.shape:
        return expression if torch.equal(one, two) else None
    row = one[:1]
    if (one.shape[0], two.shape[0]) != (BATCH, _OTHER) or row.shape[1:] != two.shape[1:]:
        return None
    if not torch.equal(row.expand_as(one), one) or not torch.equal(row.expand_as(two), two):
        return None
    return lambda: expression()[:1]


def _for_other(value: Any) -> Any:
    """Return a value made of sizes as it is for a batch of the other size."""
    if isinstance(value, BatchSize):
        return value.other
    if isinstance(value, tuple):
        return torch.Size([_for_other(each) for each in value])
    return value
