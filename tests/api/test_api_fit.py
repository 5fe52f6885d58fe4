"""`taut.fit`: a user's own network and tensors, and the run folder it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from user_nets import Residual, residual

import taut
from taut.api import planning
from taut.data import Augment
from taut.errors import ConfigError, DataError, ModelError, RunError
from taut.training import (
    METHODS,
    CrownIBP,
    EpsRamp,
    FullBall,
    GridPoint,
    Losses,
    Mix,
    Natural,
    PGDTraining,
    choose,
    from_dict,
)

FILES = {"config.json", "metrics.jsonl", "checkpoint.pt", "model.safetensors", "summary.json"}


def settings(epochs: int = 2, **changes: Any) -> taut.Settings:
    return taut.Settings(
        epochs=epochs, eps=0.05, batch_size=20, lr=1e-2, device="cpu", threads=1,
        schedule=EpsRamp("linear", 0, 3), **changes,
    )  # fmt: skip


def blobs(count: int = 60) -> tuple[Tensor, Tensor]:
    """Four classes of noisy 2 x 6 x 6 images, by which quarter is bright."""
    generator = torch.Generator().manual_seed(count)
    y = torch.arange(count) % 4
    x = torch.rand(count, 2, 6, 6, generator=generator) * 0.3
    for row in range(count):
        i, j = divmod(int(y[row]), 2)
        x[row, :, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3] += 0.6
    return x, y


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_tensors_and_a_network_of_ones_own(tmp_path: Path) -> None:
    net, rows = residual(), []
    result = taut.fit(
        net, blobs(), settings=settings(6), validation=blobs(40), out=tmp_path / "a",
        on_epoch=rows.append,
    )  # fmt: skip
    assert result.model is net
    assert not net.training
    assert rows == result.rows
    assert rows[-1]["validation"]["natural_accuracy"] == 1.0
    x, y = blobs(40)
    proved = (taut.margins(net, taut.Box.around(x, 0.05), y, "ibp").amin(1) > 0).double().mean()
    assert rows[-1]["validation"]["certified_accuracy"] == pytest.approx(proved.item())
    assert proved > 0.5
    assert {path.name for path in (tmp_path / "a").iterdir()} >= FILES
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["model"] == "Residual"
    assert (summary["images"], summary["natural_accuracy"]) == (40, 1.0)
    assert same(state(taut.load_model(tmp_path / "a", Residual())), state(net))


def test_resumed_runs_end_in_the_same_weights(tmp_path: Path) -> None:
    whole = taut.fit(residual(), blobs(), settings=settings(3)).model
    out, stop = tmp_path / "a", RuntimeError("the power went")

    def fail(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise stop

    with pytest.raises(RuntimeError, match="the power went"):
        taut.fit(residual(), blobs(), settings=settings(3), out=out, on_epoch=fail)
    assert not (out / "model.safetensors").exists()
    resumed = taut.fit(residual(), blobs(), settings=settings(3), out=out, resume=True)
    assert [row["epoch"] for row in resumed.rows] == [1, 2, 3]
    assert same(state(resumed.model), state(whole))
    # also where there is nothing yet
    fresh = taut.fit(residual(), blobs(), settings=settings(3), out=tmp_path / "b", resume=True)
    assert same(state(fresh.model), state(whole))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a"
    taut.fit(residual(), blobs(), settings=settings(1), out=out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(RunError, match="already holds a train run"):
        taut.fit(residual(), blobs(), settings=settings(1), out=out)
    changed = replace(settings(1), lr=1e-3)
    with pytest.raises(RunError, match=r"holds another run \(recipe.train.lr"):
        taut.fit(residual(), blobs(), settings=changed, out=out, resume=True)
    assert (out / "model.safetensors").read_bytes() == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds other files"):
        taut.fit(residual(), blobs(), settings=settings(1), out=tmp_path / "b")


@dataclass(frozen=True)
class OwnMethod:
    """A training method of the user's: the loss of the images, doubled."""

    certifiers: tuple[str, ...] = ("ibp",)

    def loss(self, graph: Any, x: Tensor, y: Tensor, progress: Any) -> Losses:
        losses = Natural().loss(graph, x, y, progress)
        return Losses(2 * losses.total, losses.parts, losses.rates)


def test_a_method_of_ones_own_trains_and_is_written_down(tmp_path: Path) -> None:
    taut.fit(residual(), blobs(), OwnMethod(), settings=settings(1), out=tmp_path / "a")
    recipe = json.loads((tmp_path / "a" / "config.json").read_text())["recipe"]
    assert recipe["method"] == {"name": "custom:OwnMethod", "repr": repr(OwnMethod())}
    assert recipe["model"]["name"] == "custom:Residual"
    assert recipe["data"]["name"] == "custom:images"
    with pytest.raises(ConfigError, match="given from Python"):
        planning.refuse_custom(recipe)


@pytest.mark.parametrize(
    "method",
    [
        *(described.method for described in METHODS.values()),
        PGDTraining(steps=3, step=0.5),
        GridPoint(FullBall(clip=False), CrownIBP(beta_end=0.5, lines="tight"), Mix(0.5, 0.25)),
    ],
    ids=str,
)
def test_every_method_of_the_grid_has_its_table(method: Any) -> None:
    table = planning.method_table(method)
    name = table.pop("name")
    assert choose(name, table) == method
    if method in [d.method for d in METHODS.values()]:
        assert METHODS[name].method == method
        assert table == {}


def test_the_recipe_of_a_fit_builds_the_same_plan() -> None:
    chosen = settings(4, grad_clip=3.0)
    method = GridPoint(bound=CrownIBP(beta_end=0.25))
    plan = planning.from_objects(
        "dm-small-crown8-16", "mnist-5k", method, chosen, None, "flip", None
    )
    again = planning.from_recipe(from_dict(plan.recipe.to_dict()))
    assert again.recipe == plan.recipe
    assert again.method == plan.method == method
    assert again.settings.target_eps == chosen.target_eps
    assert (again.settings.schedule, again.settings.rate) == (chosen.schedule, chosen.rate)
    assert again.augment == plan.augment == Augment(flip=True)
    assert again.architecture == plan.architecture
    assert torch.equal(again.train.images, plan.train.images)
    assert torch.equal(again.validation.images, plan.validation.images)  # type: ignore[union-attr]
    assert same(state(again.model), state(plan.model))


def test_a_part_of_a_data_set_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    digits = taut.load_data("mnist-5k", "train")
    for part in (digits[:40], taut.load_data("mnist-5k", "validation")[:40]):
        plan = planning.from_objects(
            "dm-small-crown8-16", part, "ibp", settings(), None, "none", None
        )
        assert plan.recipe.data.name == "custom:mnist-5k"
    plan = planning.from_objects(
        "dm-small-crown8-16", digits, "ibp", settings(), None, Augment(pad=1), None
    )
    assert plan.recipe.data.name == "mnist-5k"
    assert plan.recipe.data.augment == f"custom:{Augment(pad=1)!r}"
    with pytest.raises(ConfigError, match="augmentation"):
        planning.refuse_custom(plan.recipe.to_dict())


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        return state(planning.seeded_model("dm-small-crown8-16", (1, 12, 12), 3, seed, {}))

    torch.manual_seed(0)
    one, before = build(1), torch.get_rng_state()
    torch.manual_seed(5)
    assert same(build(1), one)
    assert not same(build(2), one)
    torch.manual_seed(0)
    build(3)
    assert torch.equal(torch.get_rng_state(), before)


X, Y = blobs(8)
MISTAKES: list[tuple[str, dict[str, Any], type[taut.TautError], str]] = [
    ("method", {"method": "magic"}, ConfigError, "unknown method 'magic'"),
    ("augment", {"augment": "rotate"}, ConfigError, "unknown augmentation"),
    ("data name", {"data": "letters"}, ConfigError, "unknown data set"),
    ("data", {"data": [X, Y]}, DataError, "a pair (images, labels)"),
    ("pixels", {"data": (X + 1, Y)}, DataError, "pixels must lie in [0, 1]"),
    ("labels", {"data": (X, Y + 1)}, DataError, "label 4 of image 3 is out of range"),
    ("model name", {"model": "lenet"}, ConfigError, "no model is called 'lenet'"),
    ("shape", {"data": (torch.rand(8, 2, 5, 5), Y)}, ModelError, "shape"),
    ("resume", {"resume": True}, RunError, "name it with out="),
]


@pytest.mark.parametrize(("changes", "error", "message"), [m[1:] for m in MISTAKES],
                         ids=[m[0] for m in MISTAKES])  # fmt: skip
def test_a_mistake_is_told_in_one_line(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"model": residual(), "data": (X, Y), "settings": settings(1), **changes}
    with pytest.raises(error) as caught:
        taut.fit(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
