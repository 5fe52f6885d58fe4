import pytest
import torch
import torch.nn.functional as F

from taut.data import AUGMENTATIONS, Augment, find_augmentation
from taut.data.augment import Offsets
from taut.errors import ConfigError, DataError

MODES = {"zeros": "constant", "edge": "replicate", "reflect": "reflect"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.uint8):
    values = torch.randint(1, 256, shape, generator=generator(9), dtype=torch.uint8)
    return values if dtype == torch.uint8 else values.to(dtype) / 255


def by_hand(augment, image, top, left, flip):
    """One image: torch's own padding, a slice, a flip."""
    pad = [augment.pad] * 4
    padded = F.pad(image[None].double(), pad, mode=MODES[augment.mode])[0].to(image.dtype)
    high, wide = augment.size(image[None])
    crop = padded[:, top : top + high, left : left + wide]
    return crop.flip(2) if flip else crop


CASES = [
    (Augment(True, pad, mode, crop), shape, dtype)
    for mode in MODES
    for pad, crop, shape in [
        (0, None, (3, 5, 6)),
        (2, None, (3, 5, 6)),
        (4, None, (1, 5, 5)),
        (1, 3, (2, 4, 7)),
        (0, 4, (2, 6, 5)),
        (2, 7, (1, 5, 5)),
    ]
    for dtype in (torch.uint8, torch.float32)
]


@pytest.mark.parametrize(("augment", "shape", "dtype"), CASES)
def test_a_batch_equals_its_images_one_by_one(augment, shape, dtype):
    images = noise(40, *shape, dtype=dtype)
    offsets = augment.draw(images, generator())
    result = augment.apply(images, offsets)
    expected = torch.stack(
        [
            by_hand(augment, image, *(int(drawn[i]) for drawn in offsets))
            for i, image in enumerate(images)
        ]
    )
    assert result.dtype == dtype
    assert torch.equal(result, expected)
    assert torch.equal(augment(images, generator()), result)


@pytest.mark.parametrize("mode", MODES)
def test_every_result_is_a_candidate_and_all_occur_equally_often(mode):
    pad, repeats = 2, 6000
    augment = Augment(flip=True, pad=pad, mode=mode)
    image = noise(2, 6, 7)
    candidates = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            for flip in (False, True):
                crop = by_hand(augment, image, top, left, flip)
                candidates[crop.numpy().tobytes()] = 0
    assert len(candidates) == 50  # all differ, so none hides another
    for result in augment(image.expand(repeats, -1, -1, -1), generator()):
        candidates[result.contiguous().numpy().tobytes()] += 1  # KeyError: no candidate
    assert len(candidates) == 50
    expected = repeats / 50
    chi2 = sum((count - expected) ** 2 / expected for count in candidates.values())
    assert chi2 < 94  # 49 degrees of freedom: exceeded once in 10,000 seeds


def test_flip_of_flip_is_the_image():
    images = noise(6, 3, 4, 5)
    zero = torch.zeros(6, dtype=torch.int64)
    flip = Offsets(zero, zero, torch.ones(6, dtype=torch.bool))
    once = Augment(flip=True).apply(images, flip)
    assert torch.equal(once, images.flip(3))
    assert torch.equal(Augment(flip=True).apply(once, flip), images)


def test_images_of_a_batch_are_drawn_apart():
    offsets = Augment(flip=True, pad=4).draw(noise(256, 1, 8, 8), generator())
    assert all(len(drawn.unique()) > 1 for drawn in offsets)
    assert not torch.equal(offsets.top, offsets.left)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_generator_decides_everything(name):
    augment = find_augmentation(name)
    size = 8 if augment.crop is None else augment.crop
    images = noise(32, 3, size + 8, size + 8) if augment.crop else noise(32, 3, size, size)
    before = torch.get_rng_state()
    first = augment(images, generator(4))
    assert torch.equal(first, augment(images, generator(4)))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, augment(images, generator(5))) == (name == "none")
    assert first.shape == (32, 3, size, size)


def test_presets_are_those_of_the_literature():
    assert AUGMENTATIONS["none"] == Augment()
    assert AUGMENTATIONS["flip-crop4-zeros"] == Augment(True, 4, "zeros", None)
    assert AUGMENTATIONS["flip-crop4-edge"] == Augment(True, 4, "edge", None)
    assert AUGMENTATIONS["flip-crop2-edge"] == Augment(True, 2, "edge", None)
    assert AUGMENTATIONS["flip-crop56"] == Augment(flip=True, crop=56)
    with pytest.raises(ConfigError, match=r"'rotate'.*flip-crop4-zeros"):
        find_augmentation("rotate")


def test_nothing_to_do_gives_the_batch_back():
    images = noise(2, 1, 3, 3)
    assert Augment()(images, generator()) is images


@pytest.mark.parametrize(
    "values", [{"pad": -1}, {"mode": "wrap"}, {"crop": 0}], ids=["pad", "mode", "crop"]
)
def test_bad_settings_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        Augment(**values)


@pytest.mark.parametrize(
    ("augment", "shape", "words"),
    [
        (Augment(crop=5), (1, 1, 4, 6), "crop 5 pixels out of 4"),
        (Augment(pad=4, mode="reflect"), (1, 1, 4, 6), "reflect 4 pixels"),
        (Augment(pad=1), (1, 4, 6), r"\(B, C, H, W\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(augment, shape, words):
    with pytest.raises(DataError, match=words):
        augment(noise(*shape), generator())
