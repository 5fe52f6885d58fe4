"""`taut methods`, `models` and `recipes` say what the registries say."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

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
    assert all(name in invoke("recipes").stdout for name in names())
    text = invoke("recipes", "demo").stdout
    assert text.strip() == files("taut").joinpath("recipes/demo.toml").read_text().strip()
    (tmp_path / "mine.toml").write_text(text)
    assert load(tmp_path / "mine.toml") == load("demo")
    assert json.loads(invoke("recipes", "demo", "--json").stdout) == load("demo").to_dict()
