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
import torch
from taut.cli.allocator import keep_pages
done = keep_pages()
kept = [torch.full((1 << size,), float(size)) for size in range(8, 23)]
for size, tensor in zip(range(8, 23), kept, strict=True):
    assert tensor.shape == (1 << size,) and bool((tensor == size).all())
big = torch.ones(1 << 24); first = big.data_ptr(); del big
again = torch.ones(1 << 24)
print(done, again.data_ptr() == first, float(again.sum()) == 1 << 24)
"""


def test_allocation_works_and_memory_comes_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    told, reused, whole = done.stdout.split()
    is_glibc = platform.libc_ver()[0] == "glibc"
    assert told == str(is_glibc)
    assert reused == "True" or not is_glibc
    assert whole == "True"


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
