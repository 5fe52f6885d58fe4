import json

import pytest
from typer.testing import CliRunner

from taut.cli.data import app
from taut.data import DATASETS
from taut.errors import ConfigError, DataError


@pytest.fixture
def run(monkeypatch, tiny):
    monkeypatch.setitem(DATASETS, "tiny", tiny.dataset)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_list_names_every_data_set(run, tiny, tmp_path):
    tiny.write(tmp_path)
    result = run("list", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert all(name in result.output for name in DATASETS)
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows.keys() == DATASETS.keys()
    assert rows["mnist"]["splits"]["validation"] == 5000
    assert rows["cifar10"]["input_shape"] == [3, 32, 32]
    assert rows["mnist"]["folder"] is None
    assert rows["mnist"]["remedy"] == "taut data get mnist"
    assert rows["mnist-5k"]["folder"].endswith("data")
    rows = json.loads(run("list", "--json", "--data-dir", tmp_path).stdout)
    assert rows[-1]["folder"] == str(tmp_path / "TINY/raw")


def test_show_counts_classes_and_checks_files(run, tiny, tmp_path):
    folder = tiny.write(tmp_path)
    facts = json.loads(run("show", "tiny", "--data-dir", tmp_path, "--json").stdout)
    assert facts["images_per_class"] == {
        "train": [8, 8, 8],
        "validation": [2, 2, 2],
        "train+validation": [10, 10, 10],
        "test": [3, 3, 3],
    }
    assert [file["fault"] for file in facts["files"]] == [None] * 4
    text = run("show", "tiny", "--data-dir", tmp_path).stdout
    assert text.count("checksum good") == 4
    assert "two" in text
    assert "24" in text
    (folder / "test-labels.gz").write_bytes(b"rubbish")
    result = run("show", "tiny", "--data-dir", tmp_path)
    assert "test-labels.gz: differs from the published file" in result.stdout
    assert isinstance(result.exception, DataError)
    assert "taut data get tiny" in str(result.exception)
    result = run("show", "tiny", "--data-dir", tmp_path, "--json")
    assert json.loads(result.stdout)["images_per_class"] is None
    assert isinstance(result.exception, DataError)


def test_show_of_missing_data_says_where_it_looked(run, tmp_path):
    result = run("show", "mnist", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert str(tmp_path) in result.stdout
    assert f"taut data get mnist --data-dir {tmp_path}" in result.stdout


def test_show_of_a_shipped_set(run, monkeypatch):
    facts = json.loads(run("show", "mnist-5k", "--json").stdout)
    assert facts["images_per_class"]["train"] == [400] * 10
    monkeypatch.setattr("taut.data.locate.find_spec", lambda name: None)
    assert "pip install" in run("show", "mnist-5k").stdout


def test_get_says_where_the_data_is(run, tiny, tmp_path):
    folder = tiny.write(tmp_path)
    result = run("get", "tiny", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert f"tiny is ready in {folder}" in result.stdout


def test_errors_are_those_the_entry_point_prints(run, tmp_path):
    assert isinstance(run("get", "imagenet-21k").exception, ConfigError)
    assert isinstance(run("show", "imagenet-21k").exception, ConfigError)
    result = run("get", "tiny", "--data-dir", tmp_path, "--base-url", "http://127.0.0.1:9")
    assert isinstance(result.exception, DataError)
    assert "no connection" in str(result.exception)


@pytest.mark.parametrize("command", ["list", "get", "show"])
def test_every_option_is_documented(run, command):
    text = run(command, "--help").stdout
    assert "--data-dir" in text
    assert "TAUT_DATA" in text
