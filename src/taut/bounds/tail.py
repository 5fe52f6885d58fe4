"""Rows over the logits, pulled back through the affine nodes at the end of a network."""

from __future__ import annotations

from torch import Tensor

from taut.bounds import backward
from taut.bounds.form import Form
from taut.graph.network import Network, Node
from taut.operators.base import Activation
from taut.operators.forms import Lines


def merged(net: Network, rows: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
    r"""Merge rows with the affine nodes behind the last activations (elision).

    .. math:: a z_{out} = \sum_i a_i z_i + c

    The sum runs over the activations that only affine nodes separate from the logits, and
    over the input where there is an affine way past all activations.

    Parameters
    ----------
    net
        The network.
    rows
        Coefficients a, ``(B, R, *output shape)``.

    Returns
    -------
    tuple
        The rows :math:`a_i` by node index, ``(B, R, *node shape)``, and the constant c,
        ``(B, R)``; None where it is zero.

    """
    found: dict[int, Tensor] = {}
    if isinstance(net.output.operator, Activation):
        return {net.output.index: rows}, None

    def land(node: Node, form: Form) -> backward.Landed:
        found[node.index] = form.dense(node.shape).rows
        return None, None

    over_input, constant = backward.substitute(
        net,
        net.output.index,
        Form(rows),
        relaxation=_none,
        samples=None,
        stops=frozenset(n.index for n in net.nodes if isinstance(n.operator, Activation)),
        landing=land,
    )
    if over_input is not None:
        found[0] = over_input.dense(net.input_shape).rows
    return found, constant


def _none(node: Node, form: Form, samples: Tensor | None) -> Lines:
    raise AssertionError(f"rows went on into {node.name}, an activation")
