from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.data.registry import DATASETS
from taut.data.splits import cut, fixed_orders, members, quotas
from taut.errors import DataError


def key(text):
    return sha256(text.encode()).digest()


def test_the_orders_follow_the_documented_rule():
    by_rank, handed_out = fixed_orders(50, "mnist/train")
    keys = [key(f"mnist/train/{i}") for i in range(50)]
    assert [keys[i][:16] for i in by_rank] == sorted(k[:16] for k in keys)
    assert [keys[i][16:] for i in handed_out] == sorted(k[16:] for k in keys)
    assert sorted(by_rank) == sorted(handed_out) == list(range(50))


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.data())
def test_quotas_are_exact_and_proportional(counts, data):
    counts = np.array(counts, dtype=np.int64)
    size = data.draw(st.integers(0, int(counts.sum())))
    shares = quotas(counts, size)
    assert shares.sum() == size
    assert (np.abs(shares - counts * size / counts.sum()) < 1).all()
    assert (shares <= counts).all()


@settings(deadline=None)
@given(st.lists(st.integers(8, 30), min_size=2, max_size=5), st.integers(0, 10))
def test_pieces_are_stratified_and_taken_in_rank_order(counts, size):
    labels = np.repeat(np.arange(len(counts)), counts)
    by_rank, _ = fixed_orders(len(labels), "any/part")
    sizes = (len(labels) - 2 * size, size, size)
    if min(counts) * (len(labels) - 2 * size) < 3 * len(labels):
        return  # too fine a cut, tested below
    pieces = cut(labels, sizes, by_rank)
    assert np.bincount(pieces, minlength=3).tolist() == list(sizes)
    for label, count in enumerate(counts):
        ranked = pieces[by_rank][labels[by_rank] == label]
        assert (np.diff(ranked) >= 0).all()
        assert abs((ranked == 1).sum() - count * size / len(labels)) < 1


def test_what_cannot_be_cut_is_refused():
    labels = np.array([0, 0, 0, 1])
    by_rank, _ = fixed_orders(4, "any/part")
    with pytest.raises(DataError, match="4 images cannot be cut into 5"):
        cut(labels, (3, 2), by_rank)
    with pytest.raises(DataError, match="too few"):
        cut(np.array([0, 0, 1, 1]), (0, 1, 1, 1, 1), by_rank)


# to rank the 1.28 million images of ImageNet takes a while: see test_imagenet.py
SPLIT = [dataset for dataset in DATASETS.values() if dataset.name != "imagenet"]


@pytest.mark.parametrize("dataset", SPLIT, ids=lambda dataset: dataset.name)
def test_the_splits_of_each_data_set_add_up(dataset):
    random = np.random.default_rng(3)
    taken = {}
    for name, split in dataset.splits.items():
        count = dataset.part_size(split.part)
        labels = random.permutation(np.arange(count) % len(dataset.classes))
        random = np.random.default_rng(3)  # the same labels for all splits of a part
        index = members(dataset, split, labels)
        index = np.arange(count) if index is None else index
        assert len(index) == len(set(index.tolist())) == split.size
        shares = np.bincount(labels[index], minlength=len(dataset.classes))
        assert shares.max() - shares.min() <= 1
        taken[name] = {(split.part, i) for i in index.tolist()}
    assert taken["train"].isdisjoint(taken["validation"])
    assert taken["train"] | taken["validation"] == taken["train+validation"]
    assert taken["test"].isdisjoint(taken["train+validation"])


def test_the_first_images_of_a_split_are_a_fair_sample_of_it():
    dataset = DATASETS["mnist-5k"]
    labels = np.repeat(np.arange(10), 500)  # sorted by class, as the file is
    for name in ("train", "validation", "test"):
        index = members(dataset, dataset.splits[name], labels)
        shares = np.bincount(labels[index[:200]], minlength=10)
        # 20 expected of each class; 4 standard deviations of a draw without order
        assert shares.min() >= 4
        assert shares.max() <= 37
