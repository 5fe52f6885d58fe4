"""Folders of images by class, of any size, whole or in part."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from taut.data import DATASETS, get, load
from taut.data.describe import Layout, Tree
from taut.data.imagenet import IMAGENET, WNIDS
from taut.data.splits import members
from taut.errors import DataError

CLASSES = ("n01", "n02", "n03")
TREE = Tree(CLASSES, {"train": ("train",), "test": ("val",)}, ("train", "test"), by_class=True)
SMALL = replace(
    IMAGENET,
    name="small",
    input_shape=(3, 16, 16),
    classes=("one", "two", "three"),
    cuts={"train": (9000, 1000), "test": (600,)},
    layouts=(Layout("image-tree", ("small",), {"train": (), "test": ()}, TREE),),
)


def save(path, image, form="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, form, quality=95)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Ten training images of n01, thirty of n03, and two test images of n03."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "home"
    for wnid, count in (("n01", 10), ("n03", 30)):
        for i in range(count):
            image = Image.new("RGB", (20 + i, 31), (6 * i, 100, 50 if wnid == "n01" else 150))
            save(root / f"small/train/{wnid}/{wnid}_{i:02}.JPEG", image)
    for i in range(2):
        save(root / f"small/val/n03/val_{i}.JPEG", Image.new("RGB", (16, 16), (100 * i, 0, 0)))
    return root


def test_images_of_the_classes_that_are_there_get_their_labels(home):
    whole = load(SMALL, "train+validation", home)
    assert whole.shape == (3, 16, 16)
    assert whole.counts() == [10, 0, 30]
    blue = whole.images[:, 2].float().mean((1, 2))
    assert ((blue - torch.tensor([50.0] * 10 + [150.0] * 30)).abs() < 4).all()
    red = whole.images[:, 0].float().mean((1, 2))
    order = [6.0 * i for i in range(10)] + [6.0 * i for i in range(30)]
    assert ((red - torch.tensor(order)).abs() < 4).all()
    test = load(SMALL, "test", home)
    assert test.labels.tolist() == [2, 2]


def test_pieces_of_a_part_are_as_much_smaller_and_fair(home):
    train, held = load(SMALL, "train", home), load(SMALL, "validation", home)
    assert (len(train), len(held)) == (36, 4)  # a tenth, as published
    assert held.counts() == [1, 0, 3]
    assert train.counts() == [9, 0, 27]
    pixels = {image.numpy().tobytes() for image in torch.cat([train.images, held.images])}
    assert len(pixels) == 40


def test_images_are_resized_to_the_whole_square(home):
    """Without a crop: a picture of two halves keeps its halves."""
    image = Image.new("RGB", (64, 48), (0, 0, 0))
    image.paste((255, 255, 255), (32, 0, 64, 48))
    save(home / "small/val/n01/a.JPEG", image)
    found = load(SMALL, "test", home).images[0].float()
    assert found[:, :, :7].max() < 20
    assert found[:, :, 9:].min() > 235
    # averages over the pixels that become one, as of interpolation with antialiasing
    random = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    smooth = Image.fromarray(random).resize((64, 40), Image.Resampling.BILINEAR)
    save(home / "small/val/n01/a.JPEG", smooth, "PNG")  # some files have the wrong ending
    found = load(SMALL, "test", home).images[0].double()
    pixels = torch.from_numpy(np.asarray(smooth).copy()).permute(2, 0, 1)[None].double()
    expected = F.interpolate(pixels, (16, 16), mode="bilinear", antialias=True)[0]
    assert (found - expected).abs().max() < 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("stranger", "val has n99, which is none of the 3 classes"),
        ("nothing", "val holds 0 JPEG images; published are 600"),
        ("damaged", "val_0.JPEG cannot be decoded"),
    ],
)
def test_what_is_wrong_is_named(home, how, words):
    folder = home / "small/val"
    if how == "stranger":
        (folder / "n99").mkdir()
    elif how == "nothing":
        for path in (folder / "n03").iterdir():
            path.unlink()
    else:
        (folder / "n03/val_0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        load(SMALL, "test", home)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_there_is_nothing_the_page_with_the_files_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the train files \(train\) were not found.*webbrowser"):
        get("imagenet", tmp_path)


def test_the_published_set_is_described_in_order():
    assert DATASETS["imagenet"] is IMAGENET
    assert len(WNIDS) == len(set(WNIDS)) == len(set(IMAGENET.classes)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    named = dict(zip(WNIDS, IMAGENET.classes, strict=True))
    assert named["n01440764"] == "tench"
    assert named["n15075141"] == "toilet tissue"
    assert IMAGENET.classes.index("zebra") == 340
    assert IMAGENET.classes.index("school bus") == 779
    assert IMAGENET.part_size("train") == 1_281_167


def test_the_splits_of_a_part_of_it_add_up():
    labels = np.arange(20_000) % 1000
    index = {name: members(IMAGENET, split, labels) for name, split in IMAGENET.splits.items()}
    held = 20_000 * 50_000 // 1_281_167
    assert len(index["validation"]) == held
    assert len(index["train"]) == 20_000 - held
    assert not set(index["train"].tolist()) & set(index["validation"].tolist())
    shares = np.bincount(labels[index["validation"]], minlength=1000)
    assert shares.max() - shares.min() <= 1
    assert index["train+validation"] is index["test"] is None
