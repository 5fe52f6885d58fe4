"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def first(default: str) -> Any:
    """Return the option ``--first``; ``default`` is what its help says of leaving it out."""
    return typer.Option(
        "--first",
        metavar="N",
        min=1,
        help="Only the first N images of the split.",
        show_default=default,
    )


def out(default: str, *, what: str = "the results") -> Any:
    """Return the option ``--out`` of a command that leaves ``what`` in a folder."""
    return typer.Option("--out", metavar="DIR", help=f"Folder for {what}.", show_default=default)


def batch_size(default: str | bool) -> Any:
    """Return the option ``--batch-size``; ``default`` is what its help says of leaving it out."""
    return typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images at a time; halved by itself where memory runs out.",
        show_default=default,
    )


Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_WEIGHTS",
        help="Run folder of `taut train`, a .safetensors file of taut, or an .onnx file.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Data set, see `taut data list`.",
        show_default="the run's",
    ),
]
Split = Annotated[
    str,
    typer.Option("--split", metavar="SPLIT", help="train, validation, train+validation or test."),
]
First = Annotated[int | None, first("all")]
Eps = Annotated[
    str | None,
    typer.Option(
        "--eps",
        metavar="RADIUS",
        help="Radius around each image, in pixel units of 0 to 1: 0.1, or a fraction, 8/255.",
        show_default="the run's certify.eps",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder to look for data in first.",
        show_default="the folder TAUT_DATA names, then the user's cache",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="DEVICE", help="auto (a GPU where there is one), cpu or cuda."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="CPU threads to compute with.",
        show_default="PyTorch's choice",
    ),
]
BatchSize = Annotated[int, batch_size(True)]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Processes that share the work; threads and free memory are divided among them. With "
        "--ray, tasks at a time.",
        show_default="1; with --ray, as many as the cluster has room for",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster that is there: auto, host:port or ray://host:port. --threads "
        "are then those of a task.",
        show_default="this machine",
    ),
]


def retry(what: str, default: str) -> Any:
    """Return the option ``--retry``; ``what`` is tried again, ``default`` is done without it."""
    return typer.Option(
        "--retry",
        metavar="unknown",
        help=f"Try {what} again, with a new --timeout; the rest stays.",
        show_default=default,
    )


Solver = Annotated[
    str,
    typer.Option(
        "--solver",
        metavar="NAME",
        help="Solver of mip, lp and gm-protocol: highs, or scip or gurobi where their packages "
        "(PySCIPOpt, gurobipy) are installed.",
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of the attack's random starts.")
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Discard earlier results in the output folder and start afresh."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output and nothing else there."),
]
