"""Certifies on a Ray cluster of two nodes, one of which dies in the middle.

``python ray_driver.py FOLDER [INSTANCES]`` leaves the journal in FOLDER/ray and prints what
happened as one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

from pool_works import Stuck, small_job
from ray.cluster_utils import Cluster

from taut.api import results
from taut.api.cluster import RayCluster

TINY = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000,
         "health_check_failure_threshold": 4}  # fmt: skip
"""How soon a dead node is noticed; by default after half a minute."""


class Watching(RayCluster):
    """A cluster whose second node gets stuck with its first task, and is killed then."""

    def run(self, work: Any, items: Any, size: int) -> Any:
        return super().run(Stuck(work, NODE, FOLDER / "mark"), items, size)


def kill_the_stuck_node() -> None:
    while not (FOLDER / "mark").exists():
        time.sleep(0.05)
    CLUSTER.remove_node(SECOND, allow_graceful=False)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    CLUSTER = Cluster(initialize_head=True, head_node_args={**TINY, "_system_config": QUICK})
    try:
        SECOND = CLUSTER.add_node(**TINY)
        CLUSTER.wait_for_nodes()
        NODE = SECOND.node_id
        killer = threading.Thread(target=kill_the_stuck_node, daemon=True)
        killer.start()
        heard: list[int] = []
        figures = results.run(
            small_job(),
            FOLDER / "ray",
            pool=Watching(CLUSTER.address),
            on_verdict=lambda verdict: heard.append(verdict.index),
        )
        killer.join(timeout=60)
        told = {
            "heard": heard,
            "stuck": json.loads((FOLDER / "mark").read_text()),
            "killed": not killer.is_alive(),
            "figures": figures,
        }
        print(json.dumps(told))
    finally:
        CLUSTER.shutdown()
