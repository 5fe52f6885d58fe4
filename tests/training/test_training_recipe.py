"""Recipes: what comes with taut, overrides, round trips, and one-line errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taut.data import AUGMENTATIONS, DATASETS
from taut.errors import ConfigError
from taut.models import MODELS
from taut.training import (
    IBP,
    Batch,
    CrownIBP,
    FullBall,
    GridPoint,
    Mix,
    PGDTraining,
    Progress,
    Recipe,
    Region,
    WeightedBox,
    apply_overrides,
    choose,
    from_dict,
    load,
    loads,
    names,
)

MINIMAL = """
[data]
name = "mnist"
[model]
name = "dm-small-p1"
[method]
name = "crown-ibp"
kappa_end = 0.25
[train]
epochs = 3
eps = 0.3
[lr]
kind = "milestones"
milestones = [1, 2.5]
[certify]
eps = 0.3
"""


@pytest.mark.parametrize("name", names())
def test_recipes_that_come_with_taut_are_whole(name: str) -> None:
    recipe = load(name)
    assert recipe.title
    assert recipe.data.name in DATASETS
    assert recipe.data.augment in AUGMENTATIONS
    assert recipe.model.name in MODELS
    assert from_dict(recipe.to_dict()) == recipe
    end = recipe.schedule.ends(100)[1]
    assert end < recipe.train.epochs * 100, "the ramp of eps ends before training does"
    if recipe.lr.kind == "milestones":
        assert max(recipe.lr.milestones) < recipe.train.epochs
    path = Path(__file__).parents[2] / "src" / "taut" / "recipes" / f"{name}.toml"
    assert "Source:" in path.read_text(), "a recipe cites its source"


def test_the_promised_recipes_exist() -> None:
    assert {
        "demo", "mnist-0.3-ibp", "mnist-0.3-crown-ibp", "mnist-5k-ibp", "mnist-5k-natural",
        "mnist-5k-pgd", "cifar10-8-ibp",
    } <= set(names())  # fmt: skip


def test_a_recipe_becomes_method_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    recipe = load(path)
    assert recipe.method.build() == GridPoint(FullBall(), CrownIBP(), Mix(kappa_end=0.25))
    chosen = recipe.settings()
    assert (chosen.epochs, chosen.eps, chosen.target_eps) == (3, 0.3, 0.3)
    assert chosen.rate.milestones == (1.0, 2.5)
    assert chosen.schedule == recipe.schedule


def test_overrides_are_read_as_toml_and_else_as_text() -> None:
    recipe = apply_overrides(
        loads(MINIMAL),
        [
            "train.epochs=5", "train.eps = 0.1", "data.name=mnist-5k", "lr.milestones=[3, 4]",
            "method.beta_end=1", "model.options.mean=[0.5]", 'train.device="cpu"', "title=a = b",
            "train.epochs=6",
        ],
    )  # fmt: skip
    assert (recipe.train.epochs, recipe.train.eps, recipe.train.device) == (6, 0.1, "cpu")
    assert recipe.data.name == "mnist-5k"
    assert recipe.lr.milestones == (3.0, 4.0)
    assert recipe.method.build() == GridPoint(
        bound=CrownIBP(beta_end=1.0), combination=Mix(1, 0.25)
    )
    assert recipe.model.options == {"mean": (0.5,)}
    assert recipe.title == "a = b"
    assert from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epoch=5", ["train.epoch", "did you mean 'epochs'", "batch_size"]),
        ("trian.epochs=5", ["trian", "did you mean 'train'", "certify"]),
        ("train.epochs=five", ["train.epochs", "a whole number", "str 'five'"]),
        ("train.epochs=2.5", ["train.epochs", "a whole number", "float 2.5"]),
        ("train.epochs=true", ["train.epochs", "a whole number", "bool True"]),
        ("train.epochs=0", ["train.epochs", "at least 1"]),
        ("train.eps=-0.1", ["train.eps", ">= 0", "-0.1"]),
        ("train.eps=nan", ["train.eps", ">= 0", "nan"]),
        ("certify.eps=inf", ["certify.eps", ">= 0", "inf"]),
        ("train.lr=0", ["train.lr", "above 0"]),
        ("train.precision=half", ["train.precision", "bf16-mixed", "'half'"]),
        ("lr.milestones=3", ["lr.milestones", "a list", "int 3"]),
        ('lr.milestones=[1, "x"]', ["lr.milestones.1", "a number", "'x'"]),
        ("schedule.length=0", ["schedule.length", "at least 1"]),
        ("method.name=crown-ip", ["crown-ip", "did you mean 'crown-ibp'"]),
        ("method.kappa=0.5", ["method.kappa", "did you mean 'kappa_end'", "beta_start"]),
        ("method.kappa_end=high", ["method.kappa_end", "a number", "'high'"]),
        ("method.kappa_end=2", ["method.kappa_end", "[0, 1]"]),
        ("method.lines=best", ["method.lines", "'adaptive'", "'best'"]),
        ("method.region=cube", ["region", "cube", "full-ball"]),
        ("method.region=5", ["method.region", "name of a region"]),
        ("method.bound={name='crown-ibp', beta=1}", ["method.bound.beta", "beta_end"]),
        ("train=5", ["train must be a table"]),
        ("data.name.x=5", ["data.name is no table"]),
        ("train.epochs", ["section.key=value"]),
        ("=5", ["section.key=value"]),
    ],
)
def test_overrides_that_do_not_fit_say_so_in_one_line(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(loads(MINIMAL), [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_sections_and_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no section \[data\]"):
        loads("")
    with pytest.raises(ConfigError, match=r"train\.epochs is missing"):
        loads(MINIMAL.replace("epochs = 3\n", ""))
    with pytest.raises(ConfigError, match=r"method\.name is missing"):
        loads(MINIMAL.replace('name = "crown-ibp"\n', ""))


def test_unknown_recipes_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'demo'.*mnist-0\.3-ibp"):
        load("dmo")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(broken)
    broken.write_text("train = [")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load(broken)


def test_axes_are_replaced_by_name_or_by_table() -> None:
    assert choose("ibp", {"bound": "crown-ibp"}) == GridPoint(bound=CrownIBP())
    table = {"name": "crown-ibp", "lines": "tight"}
    assert choose("ibp", {"bound": table, "beta_end": 1}) == GridPoint(
        bound=CrownIBP(beta_end=1.0, lines="tight")
    )
    assert choose("crown-ibp", {"bound": "ibp", "clip": False}) == GridPoint(
        FullBall(clip=False), IBP()
    )
    assert choose("pgd", {"steps": 3}) == PGDTraining(steps=3)


def test_an_axis_inside_an_axis_is_built_from_its_own_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from taut.training import REGIONS
    from taut.training.choose import member

    monkeypatch.setitem(REGIONS, "nested", _Nested)
    made = member("region", {"name": "nested", "inner": {"name": "full-ball", "clip": False}}, "r")
    assert made == _Nested(inner=FullBall(clip=False))
    with pytest.raises(ConfigError, match="cube"):
        member("region", {"name": "nested", "inner": "cube"}, "r")


@dataclasses.dataclass(frozen=True)
class _Nested:
    count: int = 2
    inner: Region = dataclasses.field(default_factory=FullBall)

    def boxes(self, batch: Batch, eps: float, progress: Progress) -> tuple[WeightedBox, ...]:
        return ()


SECTION = st.sampled_from(["data", "model", "method", "train", "schedule", "lr", "certify", "x"])
KEY = st.sampled_from(
    ["name", "epochs", "eps", "lr", "kind", "start", "length", "milestones", "options", "bound",
     "kappa_end", "stages", "batch_size", "seed", "mid", "power", "factor", "every", "y"]
)  # fmt: skip
VALUE = st.recursive(
    st.one_of(
        st.text(max_size=8),
        st.integers(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        st.booleans(),
        st.datetimes().map(str),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)


def attempt(make: Callable[[], Recipe]) -> tuple[Recipe | None, str]:
    """Return a recipe, or the message of its ConfigError; any other error passes through."""
    try:
        return make(), ""
    except ConfigError as error:
        return None, str(error)


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(SECTION, st.one_of(VALUE, st.dictionaries(KEY, VALUE, max_size=4))))
def test_any_tables_over_a_good_recipe_give_a_recipe_or_a_config_error(
    changes: dict[str, object],
) -> None:
    table = loads(MINIMAL).to_dict()
    for section, content in changes.items():
        old = table.get(section)
        if isinstance(old, dict) and isinstance(content, dict):
            table[section] = old | content
        else:
            table[section] = content
    recipe, message = attempt(lambda: from_dict(table))
    assert "\n" not in message
    assert recipe is None or from_dict(recipe.to_dict()) == recipe


@settings(deadline=None, max_examples=200)
@given(st.text())
@example("a = " + "[" * 5000)
@example("a = " + "9" * 5000)
@example(MINIMAL + "x = 1979-05-27")
@example(MINIMAL.replace("epochs = 3", "epochs = " + "9" * 400))
@example(MINIMAL.replace("eps = 0.3", "eps = " + "9" * 400))
def test_any_text_gives_a_recipe_or_a_config_error(text: str) -> None:
    assert "\n" not in attempt(lambda: loads(text))[1]


@settings(deadline=None, max_examples=60)
@given(st.text(), st.text())
def test_any_override_gives_a_recipe_or_a_config_error(key: str, value: str) -> None:
    base = loads(MINIMAL)
    for text in (key, f"{key}={value}", f"train.{key}={value}", f"train.eps={value}"):
        assert "\n" not in attempt(functools.partial(apply_overrides, base, [text]))[1]


def test_a_table_in_a_named_axis_changes_a_part_of_that_members_own() -> None:
    table = {"region": {"name": "small-box", "attack": {"steps": 3}}}
    region = choose("sabr", table).region  # type: ignore[attr-defined]
    assert (region.attack.steps, region.attack.step, region.attack.milestones) == (3, 0.5, (4, 7))
    inner = {"region": {"name": "small-box", "inner": {"name": "radii", "count": 3}}}
    assert choose("sabr", inner).region.inner.count == 3  # type: ignore[attr-defined]
