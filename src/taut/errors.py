"""Errors a user can act on.

Every error that taut raises on purpose derives from :class:`TautError` and
carries one message that says what to do next. The command line prints that
message on one line and exits with code 2; a Python caller can catch the class.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class TautError(Exception):
    """Base class of every error taut raises on purpose."""


class ConfigError(TautError):
    """A recipe, option or argument has an unknown key, a wrong type or a value out of range."""


class DataError(TautError):
    """A data set is missing, truncated or corrupt, or labels do not fit the model."""


class RegionError(TautError):
    """An input region is malformed: eps negative or NaN, lower above upper, shapes that differ."""


class ModelError(TautError):
    """A model cannot be traced, or weights do not belong to it."""


class UnsupportedOperator(ModelError):  # noqa: N818 - the field's word, and the contract's
    """The traced model holds an operation that taut has no rule for."""


class RunError(TautError):
    """A run folder is missing, holds another run, or is damaged."""
