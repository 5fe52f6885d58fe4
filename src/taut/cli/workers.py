"""From the options of a command to the pool that does its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taut.cli.allocator import keep_pages
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.api.pool import Pool

UNKNOWN = "unknown"
"""What ``--retry`` can name."""


def pool_of(
    workers: int | None, ray: str | None, threads: int | None, device: str = "cpu"
) -> Pool | None:
    """Return the pool that the options ask for; None where this process does the work itself.

    Parameters
    ----------
    workers, ray, threads
        The options.
    device
        Where the network is: on a GPU, every task of a cluster asks for one.

    Raises
    ------
    ConfigError
        When Ray is asked for and not installed, or its address has another form.

    """
    if ray is not None:
        from taut.api.cluster import RayCluster

        gpus = 0.0 if device == "cpu" else 1.0
        return RayCluster(ray, workers, threads or 1, gpus, keep_pages)
    if workers is None or workers == 1:
        return None
    import torch

    from taut.api.processes import Processes

    return Processes(workers, threads or torch.get_num_threads(), keep_pages)


def retries(retry: str | None) -> bool:
    """Return whether ``--retry`` was given, checked."""
    if retry not in (None, UNKNOWN):
        raise ConfigError(f"--retry takes the word {UNKNOWN}; got {retry!r}")
    return retry is not None
