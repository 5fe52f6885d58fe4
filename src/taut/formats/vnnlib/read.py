"""From a path to a property: boxes of inputs, and the outputs that are unsafe there."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from taut.errors import PropertyError
from taut.formats.vnnlib import formula, second
from taut.formats.vnnlib.first import Parser
from taut.property.case import Case

_VERSION = re.compile(r"(?:[ \t\r\n]|;[^\n]*)*\([ \t\r\n]*vnnlib-version[ \t\r\n]*<([0-9.]*)>")


@dataclass(frozen=True, eq=False)
class VnnLib:
    """The property of a VNN-LIB file.

    Its question: is there an input in one of the boxes whose output is unsafe there (**sat**), or
    is there none (**unsat**, the property holds)?

    Attributes
    ----------
    inputs, outputs
        How many variables X and Y there are; X and Y are the network's input and output in
        row-major order.
    cases
        One for each different box.

    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def check_fits(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> None:
        """Raise :class:`PropertyError` unless a network has as many inputs and outputs."""
        found = prod(input_shape), prod(output_shape)
        if found != (self.inputs, self.outputs):
            raise PropertyError(
                f"the property is about {self.inputs} inputs and {self.outputs} outputs, and the "
                f"network has {found[0]} and {found[1]}; check that the files belong together"
            )


def read_vnnlib(path: str | os.PathLike[str]) -> VnnLib:
    """Read a ``.vnnlib`` or ``.vnnlib.gz`` file, of version 1 or 2.

    Understood are declarations of inputs ``X_0 ...`` and outputs ``Y_0 ...`` and assertions made
    of ``and``, ``or``, ``<=`` and ``>=``, bounds of single inputs and linear constraints on
    outputs mixed at will; everything else is refused. Numbers are taken as the exact decimals
    they are. The boxes and right-hand sides of the cases are rounded outwards to float64, so
    that a proof about the cases is one about the file; ``Case.exact`` has them unrounded.

    A file that begins with ``(vnnlib-version <2.0>)`` is read by the package ``vnnlib``.

    Raises
    ------
    PropertyError
        When the file is missing, damaged or not understood (with line and column, in version 2
        with the line where the package tells it), an input is not bounded from both sides, a
        box is empty, a number of X or Y is left out, or nothing is asserted about outputs.
    ConfigError
        When a file of version 2 comes and the package ``vnnlib`` is not installed.

    """
    file = Path(path)
    return parse(_text(file), str(file))


def parse(text: str, name: str) -> VnnLib:
    """Read the text of a property; ``name`` is what errors call it."""
    version = _VERSION.match(text)
    if version is not None:
        return _second(text, name, version[1])
    parser = Parser(text)
    try:
        parser.run()
    except PropertyError as error:
        line, column = parser.place()
        raise PropertyError(f"{name}, line {line}, column {column}: {error}") from None
    inputs = _count(parser.declared["X"], "input X", name)
    outputs = _count(parser.declared["Y"], "output Y", name)
    return _made(parser.formulas, inputs, outputs, name)


def _second(text: str, name: str, version: str) -> VnnLib:
    if version != "2.0":
        raise PropertyError(
            f"{name} is of VNN-LIB version {version}; taut reads versions 1 and 2.0"
        )
    try:
        formulas, inputs, outputs = second.parse(text)
    except PropertyError as error:
        raise PropertyError(f"{name}: {error}") from error
    return _made(formulas, inputs, outputs, name)


def _made(formulas: Sequence[formula.Alternatives], inputs: int, outputs: int, name: str) -> VnnLib:
    try:
        return VnnLib(inputs, outputs, formula.cases(formulas, inputs, outputs))
    except PropertyError as error:
        raise PropertyError(f"{name}: {error}") from error


def _count(declared: set[int], what: str, name: str) -> int:
    """Return how many variables there are; they are numbered from 0 without gaps."""
    if not declared:
        raise PropertyError(f"{name} declares no {what}_0")
    missing = next((i for i in range(max(declared)) if i not in declared), None)
    if missing is not None:
        raise PropertyError(f"{name} declares {what}_{max(declared)}, but no {what}_{missing}")
    return len(declared)


def _text(path: Path) -> str:
    if not path.is_file():
        raise PropertyError(f"there is no property file {path}; check the path")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PropertyError(f"{path} is damaged or truncated ({error}); copy it again") from error
    except UnicodeDecodeError as error:
        raise PropertyError(f"{path} is no text file ({error})") from error
    except OSError as error:
        raise PropertyError(f"{path} cannot be read: {error}") from error
