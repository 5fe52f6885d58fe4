"""Trees of JPEG files, decoded once."""

import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from taut.cli.data import app
from taut.data import DATASETS, get, load
from taut.data import decoded as decoding
from taut.data.describe import Dataset, Layout, Split, Tree
from taut.data.tiny_imagenet import TINY_IMAGENET, TINY_IMAGENET_56, WNIDS
from taut.errors import ConfigError, DataError

CLASSES = ("n01", "n02", "n03")
TREE = Tree(CLASSES, TINY_IMAGENET.layouts[0].tree.needs, ("test",))
SMALL = Dataset(
    name="small",
    title="Small: flat colours",
    source="nobody",
    input_shape=(3, 16, 16),
    classes=("one", "two", "three"),
    cuts={"train": (9, 3), "test": (6,)},
    splits={
        "train": Split("train", 9, (0,)),
        "validation": Split("train", 3, (1,)),
        "train+validation": Split("train", 12),
        "test": Split("test", 6),
    },
    layouts=(Layout("image-tree", ("small", "."), {"train": (), "test": ()}, TREE),),
    archive="http://127.0.0.1:9/small.zip",
)
CROPPED = replace(
    SMALL, name="small-12", input_shape=(3, 12, 12), margin=2, family="small",
    augmentation="flip",
)  # fmt: skip
ANNOTATED = [("val_0", 2), ("val_2", 0), ("val_10", 1), ("val_11", 2)]


def colour(label, number):
    """A colour of its own for each image; JPEG keeps flat colours to a level or two."""
    return (40 * label + 20, 12 * number + 10, 100)


def save(path, shade, mode="RGB", size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), shade).save(path, "JPEG", quality=95)


@pytest.fixture
def folder(tmp_path):
    """Four training images of each class and four of at most six test images."""
    root = tmp_path / "home" / "small"
    for label, wnid in enumerate(CLASSES):
        for number in range(4):
            save(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", colour(label, number))
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("not read")
    for number, (name, label) in enumerate(ANNOTATED):
        save(root / f"val/images/{name}.JPEG", colour(label, 5 + number))
    lines = [f"{name}.JPEG\t{CLASSES[label]}\t0\t0\t62\t62\n" for name, label in ANNOTATED]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")  # in no order, as published
    return root


@pytest.fixture
def home(folder):
    return folder.parent


@pytest.fixture
def decodings(monkeypatch):
    """The files that are decoded, as they are."""
    seen, decode = [], decoding._decode

    def note(path, shape):
        seen.append(path.name)
        return decode(path, shape)

    monkeypatch.setattr(decoding, "_decode", note)
    return seen


def colours(images):
    """The centre of each image, over all levels."""
    return images[:, :, images.shape[2] // 2, images.shape[3] // 2].int()


def test_labels_are_places_in_alphabetical_order_and_pixels_are_those_of_the_files(home):
    whole = load(SMALL, "train+validation", home)
    assert whole.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = torch.tensor([colour(label, number) for label in range(3) for number in range(4)])
    assert (colours(whole.images) - expected).abs().max() <= 3
    assert whole.images.dtype == torch.uint8
    assert whole.shape == (3, 16, 16)
    test = load(SMALL, "test", home)
    assert test.labels.tolist() == [label for _, label in ANNOTATED]  # in the annotations' order
    expected = torch.tensor([colour(label, 5 + i) for i, (_, label) in enumerate(ANNOTATED)])
    assert (colours(test.images) - expected).abs().max() <= 3
    assert test.classes == ("one", "two", "three")


def test_rows_and_columns_and_colours_keep_their_order(home, folder):
    image = Image.new("RGB", (16, 16), (0, 0, 0))
    image.paste((255, 0, 0), (8, 0, 16, 8))  # red on top to the right
    image.save(folder / "train/n01/images/n01_0.JPEG", "JPEG", quality=95, subsampling=0)
    pixels = load(SMALL, "train+validation", home).images[0].int()
    assert pixels[0, :8, 8:].min() > 200
    assert pixels[1:].max() < 60
    assert pixels[0, 8:].max() < 60
    assert pixels[0, :, :8].max() < 60


def test_grey_images_get_three_equal_channels(home, folder):
    save(folder / "val/images/val_2.JPEG", 77, mode="L")
    image = load(SMALL, "test", home).images[1].int()
    assert (image - 77).abs().max() <= 2
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_held_out_images_are_as_many_of_each_class_and_the_same_for_the_crops(home):
    train, held = load(SMALL, "train", home), load(SMALL, "validation", home)
    assert train.counts() == [3, 3, 3]
    assert held.counts() == [1, 1, 1]
    both = {tuple(c) for c in torch.cat([colours(train.images), colours(held.images)]).tolist()}
    assert len(both) == 12
    cropped = load(CROPPED, "validation", home)
    assert torch.equal(cropped.wide, held.images)
    assert torch.equal(cropped.images, held.images[:, :, 2:-2, 2:-2])


def test_a_file_is_decoded_once(home, decodings):
    first = load(SMALL, "train", home)
    assert sorted(decodings) == sorted(f"{c}_{i}.JPEG" for c in CLASSES for i in range(4))
    decodings.clear()
    assert torch.equal(load(SMALL, "train", home).images, first.images)
    load(SMALL, "validation", home)
    load(CROPPED, "train", home)
    assert decodings == []
    load(SMALL, "test", home)
    assert len(decodings) == 4


def test_writing_to_the_images_leaves_the_cache_alone(home):
    first = load(SMALL, "test", home).images
    kept = first.clone()
    first.zero_()
    assert torch.equal(load(SMALL, "test", home).images, kept)


@pytest.mark.parametrize("change", ["time", "content", "added"])
def test_a_changed_folder_is_decoded_again(home, folder, tmp_path, decodings, change):
    load(SMALL, "test", home)
    path = folder / "val/images/val_2.JPEG"
    if change == "time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "content":
        save(path, (200, 200, 200), size=16)
    else:
        save(folder / "val/images/val_12.JPEG", (1, 1, 1))
        with (folder / "val/val_annotations.txt").open("a") as file:
            file.write("val_12.JPEG\tn01\t0\t0\t1\t1\n")
    decodings.clear()
    again = load(SMALL, "test", home)
    assert len(decodings) == len(again) == (5 if change == "added" else 4)
    if change == "content":
        assert again.images[1].min() > 190
    kept = list((tmp_path / "cache/taut/decoded").glob("small-test-*.npy"))
    assert len(kept) == 1  # the old pixels are gone


def test_two_folders_do_not_share_decoded_images(home, folder, tmp_path, decodings):
    load(SMALL, "test", home)
    other = tmp_path / "other"
    other.mkdir()
    folder.rename(other / "small")
    decodings.clear()
    load(SMALL, "test", other)
    assert len(decodings) == 4
    assert len(list((tmp_path / "cache/taut/decoded").glob("small-test-*.npy"))) == 2


def test_many_images_are_decoded_piece_by_piece_in_order(home, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 5)
    assert load(SMALL, "train+validation", home).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = torch.tensor([colour(label, number) for label in range(3) for number in range(4)])
    found = colours(load(SMALL, "train+validation", home).images)
    assert (found - expected).abs().max() <= 3


def test_a_folder_without_training_images_says_what_is_missing_and_where_to_get_it(home, folder):
    (folder / "train").rename(folder / "elsewhere")
    assert len(load(SMALL, "test", home)) == 4
    with pytest.raises(DataError) as caught:
        load(SMALL, "train", home)
    message = str(caught.value)
    assert "small: the train files (wnids.txt, train) were not found" in message
    assert f"{home} (--data-dir)" in message
    assert f"`curl -LO {SMALL.archive} && unzip -qo small.zip -d {home}`" in message
    assert "\n" not in message
    with pytest.raises(DataError, match="the train files"):
        get(SMALL, home)


def damage(folder, how):
    annotations = folder / "val/val_annotations.txt"
    text = annotations.read_text()
    if how == "class without images":
        (folder / "train/n02").rename(folder / "train/elsewhere")
    elif how == "too few":
        (folder / "train/n02/images/n02_3.JPEG").unlink()
    elif how == "too many":
        save(folder / "train/n02/images/n02_4.JPEG", 0, mode="L")
    elif how == "other classes":
        (folder / "wnids.txt").write_text("n01\nn02\nn04\n")
    elif how == "binary list":
        (folder / "wnids.txt").write_bytes(b"\xff\xfe")
    elif how == "image not annotated":
        save(folder / "val/images/val_99.JPEG", 0, mode="L")
    elif how == "image absent":
        (folder / "val/images/val_10.JPEG").unlink()
    elif how == "annotated twice":
        annotations.write_text(text + text)
    elif how == "unknown class":
        annotations.write_text(text.replace("n02", "n09"))
    elif how == "nothing annotated":
        annotations.write_text("")
        for path in (folder / "val/images").iterdir():
            path.unlink()
    elif how == "truncated":
        path = folder / "val/images/val_10.JPEG"
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "empty":
        (folder / "val/images/val_10.JPEG").write_bytes(b"")
    elif how == "another format":
        Image.new("RGB", (16, 16)).save(folder / "val/images/val_10.JPEG", "PNG")
    elif how == "another size":
        save(folder / "val/images/val_10.JPEG", (1, 2, 3), size=17)


@pytest.mark.parametrize(
    ("how", "split", "words"),
    [
        ("class without images", "train", "train/n02/images cannot be read"),
        ("too few", "validation", "n02/images holds 3 JPEG images; published are 4"),
        ("too many", "train", "n02/images holds 5 JPEG images; published are 4"),
        ("other classes", "test", "wnids.txt lacks n03"),
        ("binary list", "test", "wnids.txt is damaged"),
        ("image not annotated", "test", "val_annotations.txt does not annotate val_99.JPEG"),
        ("image absent", "test", "images lacks val_10.JPEG"),
        ("annotated twice", "test", "line 5 is no new image"),
        ("unknown class", "test", "line 3 is no new image with one of the classes"),
        ("nothing annotated", "test", "annotates 0 images; published are 6"),
        ("truncated", "test", "images/val_10.JPEG cannot be decoded"),
        ("empty", "test", "images/val_10.JPEG cannot be decoded"),
        ("another format", "test", "images/val_10.JPEG cannot be decoded"),
        ("another size", "test", "images/val_10.JPEG has 17 x 17 pixels; published are 16 x 16"),
    ],
)
def test_damage_is_named_and_nothing_is_kept(home, folder, tmp_path, how, split, words):
    damage(folder, how)
    with pytest.raises(DataError) as caught:
        load(SMALL, split, home)
    assert words in str(caught.value)
    assert "; run `curl -LO" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("cache/**/*.npy")) == []
    assert list(tmp_path.glob("cache/**/.*.tmp")) == []


def test_without_pillow_the_extra_is_named_until_the_pixels_are_there(home, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(ConfigError, match=r"pip install 'taut\[images\]'$"):
            load(SMALL, "test", home)
    found = load(SMALL, "test", home)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert torch.equal(load(SMALL, "test", home).images, found.images)


def test_a_cache_that_cannot_be_written_or_read_says_what_to_do(home, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match=r"cannot be kept in .*decoded.*XDG_CACHE_HOME"):
        load(SMALL, "test", home)
    (tmp_path / "cache").unlink()
    load(SMALL, "test", home)
    (path,) = tmp_path.glob("cache/taut/decoded/*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"\.npy is damaged .*; delete it"):
        load(SMALL, "test", home)


def test_the_command_shows_what_is_there(home, folder, monkeypatch):
    monkeypatch.setitem(DATASETS, "small", SMALL)
    monkeypatch.setenv("COLUMNS", "200")
    facts = json.loads(
        CliRunner().invoke(app, ["show", "small", "--data-dir", str(home), "--json"]).stdout
    )
    assert facts["images_per_class"]["test"] == [1, 1, 2]
    assert facts["images_per_class"]["train"] == [3, 3, 3]
    assert get(SMALL, home) == folder
    (folder / "train").rename(folder / "elsewhere")
    text = CliRunner().invoke(app, ["show", "small", "--data-dir", str(home)]).stdout
    assert f"test: {folder}: names and numbers good" in text
    assert "train not found" in text
    assert SMALL.archive in text
    rows = CliRunner().invoke(app, ["list", "--data-dir", str(home), "--json"]).stdout
    assert json.loads(rows)[-1]["parts"] == ["test"]


def test_the_published_set_is_described_in_order():
    assert len(WNIDS) == len(set(WNIDS)) == len(set(TINY_IMAGENET.classes)) == 200
    assert list(WNIDS) == sorted(WNIDS)
    assert TINY_IMAGENET.layouts[0].tree.classes == WNIDS
    named = dict(zip(WNIDS, TINY_IMAGENET.classes, strict=True))
    assert named["n01443537"] == "goldfish"
    assert named["n02123394"] == "Persian cat"
    assert named["n12267677"] == "acorn"
    assert TINY_IMAGENET_56.stored_shape == TINY_IMAGENET.stored_shape == (3, 64, 64)
    assert TINY_IMAGENET_56.layouts == TINY_IMAGENET.layouts
