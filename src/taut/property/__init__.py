"""What must hold at the output: margins of a class, and unions of polyhedra to stay out of.

:mod:`~taut.property.margins` is what images with labels need, and all that is imported here.
:mod:`~taut.property.specification` has properties that are linear in the outputs,
:mod:`~taut.property.case` one with the box of inputs it is about, in exact decimals.
"""

from taut.property.margins import check_labels, margin_rows, pad_true_class, true_margins

__all__ = ["check_labels", "margin_rows", "pad_true_class", "true_margins"]
