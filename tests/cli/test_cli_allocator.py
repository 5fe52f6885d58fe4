"""The C library is told to keep pages, where it is glibc, and nothing breaks."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from cli_helpers import environment

from taut.cli.allocator import keep_pages

PROGRAM = """
import resource, sys
import torch
from taut.cli.allocator import keep_pages

told = keep_pages() if sys.argv[1] == "keep" else False
kept = [torch.full((1 << size,), float(size)) for size in range(8, 23)]
for size, tensor in zip(range(8, 23), kept, strict=True):
    assert tensor.shape == (1 << size,) and bool((tensor == size).all())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = torch.ones(1 << 24)
    assert float(block.sum()) == 1 << 24
    del block
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> tuple[bool, int]:
    """What `keep_pages` told and the page faults of making 64 MiB twenty times."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], env=environment(), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    told, faults = done.stdout.split()
    return told == "True", int(faults)


def test_allocation_works_and_pages_are_used_again() -> None:
    told, faults = _faults("keep")
    assert told == (platform.libc_ver()[0] == "glibc")
    # The heap may need two places for the block before a free one fits it; never twenty.
    assert not told or faults < _faults("plain")[1] / 4


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # say, musl
    assert keep_pages() is False
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # is not even asked
    assert keep_pages() is False


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        calls.append((option, value))
        return 0

    library: Any = SimpleNamespace(gnu_get_libc_version=None, mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr("sys.platform", "linux")
    assert keep_pages() is False
    assert calls == [(-4, 0)]
