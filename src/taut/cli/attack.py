"""``taut attack``: how many images an attack breaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from taut.cli import options
from taut.cli.allocator import keep_pages
from taut.cli.certify import carry_out, tell
from taut.cli.common import threads as computing_with
from taut.errors import ConfigError

if TYPE_CHECKING:
    from taut.attacks.loop import Attack

Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="pgd (many steps), fgsm (one step) or flips (corners, for models with cells).",
    ),
]
Loss = Annotated[
    str,
    typer.Option(
        "--loss",
        metavar="NAME",
        help="What the attack climbs: ce (cross-entropy) or margin (one run per wrong class).",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Steps of pgd or flips.", show_default="40"),
]
Restarts = Annotated[
    int, typer.Option("--restarts", metavar="N", min=1, help="Random starts per image.")
]
Step = Annotated[
    float | None,
    typer.Option(
        "--step",
        metavar="SIZE",
        help="Length of a step in units of eps.",
        show_default="2.5 / steps for pgd, 1.25 for fgsm",
    ),
]
Out = Annotated[Path | None, options.out("RUN/attack-DATA-SPLIT-epsRADIUS-SETTINGS")]


def attack(
    source: options.Source,
    data: options.Data = None,
    split: options.Split = "test",
    first: options.First = None,
    eps: options.Eps = None,
    method: Method = "pgd",
    steps: Steps = None,
    step: Step = None,
    restarts: Restarts = 1,
    loss: Loss = "ce",
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 500,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    out: Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Measure natural and attacked accuracy: attack each image within eps.

    A counterexample counts when the network repeats it in float64 and float32. Results lie in
    RUN/attack-DATA-SPLIT-epsRADIUS-SETTINGS (beside a weights file, with its name before it):
    journal.sqlite with the counterexamples, and summary.json. Images that are in the journal
    are not attacked again.

    [bold]Examples[/bold]
      taut attack runs/demo
      taut attack runs/a --eps 8/255 --steps 100 --restarts 5 --loss margin
      taut attack model.safetensors --data cifar10 --eps 2/255 --method fgsm
      taut attack runs/cells --method flips --restarts 3 --loss margin
    """
    from taut.api import results
    from taut.cli.source import open_source
    from taut.verify import Cascade

    keep_pages()
    search = _search(method, steps, step, restarts, loss)
    cascade = Cascade(("clean", "attack"), batch_size, attack=search, seed=seed)
    with computing_with(threads):
        opened = open_source(source, device)
        radius = opened.radius(eps)
        images = opened.images(data, split, first, data_dir)
        job = results.Job("attack", opened.model, opened.architecture, images, radius, cascade)
        folder = opened.folder(out, results.folder_name("attack", images, radius, cascade))
        figures = carry_out(job, folder, overwrite)
    tell(figures, folder, as_json)


def _search(method: str, steps: int | None, step: float | None, restarts: int, loss: str) -> Attack:
    """Return the attack; a value out of range is told by the attack itself."""
    from taut.attacks import FGSM, PGD, Flips

    kind = cast("Literal['ce', 'margin']", loss)
    if method == "pgd":
        count = PGD.steps if steps is None else steps
        return PGD(steps=count, step=step, restarts=restarts, loss=kind)
    if method == "flips":
        if step is not None:
            raise ConfigError("flips moves whole pixels; leave out --step, or choose --method pgd")
        count = Flips.steps if steps is None else steps
        return Flips(steps=count, restarts=restarts, loss=kind)
    if method != "fgsm":
        raise ConfigError(f"--method must be pgd, fgsm or flips; got {method!r}")
    if steps is not None:
        raise ConfigError("fgsm makes one step; leave out --steps, or choose --method pgd")
    return FGSM(step=step, restarts=restarts, loss=kind)
