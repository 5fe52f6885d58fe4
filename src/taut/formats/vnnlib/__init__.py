"""VNN-LIB in: :func:`read_vnnlib`, versions 1 and 2; and counterexamples as VNN-COMP has them."""

from taut.formats.vnnlib.answer import counterexample, decimal
from taut.formats.vnnlib.read import VnnLib, read_vnnlib

__all__ = ["VnnLib", "counterexample", "decimal", "read_vnnlib"]
