"""``taut verify``: decide a property of a network, or a whole benchmark of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.common import programs, resumable, say
from taut.cli.common import threads as computing_with
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.api.answers import Row
    from taut.api.pool import Pool
    from taut.verify.instance import Procedure
    from taut.verify.outcome import Outcome

SECONDS = 60.0
"""What an instance has where neither the command nor the list says."""

Network = Annotated[
    Path | None,
    typer.Argument(metavar="NETWORK", help="An .onnx file, or .onnx.gz.", show_default=False),
]
Property = Annotated[
    Path | None,
    typer.Argument(metavar="PROPERTY", help="A .vnnlib file, or .vnnlib.gz.", show_default=False),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="Time for an instance, after its files are read.",
        show_default="that of the list, else 60",
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        "--stages",
        metavar="A,B,...",
        help="Stages in order: attack, bounding methods (`taut methods`), branch, mip, lp.",
        show_default="attack,ibp,crown-ibp,crown,alpha-crown,branch",
    ),
]
Instances = Annotated[
    Path | None,
    typer.Option(
        "--instances",
        metavar="FILE",
        help="Decide every line NETWORK,PROPERTY,SECONDS of a file; paths count from its folder.",
        show_default="one instance",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="With --instances: the file that gets a line for each; those in it are not redone.",
        show_default="required with --instances",
    ),
]


Retry = Annotated[
    str | None,
    options.retry(
        "lines of --instances whose answer is unknown, timeout or error",
        "lines without an answer only",
    ),
]


def verify(
    network: Network = None,
    property_file: Property = None,
    instances: Instances = None,
    out: Out = None,
    timeout: Timeout = None,
    stages: Stages = None,
    solver: options.Solver = "highs",
    seed: options.Seed = 0,
    threads: options.Threads = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    retry: Retry = None,
) -> None:
    """Decide whether a network can violate a property.

    The first line of the output is the answer: sat (there is a counterexample), unsat (it is
    proved that there is none), unknown or timeout. After sat comes the counterexample, in the
    format of VNN-COMP; PyTorch in float64 and float32 and, where it is installed, ONNX Runtime
    agree on it.

    With --instances each line of a list is decided, and its answer is in the file of --out
    as soon as it is known. The same command once more goes on where it was stopped. With
    --workers or --ray several lines are decided at a time; every machine of a cluster has to see
    the files at the same path.

    Exit codes: 0 when the answer, whichever it is, was printed; 1 when some line of a list could
    not be decided because of an error, which stands in its line of the results; 2 for an error,
    told in one line; 130 when interrupted.

    [bold]Examples[/bold]
      taut verify net.onnx prop.vnnlib
      taut verify net.onnx.gz prop.vnnlib.gz --timeout 300 --stages attack,crown
      taut verify --instances acasxu/instances.csv --out acasxu.csv --timeout 60 --workers 4
    """
    from taut.cli.workers import pool_of, retries
    from taut.verify.instance import INSTANCE_STAGES, Procedure

    keep_pages()
    chosen = INSTANCE_STAGES if stages is None else _words(stages)
    again = retries(retry)
    limit = SECONDS if timeout is None else timeout
    procedure = Procedure(stages=chosen, timeout=limit, seed=seed, mip=programs(solver))
    with computing_with(threads):
        if instances is not None:
            if network is not None or property_file is not None:
                raise ConfigError("give NETWORK and PROPERTY, or --instances, not both")
            if out is None:
                raise ConfigError("name the file of results with --out")
            pool = pool_of(workers, ray, threads)
            _benchmark(instances, out, procedure, timeout, pool, again)
            return
        if network is None or property_file is None:
            raise ConfigError("give a network and a property, or a list of both with --instances")
        if out is not None:
            raise ConfigError("--out goes with --instances; one answer is printed")
        if again or workers is not None or ray is not None:
            raise ConfigError("--workers, --ray and --retry go with --instances")
        from taut.api.deciding import decide_files

        _tell(decide_files(network, property_file, procedure))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _tell(outcome: Outcome) -> None:
    say(outcome.answer.value)
    if outcome.witness is not None:
        from taut.formats.vnnlib import counterexample

        say(counterexample(outcome.witness.point, outcome.witness.outputs))
    why = f", {outcome.reason}" if outcome.reason else ""
    say(f"stage {outcome.stage}{why}, {outcome.seconds:.2f} s", stderr=True)


def _benchmark(
    instances: Path,
    out: Path,
    procedure: Procedure,
    timeout: float | None,
    pool: Pool | None,
    retry: bool,
) -> None:
    from taut.api.answers import ERROR
    from taut.api.instances import read_instances, run_instances

    total = len(read_instances(instances))

    def shown(place: int, row: Row) -> None:
        why = f", {row.reason}" if row.reason else ""
        say(
            f"{place + 1}/{total} {row.network} {row.property}: {row.answer}{why}"
            f", {row.seconds:.1f} s",
            stderr=True,
        )

    with resumable(f"the answers so far are kept in {out}; the same command goes on from there"):
        rows = run_instances(
            instances, out, procedure, timeout=timeout, pool=pool, retry=retry, on_row=shown
        )
    counts = Counter(row.answer for row in rows)
    answers = ", ".join(f"{answer} {count}" for answer, count in counts.most_common())
    seconds = sum(row.seconds for row in rows)
    say(f"{len(rows)} instances: {answers}; {seconds:.1f} s; written to {out}")
    if counts[ERROR]:
        raise typer.Exit(1)
