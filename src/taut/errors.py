"""Errors a user can act on.

Every error that taut raises on purpose derives from :class:`TautError` and
carries one message that says what to do next. The command line prints that
message on one line and exits with code 2; a Python caller can catch the class.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class TautError(Exception):
    """Base class of every error taut raises on purpose."""


class ConfigError(TautError):
    """A recipe, option or argument has an unknown key, a wrong type or a value out of range."""


class DataError(TautError):
    """A data set is missing, truncated or corrupt, or labels do not fit the model."""


class RegionError(TautError):
    """An input region is malformed: eps negative or NaN, lower above upper, shapes that differ."""


class PropertyError(TautError):
    """A property is malformed, not understood, or does not fit the network."""


class ModelError(TautError):
    """A model cannot be traced, or weights do not belong to it."""


class UnsupportedOperator(ModelError):  # noqa: N818 - the field's word, and the contract's
    """The traced model holds an operation that taut has no rule for."""


class RunError(TautError):
    """A run folder is missing, holds another run, or is damaged."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU allocator has no class of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in text for words in _OUT_OF_MEMORY)
