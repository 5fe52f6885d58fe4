"""Branch and bound: complete verification by splitting regions."""

from taut.verify.branch.branch import Branch

__all__ = ["Branch"]
