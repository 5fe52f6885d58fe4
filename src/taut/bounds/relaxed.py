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
from taut.bounds.budget import BudgetError
from taut.bounds.form import Form
from taut.bounds.interval import Intermediate
from taut.bounds.rows import BRISK, chunk_size, unit_rows
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
    """Linear functions of the input below and above a node, and their extremes on the region.

    Coefficients ``(B, n, *input)``, all else ``(B, n)``.
    """

    low: Tensor
    low_shift: Tensor
    up: Tensor
    up_shift: Tensor
    lowest: Tensor
    highest: Tensor


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
        return Bounds(known.lowest[index], known.highest[index])

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
            self._check(inter.like, source)
            self._found[source] = self._substituted(inter, source)
        return self._found[source]

    def _substituted(self, inter: Intermediate, source: int) -> _Functions:
        """Pull both rows of every neuron back; images one after another within a chunk."""
        node, batch = self.net.nodes[source], len(inter.like)
        count = torch.Size(node.shape).numel()
        like = inter.like
        device = like.device
        pairs = torch.cartesian_prod(
            torch.arange(batch, device=device), torch.arange(count, device=device)
        )
        relaxation = backward.family(inter, self.lines)
        reached = stops(self.net, source, self.depth)
        step = chunk_size(inter, source, pairs, relaxation, self.budget // 4)
        landed = 4 * max((torch.Size(self.net.nodes[i].shape).numel() for i in reached), default=0)
        landed += 8 * torch.Size(self.net.input_shape).numel()
        step = max(1, min(step, min(self.budget // 4, BRISK) // (2 * landed * like.element_size())))
        low, up = (like.new_empty(len(pairs), *self.net.input_shape) for _ in range(2))
        low_shift, up_shift, lowest, highest = (like.new_zeros(len(pairs)) for _ in range(4))
        for at in range(0, len(pairs), step):
            part = pairs[at : at + step]
            samples = part[:, 0]

            def landing(node: Node, form: Form, samples: Tensor = samples) -> backward.Landed:
                return self.land(inter, node, form, samples)

            form, shift = backward.substitute(
                self.net,
                source,
                unit_rows(node, part[:, 1], like),
                relaxation=relaxation,
                samples=samples,
                stops=reached,
                landing=landing,
            )
            assert form is not None
            rows, here = form.dense(self.net.input_shape).rows, slice(at, at + step)
            low[here], up[here] = rows[:, 0], -rows[:, 1]
            least = inter.region[samples].minimum(rows)
            if shift is not None:
                low_shift[here], up_shift[here] = shift[:, 0], -shift[:, 1]
                least = least + shift
            lowest[here], highest[here] = least[:, 0], -least[:, 1]
        made = (low, low_shift, up, up_shift, lowest, highest)
        return _Functions(*(tensor.unflatten(0, (batch, count)) for tensor in made))

    def _check(self, like: Tensor, source: int) -> None:
        """Refuse linear bounds that do not fit the budget."""
        batch = len(like)
        pixels = torch.Size(self.net.input_shape).numel()
        held = [len(found.low_shift[0]) for found in self._found.values()]
        wanted = sum(held) + torch.Size(self.net.nodes[source].shape).numel()
        size = 2 * batch * pixels * wanted * like.element_size()
        if size > self.budget:
            raise BudgetError(
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
    return int(2.4 * most * pixels * like.element_size())
