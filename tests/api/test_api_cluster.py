"""Certifying on a Ray cluster: two nodes, one of which dies; and what happens without a cluster."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pool_works import Failing, Squares, decided, small_job

from taut.api import cluster, results
from taut.api.cluster import RayCluster
from taut.api.pool import Failure
from taut.errors import ConfigError, DataError, RunError
from taut.store import Journal
from taut.verify import Verdict

DRIVER = Path(__file__).with_name("ray_driver.py")


def kept(folder: Path) -> list[Verdict]:
    with Journal(folder / "journal.sqlite") as journal:
        return journal.verdicts()


def test_a_node_that_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"]
    assert len(told["stuck"]) == 1  # `branch` takes part, so images travel alone
    assert sorted(told["heard"]) == list(range(24))  # each once, also those that were stuck
    figures = results.run(small_job(), tmp_path / "plain")
    plain, shared = kept(tmp_path / "plain"), kept(tmp_path / "ray")
    assert [decided(v) for v in shared] == [decided(v) for v in plain]
    for one, other in zip(plain, shared, strict=True):
        assert one.margin == pytest.approx(other.margin, rel=1e-4, abs=1e-5)
        assert one.parts == other.parts
    for name in ("natural_accuracy", "attacked_accuracy", "certified_accuracy", "verdicts"):
        assert told["figures"][name] == figures[name]
    # what Ray says of the node is not among what the command prints
    assert len(done.stdout.splitlines()) == 1


class Died(Exception):  # noqa: N818 - stands in for RayError
    """A node or process of the cluster is gone."""


class Refused(Died):
    """The task could not begin, or failed before it was ours."""


@dataclass
class Fake:
    """As much of Ray as a pool uses, in this process; tasks fail as ``outcomes`` say, in turn."""

    outcomes: list[str]
    cpus: float = 2.0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 8.0}},
            {"Alive": False, "Resources": {"CPU": 64.0}},
            {"Alive": True, "Resources": {}},
        ]

    def put(self, value: bytes) -> bytes:
        return value

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "num_gpus": 0.0, "max_retries": 0}

        class Task:
            def __init__(self, function: Any) -> None:
                self.function = function

            def remote(self, *arguments: Any) -> tuple[object, Any, Any]:
                return (object(), self.function, arguments)

        return Task

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> bytes:
        _, function, arguments = reference
        outcome = self.outcomes.pop(0) if self.outcomes else "well"
        if outcome == "died":
            raise Died
        if outcome == "refused":
            raise Refused("no module named taut")
        found: bytes = function(*arguments)
        return found

    class exceptions:  # noqa: N801 - as it is called there
        RayError = Died
        RayTaskError = Refused


def with_fake(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> RayCluster:
    monkeypatch.setattr(cluster, "_imported", lambda: fake)
    return RayCluster("auto")


def test_tasks_are_given_out_again_three_times_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from taut.api.pool import Lost

    work = Squares(tmp_path / "log")
    pool = with_fake(monkeypatch, Fake(["died", "well", "died"]))
    assert dict(pool.run(work, [5, 6, 7], 2)) == {0: 25, 1: 36, 2: 49}
    pool = with_fake(monkeypatch, Fake(["died"] * 3))
    assert dict(pool.run(work, [5], 2)) == {0: Lost()}


def test_errors_come_back_and_a_cluster_without_room_or_taut_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = Squares(tmp_path / "log")
    with pytest.raises(DataError, match="upside down"):
        list(with_fake(monkeypatch, Fake([])).run(Failing("taut"), [1], 1))
    with pytest.raises(RunError, match=r"cannot run taut .* install the same taut"):
        list(with_fake(monkeypatch, Fake(["refused"])).run(work, [1], 1))
    with pytest.raises(RunError, match="no node left with 1 CPUs for a task"):
        list(with_fake(monkeypatch, Fake([], cpus=0.0)).run(work, [1], 1))


def test_nodes_with_another_taut_are_refused(tmp_path: Path) -> None:
    order = cluster._Order("0.0.0", 1, 1, None)
    work = pickle.dumps(Squares(tmp_path / "log"))
    failure = pickle.loads(cluster._carry_out(order, work, pickle.dumps([1])))
    assert isinstance(failure, Failure)
    with pytest.raises(RunError, match=r"this is 0\.0\.0; install the same one everywhere"):
        failure.throw()
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("address", ["local", "", "host", "host:x", "http://host:6379", "a b:1"])
def test_addresses_of_another_form_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="auto, host:port or ray://host:port"):
        RayCluster(address)


def test_where_nobody_listens_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Fake([])
    monkeypatch.setattr(fake, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "_imported", lambda: fake)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999999"):
        with pytest.raises(RunError, match=rf"no Ray cluster at {address} .*check the address"):
            list(RayCluster(address).run(Squares(tmp_path / "log"), [1], 1))


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'taut\[ray\]'"):
        RayCluster("auto")
