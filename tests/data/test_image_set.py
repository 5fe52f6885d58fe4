import numpy as np
import pytest
import torch

from taut.data import ImageSet
from taut.errors import DataError

IMAGES = torch.arange(5 * 2 * 3 * 4, dtype=torch.uint8).view(5, 2, 3, 4)
LABELS = torch.tensor([0, 2, 1, 2, 0])


@pytest.fixture
def images():
    return ImageSet.from_tensors(IMAGES, LABELS, ("a", "b", "c"), name="own", split="some")


def test_facts(images):
    assert len(images) == 5
    assert images.shape == (2, 3, 4)
    assert images.counts() == [2, 1, 2]
    assert images.device == torch.device("cpu")
    assert (images.name, images.split, images.classes) == ("own", "some", ("a", "b", "c"))
    assert images.to("cpu").images is images.images
    with pytest.raises(AttributeError):
        images.labels = LABELS


@pytest.mark.parametrize(
    "index", [slice(1, 4), torch.tensor([3, 0, 3]), torch.tensor([1, 0, 0, 1, 1]).bool()]
)
def test_indexing_keeps_images_and_labels_together(images, index):
    part = images[index]
    assert torch.equal(part.images, IMAGES[index])
    assert torch.equal(part.labels, LABELS[index])
    assert (part.name, part.classes) == ("own", ("a", "b", "c"))


def test_a_number_is_no_index_of_a_set(images):
    with pytest.raises(TypeError, match="slice or a tensor"):
        images[1]


def test_pixels_are_bytes_over_255_correctly_rounded():
    every = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    images = ImageSet.from_tensors(every, torch.zeros(256, dtype=torch.int64), 2)
    exact = np.arange(256) / 255  # float64, then rounded to float32
    assert np.array_equal(images.pixels().numpy().ravel(), exact.astype(np.float32))
    assert images.pixels(7).shape == (1, 1, 1)
    assert images.pixels(slice(2)).shape == (2, 1, 1, 1)
    assert torch.equal(images.pixels(torch.tensor([255])), torch.ones(1, 1, 1, 1))


def test_pixels_of_floats_are_a_copy():
    images = ImageSet.from_tensors(torch.full((2, 1, 1, 1), 0.25), torch.tensor([0, 1]), 2)
    images.pixels(slice(1)).fill_(1)
    assert images.images[0].item() == 0.25


def test_first(images):
    assert torch.equal(images.first(3).images, IMAGES[:3])
    for count in (0, -1, 6):
        with pytest.raises(DataError, match=f"first {count} images.*ask for 1 to 5"):
            images.first(count)


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.float32])
def test_floats_are_kept_as_float32(kind):
    array = np.linspace(0, 1, 12).reshape(3, 1, 2, 2).astype(kind)
    images = ImageSet.from_tensors(array, np.array([0, 1, 1], dtype=np.uint8), 2)
    assert images.images.dtype == torch.float32
    assert images.labels.dtype == torch.int64
    assert np.array_equal(images.pixels().numpy(), array.astype(np.float32))


def test_read_only_and_reversed_arrays_are_taken():
    array = np.zeros((2, 1, 2, 2), dtype=np.uint8)
    array[0] = 9
    array.flags.writeable = False
    images = ImageSet.from_tensors(array[::-1], np.array([0, 1]), 2)
    assert images.images[1].min() == 9


def altered(value):
    array = torch.full((2, 1, 2, 2), 0.5)
    array[1, 0, 1, 1] = value
    return array


@pytest.mark.parametrize(
    ("images", "labels", "classes", "words"),
    [
        (altered(float("nan")), [0, 1], 2, "nan"),
        (altered(float("inf")), [0, 1], 2, "inf"),
        (altered(1.0001), [0, 1], 2, r"1\.0001; divide bytes by 255"),
        (altered(-0.001), [0, 1], 2, r"-0\.001"),
        (altered(0.5), [0, 2], 2, "label 2 of image 1 .* 2 classes, 0 to 1"),
        (altered(0.5), [-1, 0], 2, "label -1 of image 0"),
        (altered(0.5), [0.0, 1.0], 2, "whole numbers"),
        (altered(0.5), [True, False], 2, "whole numbers"),
        (altered(0.5), [0, 1, 1], 2, r"shape \(2,\).*\(3,\)"),
        (altered(0.5), [[0], [1]], 2, r"\(2, 1\)"),
        (altered(0.5), [0, 1], 1, "at least 2 classes"),
        (altered(0.5)[0], [0, 1], 2, r"\(N, channels, height, width\)"),
        (altered(0.5).long(), [0, 1], 2, "uint8 or float32"),
        (altered(0.5)[:0], torch.zeros(0, dtype=torch.int64), 2, "at least one image"),
        ([[1]], [0], 2, "tensor or a numpy array; got list"),
        (np.array([["a"]]), [0], 2, "not supported"),
    ],
)
def test_bad_values_are_refused(images, labels, classes, words):
    with pytest.raises(DataError, match=words):
        ImageSet.from_tensors(images, torch.as_tensor(labels), classes)
