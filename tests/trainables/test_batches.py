"""Batches: the order and the augmentation are streams of their own, and the test split is out of reach."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.config import ConfigError, TrainConfig
from trainables.data.batches import (
    _generator,
    draws,
    evaluation_batches,
    open_data,
    open_split,
    training_batches,
    transformed,
)
from trainables.data.store import Manifest, Store, write
from trainables.prepare import datasets

PLAIN = TrainConfig(flip=False, crop=1.0, batch_size=8)
BOTH = dataclasses.replace(PLAIN, flip=True, crop=0.5)
TRAIN, VAL, TEST = 50, 20, 10


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A store whose every image has one grey level: its row number."""
    path = tmp_path_factory.mktemp("store") / "s.arrow"
    splits = np.array(["train"] * TRAIN + ["val"] * VAL + ["test"] * TEST)
    order = np.random.default_rng(0).permutation(len(splits))
    rows = [(np.full((4, 4, 3), i, np.uint8), i % 3, i % 2, splits[order[i]]) for i in range(len(splits))]
    write(path, Manifest("toy", 4, ["a", "b", "c"], ["x", "y"]), rows)
    return path


@pytest.fixture
def train(path):
    return open_data(path).train


def augmented(images: torch.Tensor, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    return transformed(images, draws(len(images), config, generator))


def batches(split, config, epoch=0) -> list:
    return list(training_batches(split, config, epoch))


def rows_of(those: list) -> list[int]:
    """The rows in their order, read from the grey level that each image has all over."""
    return [round(level * 255) for images, _, _ in those for level in images.mean(dim=(1, 2, 3)).tolist()]


def same(one: list, other: list) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_an_epoch_shows_every_training_image_once_with_its_label_and_group(path, train):
    those = batches(train, PLAIN)
    rows = rows_of(those)
    assert sorted(rows) == Store(path).rows("train").tolist() and rows != sorted(rows)
    assert [v for _, label, _ in those for v in label.tolist()] == [row % 3 for row in rows]
    assert [v for _, _, group in those for v in group.tolist()] == [row % 2 for row in rows]


def test_batches_have_the_size_asked_for_but_the_last(train):
    those = batches(train, PLAIN)
    assert [len(label) for _, label, _ in those] == [8] * 6 + [2]
    images, label, group = those[0]
    assert images.shape == (8, 3, 4, 4) and images.dtype == torch.float32
    assert label.dtype == group.dtype == torch.int64


@pytest.mark.parametrize("config", [PLAIN, BOTH])
def test_the_same_seed_and_epoch_give_the_same_batches(train, config):
    torch.manual_seed(1)
    first = batches(train, config, 2)
    torch.manual_seed(2)  # the global stream has no say
    assert same(first, batches(train, config, 2))


def test_epochs_and_seeds_differ_in_order_and_augmentation(train):
    first = rows_of(batches(train, PLAIN, 0))
    assert first != rows_of(batches(train, PLAIN, 1))
    assert first != rows_of(batches(train, dataclasses.replace(PLAIN, seed=1), 0))
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).repeat(32, 3, 1, 1)
    streams = [augmented(ramp, BOTH, _generator(seed, "augment", epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({stream.numpy().tobytes() for stream in streams}) == 3


@pytest.mark.parametrize("change", [{"flip": True}, {"crop": 0.5}, {"flip": True, "crop": 0.5}])
def test_augmentation_leaves_the_order_as_it_was(train, change):
    changed = dataclasses.replace(PLAIN, **change)
    for epoch in (0, 1):
        assert rows_of(batches(train, changed, epoch)) == rows_of(batches(train, PLAIN, epoch))


def test_the_callers_random_stream_is_left_alone(train):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    batches(train, BOTH)
    assert torch.equal(torch.rand(2), expected)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_flip_mirrors_about_half_of_the_images_left_to_right():
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mirrored = torch.tensor([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]])
    result = augmented(image.repeat(1000, 3, 1, 1), dataclasses.replace(PLAIN, flip=True), generator())
    kept = (result == image).all(dim=(1, 2, 3))
    turned = (result == mirrored).all(dim=(1, 2, 3))
    assert (kept ^ turned).all() and 420 < turned.sum() < 580


def test_without_augmentation_nothing_changes():
    images = torch.rand(5, 3, 8, 8, generator=generator())
    assert torch.equal(augmented(images, PLAIN, generator()), images)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.05, 1), st.integers(0, 1000), st.sampled_from([1, 7, 16]))
def test_crops_stay_in_the_range_of_their_image(crop, seed, size):
    images = torch.rand(6, 3, size, size, generator=generator(seed))
    result = augmented(images, dataclasses.replace(BOTH, crop=crop), generator(seed))
    assert result.shape == images.shape
    assert (result.amax(dim=(2, 3)) <= images.amax(dim=(2, 3)) + 1e-5).all()
    assert (result.amin(dim=(2, 3)) >= images.amin(dim=(2, 3)) - 1e-5).all()


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 0.99), st.integers(0, 1000))
def test_crops_keep_constant_images_constant(crop, seed):
    images = torch.rand(8, 3, 1, 1, generator=generator(seed)).expand(8, 3, 9, 9)
    torch.testing.assert_close(augmented(images, dataclasses.replace(BOTH, crop=crop), generator(seed)), images)


def crops_of_a_ramp(crop: float, n: int = 400, size: int = 64) -> tuple[torch.Tensor, ...]:
    """Left edge, right edge, top and bottom of each crop in shares of the image, read from two ramps."""
    axis = (torch.arange(size) + 0.5) / size
    ramps = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size), torch.zeros(size, size)])
    config = dataclasses.replace(PLAIN, crop=crop)
    result = augmented(ramps.expand(n, 3, size, size), config, generator())
    inner = slice(size // 4, 3 * size // 4)  # away from the edges, where the ramp is reflected

    def edges(line):
        slope = (line[:, inner][:, -1] - line[:, inner][:, 0]) / (size // 2 - 1)
        start = line[:, size // 2] - slope * (size // 2 + 0.5)
        return start, start + slope * size

    return (*edges(result[:, 0, size // 2]), *edges(result[:, 1, :, size // 2]))


def test_a_crop_is_a_square_inside_the_image_of_uniform_area_and_any_place():
    left, right, top, bottom = crops_of_a_ramp(0.36)
    torch.testing.assert_close(right - left, bottom - top, rtol=0, atol=1e-3)
    area = (right - left) * (bottom - top)
    assert min(left.min(), top.min()) > -1e-3 and max(right.max(), bottom.max()) < 1 + 1e-3
    assert area.min() > 0.36 - 1e-3 and area.max() < 1 + 1e-3
    assert area.mean().item() == pytest.approx(0.68, abs=0.03)  # the middle of a uniform area in [0.36, 1]
    place = (left / (1 - (right - left)).clamp(min=1e-6))[area < 0.9]
    assert place.mean().item() == pytest.approx(0.5, abs=0.06) and place.std().item() == pytest.approx(0.289, abs=0.04)


def test_evaluation_shows_the_split_in_order_and_as_it_is(path):
    val = open_data(path).val
    rows = Store(path).rows("val").tolist()
    for size in (1, 7, 128):
        those = list(evaluation_batches(val, size=size))
        assert rows_of(those) == rows and len(those) == -(-VAL // size)
        assert [v for _, label, _ in those for v in label.tolist()] == [row % 3 for row in rows]


def test_the_searchs_view_holds_no_test_rows(path):
    opened = open_data(path)
    test = set(Store(path).rows("test").tolist())
    assert {f.name for f in dataclasses.fields(opened)} == {"manifest", "train", "val"}
    assert len(test) == TEST and not test & {*opened.train.rows.tolist(), *opened.val.rows.tolist()}
    assert (len(opened.train), len(opened.val)) == (TRAIN, VAL)
    with pytest.raises(IndexError):
        opened.train.pixels(torch.tensor([TRAIN]))


def test_the_test_split_is_opened_by_name_alone(path):
    assert open_split(Store(path), "test").rows.tolist() == Store(path).rows("test").tolist()


def test_digits_are_rendered_once_and_hold_all_three_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path))
    first = datasets.prepare("digits", None, 16)
    written = first.stat().st_mtime_ns
    assert datasets.prepare("digits", None, 16) == first and first.stat().st_mtime_ns == written
    store = Store(first)
    assert store.manifest.size == 16 and set(store.split) == {"train", "val", "test"}
    assert (len(store.manifest.classes), len(store.manifest.groups)) == (10, 2)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("faces", None, r"^unknown data set 'faces'; known: aircraft, digits, folder, geode"),
        ("digits", "x", r"^the digits come with scikit-learn and take no `data`, but got x$"),
        ("folder", None, r"^data set folder needs as `data` the folder"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(name, source, message):
    with pytest.raises(ConfigError, match=message):
        datasets.prepare(name, source, 16)
