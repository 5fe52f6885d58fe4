r"""Backward substitution: one engine for every bound that pulls rows to the input.

A row :math:`a` at a node stands for the linear form :math:`a z`. Going back through
an affine node replaces it by :math:`a W` (plus a constant); through an activation
it takes the lower line where the coefficient is positive and the upper one where it
is negative. What is left at the input, or at a node the walk stops at, is minimised
over its set. Source: Zhang et al. 2018 (CROWN).

Rows that begin at single neurons of images are carried as windows of the pixels they
can reach, for as long as the operators on the way know how (``Affine.reach``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from taut.bounds.form import Form, pick
from taut.bounds.relax import dot, relax
from taut.bounds.tie import TiedLines, plus
from taut.graph.network import Network, Node
from taut.operators.affine import Conv2d, Linear
from taut.operators.base import Activation, Affine
from taut.operators.forms import Interval, Lines
from taut.operators.shape import Identity, Reshape
from taut.property import margin_rows, pad_true_class

if TYPE_CHECKING:
    from taut.bounds.interval import Intermediate

Relaxation = Callable[[Node, Form, Tensor | None], Lines]
"""Chooses lines for an activation: called with its node, the form that meets it, and which
image each group of rows belongs to; lines ``(N, ...)`` of the form's own window."""

Multipliers = Callable[[Node, Form, Tensor | None], tuple[Tensor, Tensor] | None]
"""What cuts add to a form ``(N, 1, ...)`` at their node: to its rows, and a constant ``(N, 1)``."""

Landed = tuple[Form | None, Tensor | None]

Landing = Callable[[Node, Form], Landed]
"""What becomes of a form at a node where the walk stops: a form over the input, a constant."""


class Meter:
    """Takes note of how many numbers a walk holds: ``peak`` at once, ``total`` made in all."""

    def __init__(self) -> None:
        self.peak = 0
        self.total = 0

    def see(self, pending: dict[int, Form], *working: Tensor) -> None:
        """Note a step's working tensors beside the forms that wait."""
        now = sum(tensor.numel() for tensor in working)
        self.total += now
        self.peak = max(self.peak, now + sum(form.rows.numel() for form in pending.values()))


def lower(
    net: Network,
    start: int,
    rows: Tensor | Form,
    inter: Intermediate,
    *,
    lines: str | Relaxation | None,
    samples: Tensor | None = None,
    meter: Meter | None = None,
    multipliers: Multipliers | None = None,
) -> Tensor:
    r"""Return lower bounds of ``rows`` applied to node ``start``, shape ``(N, R)``.

    Parameters
    ----------
    net
        The network.
    start
        Index of the node the rows speak about.
    rows
        Coefficients ``(N, R, *node shape)``; N is the batch, or the length of ``samples``.
    inter
        Bounds of the nodes before; those of the activations' inputs give the lines.
    lines
        Line family, or a choice of lines of one's own; ``None`` stops at the first
        activations and concretises on their output intervals, which is elided IBP.
    samples
        Which image each of the N groups of rows belongs to; ``None`` means one group
        an image, in order.
    meter
        Is told how much the walk held.
    multipliers
        What split constraints contribute, see :mod:`taut.bounds.cuts`.

    """
    form = rows if isinstance(rows, Form) else Form(rows)
    stops: frozenset[int] = frozenset()
    if lines is None:
        stops = frozenset(n.index for n in net.nodes if isinstance(n.operator, Activation))
    over_input, total = substitute(
        net,
        start,
        form,
        relaxation=family(inter, lines) if lines is None or isinstance(lines, str) else lines,
        samples=samples,
        stops=stops,
        landing=_on_intervals(inter, samples),
        meter=meter,
        multipliers=multipliers,
    )
    if over_input is not None:
        total = _plus(total, minimum(over_input, inter, samples))
    assert total is not None
    return total


def family(inter: Intermediate, kind: str | None) -> Relaxation:
    """Return the lines of one family on the best known bounds, each computed once."""
    made: dict[int, Lines] = {}

    def choose(node: Node, form: Form, samples: Tensor | None) -> Lines:
        assert isinstance(node.operator, Activation)
        assert kind is not None
        if node.index not in made:
            made[node.index] = node.operator.lines(inter.at(node.inputs[0]), kind)
        return pick_lines(made[node.index], form, samples)

    return choose


def pick_lines(lines: Lines, form: Form, samples: Tensor | None) -> Lines:
    """Return each group's part of the lines of a whole batch."""
    if samples is None and form.window is None:
        return lines
    size = form.size if form.window is not None else (0, 0)

    def part(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else pick(tensor, samples, form.window, size)

    low, up = part(lines.lower_slope), part(lines.upper_slope)
    assert low is not None
    assert up is not None
    return Lines(low, part(lines.lower_intercept), up, part(lines.upper_intercept))


def minimum(form: Form, inter: Intermediate, samples: Tensor | None) -> Tensor:
    """Return the exact minimum of a form over the region, shape ``(N, R)``."""
    region = inter.region
    if form.window is None:
        if samples is not None:
            region = region[samples]
        return region.minimum(form.rows)
    return region.each(lambda t: pick(t, samples, form.window, form.size)).minimum(form.rows)


def _on_intervals(inter: Intermediate, samples: Tensor | None) -> Landing:
    """Concretise on a node's interval."""

    def land(node: Node, form: Form) -> Landed:
        box = inter.interval(node.index)
        if samples is not None:
            box = Interval(box.center[samples], box.radius[samples])
        return None, concretise(form.dense(node.shape).rows, box)

    return land


def substitute(
    net: Network,
    start: int,
    form: Form,
    *,
    relaxation: Relaxation,
    samples: Tensor | None,
    stops: frozenset[int] = frozenset(),
    landing: Landing | None = None,
    meter: Meter | None = None,
    multipliers: Multipliers | None = None,
) -> tuple[Form | None, Tensor | None]:
    """Pull a form back to the input; return it there with the constant ``(N, R)``.

    At the nodes of ``stops``, none by default, ``landing`` takes over.
    """
    pending = {start: form}
    total: Tensor | None = None
    over_input: Form | None = None
    for node in reversed(net.nodes[: start + 1]):
        here = pending.pop(node.index, None)
        if here is None:
            continue
        if multipliers is not None and (added := multipliers(node, here, samples)) is not None:
            here = Form(here.rows + added[0], here.window, own=True)
            total = _plus(total, added[1])
        operator, constant = node.operator, None
        if operator is None:
            over_input = _join(over_input, here, node)
        elif node.index in stops:
            assert landing is not None
            landed, constant = landing(node, here)
            if landed is not None:
                over_input = _join(over_input, landed, net.nodes[0])
        elif isinstance(operator, Activation):
            if operator.axis is not None:
                here = here.dense(node.shape)
            lines = relaxation(node, here, samples)
            tie = lines.tie if isinstance(lines, TiedLines) else None
            if tie is not None:
                here = plus(here, tie.neurons, tie.outputs)
            rows, constant = relax(here.rows, lines, operator.axis, own=here.own)
            if meter is not None:
                meter.see(pending, here.rows, rows, lines.lower_slope, rows)
            through = Form(rows, here.window, own=True)
            if tie is not None:
                through = plus(through, tie.neurons, tie.inputs)
                constant = constant + tie.constant
            _put(pending, net.nodes[node.inputs[0]], through)
        else:
            assert isinstance(operator, Affine)
            constant = _through_affine(net, node, operator, here, pending, meter)
        if constant is not None:
            total = _plus(total, constant)
    return over_input, total


def _through_affine(
    net: Network,
    node: Node,
    operator: Affine,
    form: Form,
    pending: dict[int, Form],
    meter: Meter | None,
) -> Tensor | None:
    """Pull a form through an affine node into ``pending``; return the constant."""
    sources = [net.nodes[i] for i in node.inputs]
    shapes = [source.shape for source in sources]
    reach = operator.reach if form.window is not None else None
    if form.window is not None:
        even = all(len(s) == 3 and s[1:] == shapes[0][1:] for s in shapes)
        if reach is None or not even or not _same_channels(operator, shapes):
            form, reach = form.dense(node.shape), None
        else:
            form = form.inside(node.shape)
    groups, count = form.rows.shape[:2]
    flat = form.rows.flatten(0, 1)
    constant = operator.constant(flat)
    if reach is None:
        pulled = operator.transpose(flat, shapes)
        window = None
    else:
        assert form.window is not None
        pulled = operator.pull(flat, shapes)
        window = form.window.reached(reach)
    if meter is not None:
        meter.see(pending, flat, *pulled, *pulled)
    own = isinstance(operator, Conv2d | Linear) or (
        form.own and isinstance(operator, Reshape | Identity)
    )
    for source, rows in zip(sources, pulled, strict=True):
        _put(pending, source, Form(rows.unflatten(0, (groups, count)), window, own))
    return None if constant is None else constant.view(groups, count)


def _same_channels(operator: Affine, shapes: list[tuple[int, ...]]) -> bool:
    """Whether windows pass an operator of several inputs: none of them is broadcast."""
    return len(shapes) == 1 or operator.name != "add" or len(set(shapes)) == 1


def _put(pending: dict[int, Form], node: Node, form: Form) -> None:
    """Add a form to what waits at a node, as a window only where that is smaller."""
    if form.window is not None and not form.worthwhile(node.shape):
        form = form.dense(node.shape)
    pending[node.index] = _join(pending.get(node.index), form, node)


def _join(known: Form | None, form: Form, node: Node) -> Form:
    if known is None:
        return form
    if known.joins(form):
        joined = known + form
        return (
            joined
            if joined.window is None or joined.worthwhile(node.shape)
            else joined.dense(node.shape)
        )
    return known.dense(node.shape) + form.dense(node.shape)


def _plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def concretise(form: Tensor, box: Interval) -> Tensor:
    r"""Return the exact minimum of each row over a box, ``a c - |a| r``, shape ``(N, R)``."""
    return dot(form, box.center) - dot(form.abs(), box.radius)


def margins(
    net: Network, inter: Intermediate, y: Tensor, lines: str | Relaxation = "adaptive"
) -> Tensor:
    """Return margin lower bounds ``(B, K)`` by full substitution, +inf at the true class.

    ``inter`` decides the method: with IBP's bounds it is CROWN-IBP, with bounds refined
    by substitution CROWN. The last layer is merged with the margins by construction.
    """
    rows = margin_rows(y, net.classes, inter.like)
    return pad_true_class(lower(net, net.output.index, rows, inter, lines=lines), y)
