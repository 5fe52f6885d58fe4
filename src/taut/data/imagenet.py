"""ImageNet: the 1,000 classes of ILSVRC 2012, resized to 224 x 224 pixels.

The files are those of the challenge, training images in ``train/<wnid>``, validation images in
``val/<wnid>``. A part of them will do: classes without images and classes with fewer images are
accepted, since few machines hold 1.28 million images of 150 kB in memory.
"""

from __future__ import annotations

from pathlib import Path

from taut.data.describe import Dataset, Layout, Split, Tree

# WordNet ids in order, which are the labels 0 to 999, with a name each.
_LINES = Path(__file__).with_name("imagenet.txt").read_text(encoding="ascii").splitlines()

WNIDS, _NAMES = zip(*(line.split(" ", 1) for line in _LINES), strict=True)

IMAGENET = Dataset(
    name="imagenet",
    title="ImageNet: 1.33 million photographs of 1,000 classes, or some of them, 224 x 224 pixels",
    source="Russakovsky et al., ImageNet large scale visual recognition challenge, 2015",
    input_shape=(3, 224, 224),
    classes=_NAMES,
    cuts={"train": (1_231_167, 50_000), "test": (50_000,)},
    splits={
        "train": Split("train", 1_231_167, (0,)),
        "validation": Split("train", 50_000, (1,)),
        "train+validation": Split("train", 1_281_167),
        "test": Split("test", 50_000),
    },
    layouts=(
        Layout(
            "image-tree",
            ("imagenet", "ILSVRC/Data/CLS-LOC", "."),
            {"train": (), "test": ()},
            Tree(
                WNIDS,
                {"train": ("train",), "test": ("val",)},
                partial=("train", "test"),
                by_class=True,
            ),
        ),
    ),
    augmentation="flip-enlarge",
    archive="https://image-net.org/download.php",
    remedy="python -m webbrowser https://image-net.org/download.php",
)
