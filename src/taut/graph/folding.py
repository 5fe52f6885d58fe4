"""Which steps of a graph bounds may pass as one, and in which order flattened images lie."""

from __future__ import annotations

from taut.graph.graph import Step
from taut.operators.affine import Linear
from taut.operators.base import Operator
from taut.operators.cells import Ends
from taut.operators.shape import Reshape

_SMALL = 2**20  # elements of a weight that are cheaper to reorder than the images


def readers_of(steps: tuple[Step, ...]) -> list[list[int]]:
    """Return, for every step, the steps that read it."""
    found: list[list[int]] = [[] for _ in steps]
    for index, step in enumerate(steps):
        for source in step.inputs:
            found[source].append(index)
    return found


def foldable(steps: tuple[Step, ...]) -> dict[int, int]:
    """Find linear and convolution nodes read by one batch norm and by nothing else."""
    readers = readers_of(steps)
    folded = {}
    for index, step in enumerate(steps):
        if step.template is None or step.template.norm is None:
            continue
        before = step.inputs[0]
        template = steps[before].template
        if template is not None and template.folds and readers[before] == [index]:
            folded[before] = index
    return folded


def pixel_major(steps: tuple[Step, ...]) -> frozenset[int]:
    """Find flattened images that only small linear layers read.

    Reordering the columns of a small weight once a call is cheaper than reordering
    every image; for a large weight it is not. Each template is asked for its operator
    once at most.
    """
    readers = readers_of(steps)
    made: dict[int, Operator | None] = {}

    def operator(index: int) -> Operator | None:
        if index not in made:
            template = steps[index].template
            made[index] = None if template is None else template.make()
        return made[index]

    def reordered(index: int) -> bool:
        layer = operator(index)
        return isinstance(layer, Linear) and layer.weight.numel() <= _SMALL

    def flattens(index: int) -> bool:
        step = steps[index]
        if step.template is None or len(step.shape) != 1 or not readers[index]:
            return False
        before = step.inputs[0]
        if len(steps[before].shape) != 3 or isinstance(operator(before), Ends):
            return False
        return isinstance(operator(index), Reshape)

    return frozenset(
        index
        for index in range(len(steps))
        if flattens(index) and all(reordered(reader) for reader in readers[index])
    )
