"""VNN-LIB, version 1: declarations and assertions of linear comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import islice

from taut.errors import PropertyError
from taut.formats.vnnlib.formula import (
    Alternatives,
    Both,
    Bound,
    Form,
    all_of,
    any_of,
    at_most,
    product,
    times,
    total,
)

_TOKEN = re.compile(r"[()]|;[^\n]*|[^ \t\r\n();]+")
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?")
_NAME = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
_LONGEST = 400  # characters of a number
DEEPEST = 50  # parentheses within each other


class Parser:
    """Reads a text once, from left to right.

    Attributes
    ----------
    formulas
        One for each assertion.
    declared
        Numbers of the inputs (X) and outputs (Y) that were declared.

    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = [token for token in _TOKEN.findall(text) if token[0] != ";"]
        self._tokens.append("")  # the end
        self._at = 0
        self.formulas: list[Alternatives] = []
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self._known: dict[str, tuple[str, int]] = {}

    def run(self) -> None:
        """Read everything.

        Raises
        ------
        PropertyError
            At the first thing that is not understood; it says what, without the place.

        """
        while self._tokens[self._at]:
            self._expect("(")
            word = self._next()
            if word == "declare-const":
                self._declare()
            elif word == "assert":
                self.formulas.append(self._formula(0))
            else:
                raise self._unknown(word, "a command; known: declare-const, assert")
            self._expect(")")

    def place(self) -> tuple[int, int]:
        """Return line and column, from 1, of the last token read."""
        found = (m for m in _TOKEN.finditer(self._text) if m.group()[0] != ";")
        last = next(islice(found, max(self._at - 1, 0), None), None)
        start = len(self._text) if last is None else last.start()
        return self._text.count("\n", 0, start) + 1, start - self._text.rfind("\n", 0, start)

    def _next(self) -> str:
        token = self._tokens[self._at]
        if not token:
            self._at += 1
            raise PropertyError("the file ends in the middle of an expression")
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        found = self._next()
        if found != token:
            raise PropertyError(f"expected {token!r}, found {_short(found)}")

    def _unknown(self, found: str, what: str) -> PropertyError:
        return PropertyError(f"{_short(found)} is not {what}")

    def _declare(self) -> None:
        name = self._next()
        match = _NAME.fullmatch(name)
        if match is None:
            raise self._unknown(name, "the name of an input or output, X_0 or Y_0")
        if name in self._known:
            raise PropertyError(f"{name} is declared twice")
        kind, number = match[1], int(match[2])
        self._known[name] = kind, number
        self.declared[kind].add(number)
        sort = self._next()
        if sort != "Real":
            raise self._unknown(sort, "the sort Real")

    def _formula(self, depth: int) -> Alternatives:
        self._expect("(")
        word = self._next()
        if word in ("<=", ">="):
            found: Alternatives = [self._comparison(word)]
        elif word in ("and", "or"):
            join: Callable[[list[Alternatives]], Alternatives]
            join = all_of if word == "and" else any_of
            parts = self._several(self._formula, depth)
            found = parts[0] if len(parts) == 1 else join(parts)
        else:
            raise self._unknown(word, "an operator of formulas; known: and, or, <=, >=")
        self._expect(")")
        return found

    def _several(self, read: Callable[[int], Alternatives], depth: int) -> list[Alternatives]:
        if depth >= DEEPEST:
            raise PropertyError(f"more than {DEEPEST} parentheses within each other")
        found = [read(depth + 1)]
        while self._tokens[self._at] != ")":
            found.append(read(depth + 1))
        return found

    def _comparison(self, word: str) -> Both:
        known = self._known.get(self._tokens[self._at])
        if known is not None and known[0] == "X":  # most lines of most files end in a number
            match = _NUMBER.fullmatch(self._tokens[self._at + 1])
            if match is not None and match.end() <= _LONGEST:
                self._at += 2
                return Both((Bound(known[1], word == "<=", number(*match.groups())),), ())
        first, second = self._form(0), self._form(0)
        return at_most(first, second) if word == "<=" else at_most(second, first)

    def _form(self, depth: int) -> Form:
        token = self._next()
        if token == "(":
            return self._operation(depth)
        if token in self._known:
            kind, number = self._known[token]
            term = {number: Fraction(1)}
            return Form(term, {}, Fraction(0)) if kind == "X" else Form({}, term, Fraction(0))
        if _NAME.fullmatch(token):
            raise PropertyError(f"{token} is not declared")
        return Form({}, {}, exact(token))

    def _operation(self, depth: int) -> Form:
        word = self._next()
        if word not in ("+", "-", "*"):
            raise self._unknown(word, "an operator of numbers; known: +, -, *")
        if depth >= DEEPEST:
            raise PropertyError(f"more than {DEEPEST} parentheses within each other")
        terms = [self._form(depth + 1)]
        while self._tokens[self._at] != ")":
            terms.append(self._form(depth + 1))
        self._at += 1
        if word == "*":
            return product(terms)
        if word == "-" and len(terms) == 1:
            return times(terms[0], Fraction(-1))
        return total([terms[0], *(times(t, Fraction(1 if word == "+" else -1)) for t in terms[1:])])


def number(sign: str, whole: str, part: str | None, exponent: str | None) -> Fraction:
    """Return the exact number of a decimal's parts."""
    digits = int(whole + (part or ""))
    shift = int(exponent or 0) - len(part or "")
    value = Fraction(digits, 10**-shift) if shift < 0 else Fraction(digits * 10**shift)
    return -value if sign else value


def exact(lexeme: str) -> Fraction:
    """Return the exact number that a decimal stands for.

    Raises
    ------
    PropertyError
        When it is no decimal number, or has hundreds of digits.

    """
    match = _NUMBER.fullmatch(lexeme) if len(lexeme) <= _LONGEST else None
    if match is None:
        raise PropertyError(f"{_short(lexeme)} is neither a declared variable nor a number")
    return number(*match.groups())


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")
