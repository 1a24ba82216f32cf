"""Logits in half precision: the prediction is exact, what is kept is what is measured, damaged files are one line."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from trainables import logits
from trainables.config import ConfigError
from trainables.metrics import evaluate

VALUES = st.floats(-1e6, 1e6, width=32)
TABLES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6), elements=VALUES)


@given(TABLES)
def test_the_prediction_is_exact_and_half_of_half_is_the_same(table):
    half = logits.half(table)
    assert half.dtype == np.float16 and (half.argmax(axis=1) == table.argmax(axis=1)).all()
    assert (half.max(axis=1) == 0).all() and (half == logits.half(half)).all()
    below = table.astype(float) - table.max(axis=1, keepdims=True)
    near = np.abs(below) < 60_000  # beyond, half precision ends
    assert np.allclose(half[near], below[near], rtol=2**-10, atol=1e-6)


def test_equal_logits_keep_the_first_class_in_front():
    half = logits.half(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0]]))
    assert half.argmax(axis=1).tolist() == [0, 1] and (half[0, 1:] < 0).all()


def test_losses_are_cross_entropies():
    rng = np.random.default_rng(0)
    table, label = rng.normal(0, 4, (200, 7)).astype(np.float32), rng.integers(0, 7, 200)
    half = logits.half(table)
    cross_entropy = partial(torch.nn.functional.cross_entropy, target=torch.from_numpy(label), reduction="none")
    expected, whole = cross_entropy(torch.from_numpy(half).double()), cross_entropy(torch.from_numpy(table))
    np.testing.assert_allclose(logits.losses(half, label), expected.numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(logits.losses(half, label), whole.numpy(), rtol=2**-9, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_no_loss(bad):
    table = np.array([[bad, 0.0], [1.0, 0.0]])
    losses = logits.losses(logits.half(table), np.array([0, 0]))
    assert np.isnan(losses[0]) and np.isfinite(losses[1])


def test_an_evaluation_is_that_of_its_predictions_and_comes_out_of_its_logits_again():
    rng = np.random.default_rng(1)
    table, label, group = rng.normal(0, 3, (300, 5)), rng.integers(0, 5, 300), rng.integers(0, 3, 300)
    found = logits.evaluate_logits(table, label, group, 3)
    losses = logits.losses(found.logits, label)
    scored = evaluate(label, table.argmax(1), losses, group, n_classes=5, n_groups=3)
    np.testing.assert_array_equal(list(found.metrics.values()), list(scored.metrics.values()))
    again = logits.evaluate_logits(found.logits, label, group, 3)
    np.testing.assert_array_equal(list(found.metrics.values()), list(again.metrics.values()))


def test_a_file_is_read_as_it_was_saved_and_a_damaged_one_is_one_line(tmp_path):
    half = logits.half(np.random.default_rng(2).normal(size=(20, 4)))
    assert logits.load(tmp_path, 3) is None and logits.images(tmp_path) == {}
    logits.save(tmp_path, 3, half)
    logits.keep_images(tmp_path, np.arange(20), np.zeros(20, int))
    logits.keep_images(tmp_path, np.zeros(5, int), np.zeros(5, int))  # they are kept already
    assert list(logits.images(tmp_path)) == ["label", "group"]  # nobody knows whose they are
    assert (logits.load(tmp_path, 3) == half).all() and logits.images(tmp_path)["label"].tolist() == list(range(20))
    whole = logits.file_of(tmp_path, 3).read_bytes()
    for damaged in (whole[:50], b"", b"no numpy"):
        logits.file_of(tmp_path, 3).write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"0003\.npz must hold numpy's arrays, but cannot be read: delete it"):
            logits.load(tmp_path, 3)
    logits.drop(tmp_path, 3)
    assert logits.load(tmp_path, 3) is None and not list(tmp_path.rglob("*.tmp"))


def test_a_pickle_is_not_read(tmp_path):
    file = logits.file_of(tmp_path, 0)
    file.parent.mkdir(parents=True)
    np.savez(file, logits=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match="cannot be read"):
        logits.load(tmp_path, 0)
