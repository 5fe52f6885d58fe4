"""Read the pickles of CIFAR-10 without unpickling.

A pickle is a program: the standard unpickler imports and calls what the file names. This
reader knows only the opcodes that the published files use (written by Python 2), and gives
each the one meaning that cannot do harm: a ``GLOBAL`` becomes a pair of names, a
``REDUCE`` becomes a record of what would have been called, and nothing is imported,
called or looked up. The memo is write-only, so structures cannot be shared or cyclic,
and what is built stays in proportion to the length of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taut.errors import DataError


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions; never looked up."""

    module: str
    name: str


@dataclass
class Call:
    """A call that a pickle asks for, and the state it would set; never made."""

    function: Global
    arguments: tuple[object, ...]
    state: object = None


ALLOWED: Final = frozenset(
    {
        Global("numpy.core.multiarray", "_reconstruct"),
        Global("numpy", "ndarray"),
        Global("numpy", "dtype"),
    }
)
"""The names an array of bytes needs; any other ends the reading."""


class Reader:
    """One pass over one pickle."""

    def __init__(self, content: bytearray, path: Path) -> None:
        self.content = memoryview(content)
        self.path = path
        self.position = 0
        self.stack: list[object] = []
        self.marks: list[int] = []

    def run(self) -> object:
        """Read to the end; return the value built, or raise :class:`DataError`."""
        while (opcode := self.take(1)[0]) != _STOP:
            action = _ACTIONS.get(opcode)
            if action is None:
                raise self.error(f"opcode {bytes((opcode,))!r}, which CIFAR-10 files never hold")
            action(self)
        if self.marks or len(self.stack) != 1:
            raise self.error("an unfinished structure")
        return self.stack.pop()

    def error(self, what: str) -> DataError:
        """Return the error for what was found at this position."""
        return DataError(f"{self.path} is no CIFAR-10 batch: byte {self.position} ends {what}")

    def take(self, count: int) -> memoryview:
        """Return the next ``count`` bytes, a view."""
        end = self.position + count
        if count < 0 or end > len(self.content):
            raise DataError(
                f"{self.path} is truncated: expected {max(count, 0)} bytes at byte "
                f"{self.position}, found {len(self.content) - self.position}"
            )
        piece = self.content[self.position : end]
        self.position = end
        return piece

    def number(self, code: str) -> int:
        """Return the next little-endian integer of the ``struct`` code."""
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]
        return value

    def line(self) -> str:
        """Return the text up to the next newline (a module or a name: at most 100 bytes)."""
        window = bytes(self.content[self.position : self.position + 100])
        text, newline, _ = window.partition(b"\n")
        if not newline:
            raise self.error("a name without an end")
        self.position += len(text) + 1
        return text.decode("latin-1")

    def pop(self) -> object:
        """Take the value on top of the stack, never from below the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.error("a structure without a value")
        return self.stack.pop()

    def pop_marked(self) -> list[object]:
        """Take all values since the last mark, and the mark."""
        if not self.marks:
            raise self.error("a structure without a start")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def _global(reader: Reader) -> None:
    named = Global(reader.line(), reader.line())
    if named not in ALLOWED:
        raise DataError(
            f"{reader.path} asks to import {named.name!r} of {named.module!r}, which no CIFAR-10 "
            "batch does: the file is not what it claims to be, and nothing of it was run"
        )
    reader.stack.append(named)


def _tuple(count: int) -> Callable[[Reader], None]:
    def action(reader: Reader) -> None:
        values = [reader.pop() for _ in range(count)]
        reader.stack.append(tuple(reversed(values)))

    return action


def _reduce(reader: Reader) -> None:
    arguments, function = reader.pop(), reader.pop()
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise reader.error("a call of something that is no function")
    reader.stack.append(Call(function, arguments))


def _build(reader: Reader) -> None:
    state, target = reader.pop(), reader.pop()
    if not isinstance(target, Call):
        raise reader.error("a state for something that has none")
    target.state = state
    reader.stack.append(target)


def _append_all(reader: Reader) -> None:
    values, target = reader.pop_marked(), reader.pop()
    if not isinstance(target, list):
        raise reader.error("items of something that is no list")
    target.extend(values)
    reader.stack.append(target)


def _set_items(reader: Reader) -> None:
    values, target = reader.pop_marked(), reader.pop()
    if not isinstance(target, dict) or len(values) % 2:
        raise reader.error("entries of something that is no dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, bytes):
            raise reader.error("a key that is no text")
        target[key] = value
    reader.stack.append(target)


def _protocol(reader: Reader) -> None:
    if reader.number("B") != 2:
        raise reader.error("a pickle protocol other than 2")


def _skip(count: int) -> Callable[[Reader], None]:
    def action(reader: Reader) -> None:
        reader.take(count)

    return action


_STOP: Final = ord(".")
_ACTIONS: Final[dict[int, Callable[[Reader], None]]] = {
    0x80: _protocol,
    ord("q"): _skip(1),  # BINPUT: the memo is never read
    ord("r"): _skip(4),  # LONG_BINPUT
    ord("K"): lambda reader: reader.stack.append(reader.number("B")),
    ord("M"): lambda reader: reader.stack.append(reader.number("H")),
    ord("J"): lambda reader: reader.stack.append(reader.number("i")),
    ord("U"): lambda reader: reader.stack.append(bytes(reader.take(reader.number("B")))),
    ord("T"): lambda reader: reader.stack.append(reader.take(reader.number("i"))),  # a view
    ord("N"): lambda reader: reader.stack.append(None),
    0x89: lambda reader: reader.stack.append(False),
    ord("]"): lambda reader: reader.stack.append([]),
    ord("}"): lambda reader: reader.stack.append({}),
    ord("("): lambda reader: reader.marks.append(len(reader.stack)),
    ord("t"): lambda reader: reader.stack.append(tuple(reader.pop_marked())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("e"): _append_all,
    ord("u"): _set_items,
    ord("c"): _global,
    ord("R"): _reduce,
    ord("b"): _build,
}


def parse_pickle(content: bytearray, path: Path) -> object:
    """Return the value a CIFAR-10 pickle describes, built of inert parts.

    Byte strings of the long form come back as views into ``content``.

    Raises
    ------
    DataError
        When the file is truncated, holds an opcode or a name that CIFAR-10 files do not
        hold, or makes no sense.

    """
    return Reader(content, path).run()
