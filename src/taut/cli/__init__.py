"""The command ``taut``, one file per command."""

from taut.cli.app import app, main

__all__ = ["app", "main"]
