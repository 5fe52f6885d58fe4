"""Tiny data sets in the real formats: a handful of images, written byte by byte."""

import gzip
import struct
from hashlib import sha256
from pathlib import Path

import numpy as np

from taut.data.describe import Dataset, Download, File, Layout, Split
from taut.errors import DataError

CLASSES = ("zero", "one", "two")
SPLITS = {
    "train": Split("train", 24, (0,)),
    "validation": Split("train", 6, (1,)),
    "train+validation": Split("train", 30),
    "test": Split("test", 9),
}


def idx(array):
    array = np.asarray(array, dtype=np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def short(text):
    return b"U" + bytes((len(text),)) + text


def pickled(pixels, labels, *, names=None, width=None):
    """Return a batch as Python 2 pickled it; opcodes as in the published files."""
    pixels = np.asarray(pixels, dtype=np.uint8)
    count = len(pixels)
    width = pixels.shape[1] if width is None else width
    module, name = names or (b"numpy.core.multiarray", b"_reconstruct")
    data = (
        b"c" + module + b"\n" + name + b"\nq\x06cnumpy\nndarray\nq\x07K\x00\x85" + short(b"b")
        + b"\x87Rr\x08\x00\x00\x00(K\x01"
        + b"M" + struct.pack("<H", count) + b"M" + struct.pack("<H", width) + b"\x86"
        + b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        + b"(K\x03" + short(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb\x89"
        + b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )  # fmt: skip
    listed = b"".join(b"K" + bytes((label,)) for label in labels)
    return (
        b"\x80\x02}q\x01(" + short(b"batch_label") + short(b"tiny")
        + short(b"labels") + b"]q\x05(" + listed + b"e" + short(b"data") + data + b"u."
    )  # fmt: skip


def binary(pixels, labels):
    return b"".join(bytes((y,)) + bytes(x) for x, y in zip(pixels, labels, strict=True))


def outcome(function, *values):
    """Return what a reader makes of its input: a result, or its DataError; nothing else passes."""
    try:
        return function(*values)
    except DataError as error:
        return error


def digest(content):
    return sha256(content).hexdigest()


def described(name, content):
    return File(name, len(content), digest(content))


class TinyIdx:
    """30 training and 9 test images of 4 x 5 pixels, in idx files packed with gzip."""

    folder = "TINY/raw"

    def __init__(self):
        random = np.random.default_rng(1)
        self.train = random.integers(0, 256, (30, 4, 5), dtype=np.uint8)
        self.test = random.integers(0, 256, (9, 4, 5), dtype=np.uint8)
        self.train_labels = np.arange(30) % 3
        self.test_labels = np.arange(9) % 3
        self.contents = {
            "train-images.gz": idx(self.train),
            "train-labels.gz": idx(self.train_labels),
            "test-images.gz": idx(self.test),
            "test-labels.gz": idx(self.test_labels),
        }
        self.packed = {
            name: gzip.compress(content, mtime=0) for name, content in self.contents.items()
        }
        files = {name: described(name, content) for name, content in self.contents.items()}
        layout = Layout(
            "idx",
            (self.folder, "."),
            {
                "train": (files["train-images.gz"], files["train-labels.gz"]),
                "test": (files["test-images.gz"], files["test-labels.gz"]),
            },
        )
        self.dataset = Dataset(
            name="tiny",
            title="Tiny: noise",
            source="nobody",
            input_shape=(1, 4, 5),
            classes=CLASSES,
            cuts={"train": (24, 6), "test": (9,)},
            splits=SPLITS,
            layouts=(layout,),
            mirrors=("http://127.0.0.1:9/first/", "http://127.0.0.1:9/second"),
            downloads=tuple(
                Download(name, digest(packed), self.folder) for name, packed in self.packed.items()
            ),
        )

    def write(self, root: Path, *, folder=None, unpacked=False):
        target = root / (self.folder if folder is None else folder)
        target.mkdir(parents=True, exist_ok=True)
        source = self.contents if unpacked else self.packed
        for name, content in source.items():
            (target / (name.removesuffix(".gz") if unpacked else name)).write_bytes(content)
        return target


class TinyCifar:
    """Two training batches of 15 images and a test batch of 9, in both CIFAR-10 layouts."""

    def __init__(self):
        random = np.random.default_rng(2)
        self.pixels = random.integers(0, 256, (39, 3072), dtype=np.uint8)
        self.labels = [int(label) for label in np.arange(39) % 3]
        pieces = {"batch_1": slice(0, 15), "batch_2": slice(15, 30), "test_batch": slice(30, 39)}
        self.python = {
            name: pickled(self.pixels[part], self.labels[part]) for name, part in pieces.items()
        }
        self.binary = {
            f"{name}.bin": binary(self.pixels[part], self.labels[part])
            for name, part in pieces.items()
        }
        python = {name: described(name, content) for name, content in self.python.items()}
        binaries = {name: described(name, content) for name, content in self.binary.items()}
        self.dataset = Dataset(
            name="tiny-cifar",
            title="Tiny CIFAR: noise",
            source="nobody",
            input_shape=(3, 32, 32),
            classes=CLASSES,
            cuts={"train": (24, 6), "test": (9,)},
            splits=SPLITS,
            layouts=(
                Layout(
                    "cifar-python",
                    ("py", "."),
                    {
                        "train": (python["batch_1"], python["batch_2"]),
                        "test": (python["test_batch"],),
                    },
                ),
                Layout(
                    "cifar-binary",
                    ("bin",),
                    {
                        "train": (binaries["batch_1.bin"], binaries["batch_2.bin"]),
                        "test": (binaries["test_batch.bin"],),
                    },
                ),
            ),
        )

    def write(self, root: Path, layout: str):
        contents = self.python if layout == "py" else self.binary
        (root / layout).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (root / layout / name).write_bytes(content)
