r"""Relaxed-CROWN-v: substitution through v activations, then the linear bounds found there.

A row that has gone back through v activations lands on the inputs of the last of them, and
is replaced by their own linear bounds in the input,
:math:`A^+ (\underline W x + \underline b) + A^- (\overline W x + \overline b)`; with v = 1
that is LBP, with v the depth of the network CROWN. Source: Lyu et al. 2021, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form
from taut.bounds.interval import Intermediate
from taut.bounds.rows import chunk_size, unit_rows
from taut.errors import RunError
from taut.graph.network import Network, Node
from taut.operators.forms import Bounds


def stops(net: Network, start: int, depth: int) -> frozenset[int]:
    """Return the inputs of activations that rows from ``start`` reach last, ``depth`` of them on.

    These are the inputs of activations with at most (activations before ``start``) - depth
    activations before them, counted along the longest paths.
    """
    depths = net.depths()
    return frozenset(i for i in net.bent() if depths[i] + depth <= depths[start] and i != start)


@dataclass(frozen=True, eq=False)
class _Functions:
    """Linear functions of the input below and above a node: ``(B, n, *input)``, ``(B, n)``."""

    low: Tensor
    low_shift: Tensor
    up: Tensor
    up_shift: Tensor


class Anchors:
    """The linear bounds of the inputs of activations, each found by v steps of substitution.

    Parameters
    ----------
    net
        The network.
    depth
        v, the activations a row goes back through.
    lines
        Line family.
    budget
        Bytes for rows and linear bounds.

    """

    def __init__(self, net: Network, depth: int, lines: str, budget: int) -> None:
        self.net, self.depth, self.lines, self.budget = net, depth, lines, budget
        self._found: dict[int, _Functions] = {}

    def bound(self, inter: Intermediate, source: int, pairs: Tensor) -> Bounds:
        """Bound neurons of a node and take note of its linear bounds; see ``refine.Bounder``."""
        known = self._functions(inter, source)
        index = (pairs[:, 0], pairs[:, 1])
        low = inter.region.minimum(known.low) + known.low_shift
        up = known.up_shift - inter.region.minimum(-known.up)
        return Bounds(low[index], up[index])

    def land(
        self, inter: Intermediate, node: Node, form: Form, samples: Tensor | None
    ) -> backward.Landed:
        """Replace a node by its linear bounds in a form."""
        found = self._functions(inter, node.index)
        rows = form.dense(node.shape).rows.flatten(2)
        if samples is None:
            return self._landed(found, rows, slice(None))
        parts = []
        at = 0
        for sample, count in zip(
            *torch.unique_consecutive(samples, return_counts=True), strict=True
        ):
            here = rows[at : at + int(count)].flatten(0, 1).unsqueeze(0)
            one = slice(int(sample), int(sample) + 1)
            part, shift = self._landed(found, here, one)
            parts.append((part.rows[0], shift[0]))
            at += int(count)
        count = rows.shape[1]
        return (
            Form(torch.cat([part for part, _ in parts]).unflatten(0, (-1, count))),
            torch.cat([shift for _, shift in parts]).unflatten(0, (-1, count)),
        )

    def _landed(self, found: _Functions, rows: Tensor, images: slice) -> tuple[Form, Tensor]:
        above, below = rows.clamp(min=0), rows.clamp(max=0)
        part = above @ found.low[images].flatten(2) + below @ found.up[images].flatten(2)
        shift = above @ found.low_shift[images].unsqueeze(2)
        shift = shift + below @ found.up_shift[images].unsqueeze(2)
        return Form(part.unflatten(2, self.net.input_shape)), shift.squeeze(2)

    def _functions(self, inter: Intermediate, source: int) -> _Functions:
        if source not in self._found:
            depths = self.net.depths()
            for old in [i for i in self._found if depths[i] + self.depth < depths[source]]:
                del self._found[old]
            self._check(len(inter.like), source)
            self._found[source] = self._substituted(inter, source)
        return self._found[source]

    def _substituted(self, inter: Intermediate, source: int) -> _Functions:
        """Pull both rows of every neuron back; images one after another within a chunk."""
        node, batch = self.net.nodes[source], len(inter.like)
        count = torch.Size(node.shape).numel()
        device = inter.like.device
        pairs = torch.cartesian_prod(
            torch.arange(batch, device=device), torch.arange(count, device=device)
        )
        relaxation = backward.family(inter, self.lines)
        reached = stops(self.net, source, self.depth)
        step = chunk_size(inter, source, pairs, relaxation, self.budget // 2)
        parts: list[Tensor] = []
        shifts: list[Tensor] = []
        for part in pairs.split(step):
            samples = part[:, 0]

            def landing(node: Node, form: Form, samples: Tensor = samples) -> backward.Landed:
                return self.land(inter, node, form, samples)

            form, shift = backward.substitute(
                self.net,
                source,
                unit_rows(node, part[:, 1], inter.like),
                relaxation=relaxation,
                samples=samples,
                stops=reached,
                landing=landing,
            )
            assert form is not None
            rows = form.dense(self.net.input_shape).rows
            parts.append(rows)
            shifts.append(rows.new_zeros(rows.shape[:2]) if shift is None else shift)
        rows = torch.cat(parts).unflatten(0, (batch, count))
        shift = torch.cat(shifts).unflatten(0, (batch, count))
        return _Functions(rows[:, :, 0], shift[..., 0], -rows[:, :, 1], -shift[..., 1])

    def _check(self, batch: int, source: int) -> None:
        """Refuse linear bounds that do not fit the budget."""
        pixels = torch.Size(self.net.input_shape).numel()
        held = [len(found.low_shift[0]) for found in self._found.values()]
        wanted = sum(held) + torch.Size(self.net.nodes[source].shape).numel()
        size = 4 * 2 * batch * pixels * wanted
        if size > self.budget:
            raise RunError(
                f"linear bounds of node {self.net.nodes[source].name!r} need {size / 2**20:.0f} MB "
                f"for {batch} images, above the budget of {self.budget / 2**20:.0f} MB; raise it, "
                "or choose crown-ibp or crown"
            )


def image_bytes(net: Network, depth: int, like: Tensor) -> int:
    """Return the bytes of one image's linear bounds, for splitting a batch."""
    depths, pixels = net.depths(), torch.Size(net.input_shape).numel()
    sizes = {i: torch.Size(net.nodes[i].shape).numel() for i in net.bent()}
    most = max(
        (
            sum(size for i, size in sizes.items() if at <= depths[i] <= at + depth)
            for at in range(max(depths) + 1)
        ),
        default=0,
    )
    return 2 * 4 * most * pixels * like.element_size()
