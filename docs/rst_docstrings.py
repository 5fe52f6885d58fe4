"""Griffe extension: the reStructuredText of taut's docstrings as Markdown.

Roles become code, ``.. math::`` becomes a code block with the formula as it is
written, a paragraph that ends in ``::`` introduces a code block.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?([\w.]+)`")
_INLINE_MATH = re.compile(r":math:`([^`]*)`")
_MATH = re.compile(
    r"^(?P<i> *)\.\. math:: *(?P<first>.*)\n(?P<rest>(?:(?P=i) +.*\n?|\n(?=(?P=i) +\S))*)", re.M
)
_LITERAL = re.compile(
    r"^(?P<i> *)(?P<lead>\S.*)::\n\n(?P<body>(?:(?P=i) {2,}.*\n?|\n(?=(?P=i) {2,}\S))+)", re.M
)


def markdown(text: str) -> str:
    """Return a docstring with its reStructuredText turned into Markdown."""
    text = _MATH.sub(_math, text + "\n")
    text = _LITERAL.sub(_literal, text)
    text = _INLINE_MATH.sub(r"`\1`", text)
    text = _ROLE.sub(r"`\1`", text)
    return text.replace("``", "`").rstrip("\n") if "```" not in text else _outside_fences(text)


def _outside_fences(text: str) -> str:
    parts = re.split(r"(```.*?```)", text, flags=re.S)
    return "".join(p if p.startswith("```") else p.replace("``", "`") for p in parts).rstrip("\n")


def _math(match: re.Match[str]) -> str:
    lines = [match["first"], *match["rest"].splitlines()]
    body = "\n".join(match["i"] + line.strip() for line in lines if line.strip())
    return f"{match['i']}```latex\n{body}\n{match['i']}```\n\n"


def _literal(match: re.Match[str]) -> str:
    indent, body = match["i"], match["body"].rstrip()
    return f"{indent}{match['lead']}:\n\n{indent}```text\n{body}\n{indent}```\n\n"


class RestructuredText(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
