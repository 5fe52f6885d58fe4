"""``taut certify``: prove images, break them, or say why neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.common import (
    console,
    facts,
    heading,
    note,
    parse_stages,
    print_json,
    programs,
    resumable,
    table,
)
from taut.cli.common import threads as computing_with
from taut.cli.display import duration, percent, radius
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.api.pool import Pool
    from taut.api.results import Job
    from taut.cli.source import Source
    from taut.verify import Cascade

Stages = Annotated[
    str | None,
    typer.Option(
        "--stages",
        metavar="A,B,...",
        help="Stages after `clean`, in order: attack, bounding methods (`taut methods`), and the "
        "verifiers branch, mip, lp and gm-protocol.",
        show_default="the run's, else ibp,crown-ibp,attack,crown",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        min=1,
        help="Gradient steps of the attack.",
        show_default="the run's, else 40",
    ),
]
Restarts = Annotated[
    int | None,
    typer.Option(
        "--restarts",
        metavar="N",
        min=1,
        help="Random starts of the attack.",
        show_default="the run's, else 1",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="Time per image; one that has used it up goes to no further stage, and complete "
        "verifiers stop.",
        show_default="no limit",
    ),
]
BatchSize = Annotated[int | None, options.batch_size("up to 500, as many as fit 256 MB")]
GiveUp = Annotated[
    float | None,
    typer.Option(
        "--give-up",
        metavar="N",
        min=0,
        help="In branch, stop with an image whose bound rises so slowly that it would take 2^N "
        "times the sub-problems its time allows; 5 saves most of the time of time-outs.",
        show_default="its time is used up",
    ),
]
Retry = Annotated[
    str | None,
    options.retry("images that are unknown in the folder", "images without a verdict only"),
]
Out = Annotated[Path | None, options.out("RUN/certify-DATA-SPLIT-epsRADIUS")]


def certify(
    source: options.Source,
    data: options.Data = None,
    split: options.Split = "test",
    first: options.First = None,
    eps: options.Eps = None,
    stages: Stages = None,
    steps: Steps = None,
    restarts: Restarts = None,
    timeout: Timeout = None,
    solver: options.Solver = "highs",
    give_up: GiveUp = None,
    retry: Retry = None,
    seed: options.Seed = 0,
    batch_size: BatchSize = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    out: Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Prove that images keep their class within eps, or find a counterexample.

    Each image goes through the stages clean, ibp, crown-ibp, attack, crown until one decides; add
    branch with a --timeout to decide what they leave open.
    Verdicts go into journal.sqlite one by one; the same command once more skips what is there,
    so that a killed or smaller certification is continued, and summary.json is written at the
    end. With --retry unknown, images it could not decide are tried again with more time.

    Results of a run lie in RUN/certify-DATA-SPLIT-epsRADIUS, and the figures of the latest
    certification in RUN/summary.json too. With --out only DIR is written. For weights
    m.safetensors the folder is m-certify-... beside the file, and --data and --eps are needed.

    [bold]Examples[/bold]
      taut certify runs/demo
      taut certify runs/a --first 1000 --eps 8/255 --threads 2
      taut certify runs/a --stages attack,crown,branch --timeout 60 --workers 8
      taut certify model.safetensors --data mnist --eps 0.1 --out results/a
    """
    from taut.api import results
    from taut.cli.source import open_source, pick_device
    from taut.cli.workers import pool_of, retries
    from taut.verify.branch import Branch

    keep_pages()
    again = retries(retry)
    if again and overwrite:
        raise ConfigError("--retry goes on with a folder and --overwrite discards it; give one")
    pool = pool_of(workers, ray, threads, pick_device(device))
    branch = None if give_up is None else Branch(give_up=give_up)
    with computing_with(threads):
        opened = open_source(source, device)
        size = opened.radius(eps)
        cascade = _cascade(opened, stages, steps, restarts)
        cascade = replace(
            cascade,
            timeout=timeout,
            seed=seed,
            batch_size=batch_size,
            branch=branch,
            mip=programs(solver),
        )
        images = opened.images(data, split, first, data_dir)
        job = results.Job("certify", opened.model, opened.architecture, images, size, cascade)
        folder = opened.folder(out, results.folder_name("certify", images, size))
        figures = carry_out(job, folder, overwrite, pool, again)
        if out is None and opened.run is not None:
            results.promote(opened.run, folder, figures)
    tell(figures, folder, as_json)
    note(f"next: taut report {folder if out or not opened.run else opened.run}", as_json)


def _cascade(
    opened: Source, stages: str | None, steps: int | None, restarts: int | None
) -> Cascade:
    """Return the cascade of a run's recipe, with what the command line changes.

    Networks on cells are attacked by flips, others by the cascade's own attack.
    """
    from taut.attacks import PGD, Flips
    from taut.models import cells_of
    from taut.training.recipe import CertifySection
    from taut.verify import Cascade

    default = opened.certify if opened.certify is not None else CertifySection(eps=0.0)
    attack = Cascade().attack
    if cells_of(opened.model) is not None:
        attack = Flips(loss=attack.loss, targets=attack.targets)
    if isinstance(attack, PGD | Flips):
        attack = replace(
            attack,
            steps=default.steps if steps is None else steps,
            restarts=default.restarts if restarts is None else restarts,
        )
    return Cascade(
        stages=parse_stages(",".join(default.stages) if stages is None else stages), attack=attack
    )


def carry_out(
    job: Job, folder: Path, overwrite: bool, pool: Pool | None = None, retry: bool = False
) -> dict[str, Any]:
    """Run a job with a live display, by a pool's workers if there is one; return its figures."""
    from taut.api import results
    from taut.cli.certify_display import CertifyDisplay

    display = CertifyDisplay(console(stderr=True), job, "loading" if pool is None else str(pool))
    hint = f"the verdicts so far are kept in {folder}; the same command goes on from there"
    with resumable(hint), display:
        return results.run(
            job,
            folder,
            overwrite=overwrite,
            pool=pool,
            retry=retry,
            on_start=display.start,
            on_verdict=display.settled,
            on_stage=display.stage,
        )


def tell(figures: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print the figures of a certification or attack, and where they were written."""
    if as_json:
        print_json({**figures, "folder": str(folder)})
    else:
        _show(figures)
        note(f"written to {folder}", as_json)


def _show(figures: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    total, verdicts = figures["images"], figures["verdicts"]
    rows = []
    for name in ("natural", "attacked", "certified"):
        share = figures[f"{name}_accuracy"]
        if share is not None:
            text = f"{percent(share)}   {round(share * total)} of {total}"
            if name == "certified":
                low, high = figures["certified_interval"]
                text += f", 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
            rows.append((f"{name} accuracy", text))
    speed = figures["images_per_second"]
    pace = f"   {speed:.3g} images a second" if speed else ""
    if figures["kind"] == "attack":
        broken = verdicts["attack"]["falsified"]
        rows.append(("counterexamples", str(broken)))
    if figures.get("cells") is not None:
        rows.append(("cells", _cells(figures["cells"])))
    if figures.get("parts", {}).get("total"):
        parts = figures["parts"]
        rows.append(("sub-problems", f"{parts['total']:,}, at most {parts['largest']:,} an image"))
    if figures.get("retried"):
        rows.append(("tried again", _retried(figures["retried"])))
    rows.append(("time", f"{duration(figures['seconds'])}{pace}"))
    where = f"{figures['data']}, {figures['split']} split, eps {radius(figures['eps'])}"
    screen = console()
    heading(screen, f"{figures['model']} on {where}")
    screen.print(facts(rows))
    if figures["kind"] == "attack":
        return
    kinds = ("verified", "falsified", "unknown")
    counts = table("stage", *kinds, numbers=kinds)
    for stage, count in verdicts.items():
        counts.add_row(stage, *(str(count[kind] or "-") for kind in kinds))
    screen.print(counts)
    if figures["unknown"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in figures["unknown"].items())
        screen.print(f"unknown because of: {reasons}")


def _retried(told: Mapping[str, Any]) -> str:
    count = told["images"]
    return (
        f"{count} image{'' if count == 1 else 's'}, {told['attempts']} attempts, "
        f"{duration(told['seconds'])} in all"
    )


def _cells(told: Mapping[str, Any]) -> str:
    """Say in a line how far an adversary reaches into the cells of a grid."""
    share, mean = percent(told["straddling_share"]), told["straddling_mean"]
    return (
        f"{share} of the pixel values straddle, {mean:.3g} an image; cell accuracy "
        f"{percent(told['cell_accuracy'])}, no bound"
    )
