"""Which images share a batch: shares, rounds and repeats of balanced batches, and the random ones as they were."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.config import TrainConfig
from trainables.data.sampling import ShuffledCycle, index_batches


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(label, group=None, seed: int = 0, **changes) -> list[list[int]]:
    label = torch.as_tensor(label)
    group = torch.zeros_like(label) if group is None else torch.as_tensor(group)
    return [b.tolist() for b in index_batches(label, group, TrainConfig(**changes), generator(seed))]


def test_without_balance_each_image_comes_once_in_torchs_order():
    got = batches([0] * 9, batch_size=4, per_group=1)
    assert got == [part.tolist() for part in torch.randperm(9, generator=generator()).split(4)]


LABELS = [0] * 40 + [1] * 25 + [2] * 25 + [4] * 3 + [5] * 7  # class 3 is absent


@pytest.mark.parametrize(
    ("batch", "per_group", "shares"),
    [
        (8, 4, {4: 2}),  # two groups of four
        (10, 3, {4: 1, 3: 2}),  # 10 // 3 groups, the remainder to the first
        (6, 5, {3: 2}),  # at least two groups
        (64, 4, {13: 4, 12: 1}),  # at most all that are present
        (3, 1, {1: 3}),
        (1, 4, {1: 1}),
    ],
)
def test_each_batch_has_equal_shares_of_its_groups(batch, per_group, shares):
    got = batches(LABELS, balance="class", batch_size=batch, per_group=per_group)
    assert len(got) == math.ceil(100 / batch)
    for chosen in got:
        assert Counter(Counter(LABELS[i] for i in chosen).values()) == shares


def test_groups_appear_equally_often_and_images_of_a_group_too():
    got = batches(LABELS, balance="class", batch_size=8, per_group=4)  # 13 batches of two groups: 26 for 5 groups
    groups = Counter(g for chosen in got for g in {LABELS[i] for i in chosen})
    assert set(groups) == {0, 1, 2, 4, 5} and max(groups.values()) - min(groups.values()) <= 1
    images = Counter(i for chosen in got for i in chosen)
    for group in groups:
        visits = [images[i] for i, label in enumerate(LABELS) if label == group]
        assert sum(visits) == 4 * groups[group] and max(visits) - min(visits) <= 1


def test_no_image_comes_twice_in_a_batch_unless_its_group_is_too_small():
    for chosen in batches(LABELS, balance="class", batch_size=16, per_group=4):
        repeats = [LABELS[i] for i, times in Counter(chosen).items() if times > 1]
        assert set(repeats) <= {4}  # three images, four wanted
        assert max(Counter(chosen).values()) <= 2


@pytest.mark.parametrize(("kind", "cells"), [("class", 2), ("sensitive", 2), ("class_x_sensitive", 3)])
def test_the_groups_are_those_that_the_balance_names(kind, cells):
    label, group = [0] * 30 + [1] * 30, [0] * 30 + [0] * 25 + [1] * 5  # cell (0, 1) is absent
    names = {"class": label, "sensitive": group, "class_x_sensitive": list(zip(label, group))}[kind]
    for chosen in batches(label, group, balance=kind, batch_size=12, per_group=4):
        assert list(Counter(names[i] for i in chosen).values()) == [12 // cells] * cells


def test_one_group_alone_fills_its_batches():
    (first, second) = batches([3] * 10, balance="class", batch_size=8)
    assert len(set(first)) == len(set(second)) == 8 and set(first + second) == set(range(10))


def test_an_epochs_batches_are_those_of_its_generator():
    one, same, other = (batches(LABELS, seed=s, balance="class", batch_size=8) for s in (1, 1, 2))
    assert one == same and one != other


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), max_size=12), st.integers(0, 5))
def test_rounds_give_each_item_as_often_as_any_other(n, takes, seed):
    rounds, seen = ShuffledCycle(list(range(n)), generator(seed)), Counter(dict.fromkeys(range(n), 0))
    for wanted in takes:
        taken = Counter(rounds.take(wanted))
        assert taken.total() == wanted and max(taken.values()) == math.ceil(wanted / n)
        seen += taken
        times = [seen[i] for i in range(n)]
        assert max(times) - min(times) <= 1


def test_rounds_are_shuffled():
    rounds = ShuffledCycle(list(range(50)), generator())
    one, other = rounds.take(50), rounds.take(50)
    assert sorted(one) == sorted(other) == list(range(50)) and one != other != list(range(50))
