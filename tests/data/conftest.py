"""No test of the data room sees the user's own data or cache."""

import pytest
from tiny_data import TinyCifar, TinyIdx


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TAUT_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))


@pytest.fixture(scope="session")
def tiny():
    return TinyIdx()


@pytest.fixture(scope="session")
def tiny_cifar():
    return TinyCifar()
