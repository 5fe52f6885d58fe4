"""`taut methods`, `models` and `recipes` say what the registries say."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path

import pytest
from cli_helpers import Invoke

from taut.bounds import METHODS as BOUNDING
from taut.models import MODELS, size
from taut.training import METHODS as TRAINING
from taut.training import choose, load, names


def test_methods_name_their_axes_papers_and_recipes(invoke: Invoke) -> None:
    found = json.loads(invoke("methods", "--json").stdout)
    assert [row["name"] for row in found["training"]] == list(TRAINING)
    assert [row["name"] for row in found["bounding"]] == list(BOUNDING)
    for row in found["training"]:
        described = TRAINING[row["name"]]
        assert row["formula"] == described.formula
        assert row["axes"] == described.axes
        # what is listed as settable can be set, and is the default
        assert choose(row["name"], row["fields"]) == described.method
        assert all(load(recipe).method.name == row["name"] for recipe in row["recipes"])
    assert sum(len(row["recipes"]) for row in found["training"]) == len(names())
    text = invoke("methods").stdout
    assert all(name in text for name in (*TRAINING, *BOUNDING))
    text = invoke("methods", "crown-ibp").stdout
    assert TRAINING["crown-ibp"].formula in text
    assert BOUNDING["crown-ibp"].info.formula in text
    assert "beta_end = 0.0" in text
    assert "crown-ibp/mnist-0.4-crown-ibp" in text
    text = invoke("methods", "sabr").stdout
    assert "attack = { steps = 8, step = 0.5, milestones = [4, 7]" in text.replace("\n", " ")


def test_models_are_counted(invoke: Invoke) -> None:
    rows = json.loads(invoke("models", "--json").stdout)["models"]
    assert [row["name"] for row in rows] == list(MODELS)
    for row in rows:
        assert row["parameters"] == size(row["name"]).parameters
        assert row["relus"] == size(row["name"]).activations
        assert row["input_shape"] == list(MODELS[row["name"]].input_shape)
    assert json.loads(invoke("models", "cnn7", "--json").stdout) == rows[list(MODELS).index("cnn7")]
    assert "17,192,650" in invoke("models").stdout
    assert MODELS["cnn7"].layers in invoke("models", "cnn7").stdout


def test_a_recipe_can_be_printed_and_used(invoke: Invoke, tmp_path: Path) -> None:
    rows = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    assert [row["name"] for row in rows] == names()
    text = invoke("recipes").stdout
    assert all(name in text for name in names())
    text = invoke("recipes", "demo").stdout
    assert text.strip() == files("taut").joinpath("recipes/demo.toml").read_text().strip()
    (tmp_path / "mine.toml").write_text(text)
    assert load(tmp_path / "mine.toml") == load("demo")
    assert json.loads(invoke("recipes", "demo", "--json").stdout) == load("demo").to_dict()


def test_recipes_are_found_by_a_part_of_their_names(invoke: Invoke, tmp_path: Path) -> None:
    def listed(pattern: str) -> list[str]:
        found = json.loads(invoke("recipes", pattern, "--json").stdout)
        return [row["name"] for row in found["recipes"]]

    assert listed("sabr/") == [name for name in names() if name.startswith("sabr/")]
    assert listed("*/cifar10-2-sabr") == [
        f"{paper}/cifar10-2-sabr" for paper in ("ctbench", "expressive", "sabr")
    ]
    text = invoke("recipes", "sabr/mnist-0.1-sabr").stdout  # a whole name is printed
    assert "Source: Müller et al. 2023" in text
    (tmp_path / "mine.toml").write_text(text)
    assert invoke("recipes", tmp_path / "mine.toml").stdout.strip() == text.strip()
    result = invoke("recipes", "sabr/mnist-0.1-sabre")
    assert result.exit_code == 2
    assert "did you mean 'sabr/mnist-0.1-sabr'" in result.stderr


def test_lists_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from taut.cli import methods, recipes

    file = io.StringIO()
    narrow = Console(file=file, width=80, force_terminal=True, color_system=None)
    for module in (methods, recipes):
        monkeypatch.setattr(module, "console", lambda: narrow)
    recipes.recipes()
    methods.methods()
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(f" {name} " in text for name in names())
    assert all(f" {name} " in text for name in TRAINING)
