"""Memory that is too small for a batch: smaller parts, the same gradient, and the record says so.

Without a GPU nothing is really out of memory: hooks on a real model raise what torch raises there.
"""

import dataclasses

import numpy as np
import pytest
import torch

from tests.few_digits import few_digits, logits_of, near_ties
from trainables.config import DoesNotFit, TrainConfig
from trainables.data.batches import Data
from trainables.training.fit import Trainer, evaluate_split
from trainables.trial.trial import parts

pytestmark = pytest.mark.usefixtures("one_thread")
FAIR = TrainConfig(method="fairfft", batch_size=32, lr=1e-3, lam=0.5, flip=False, crop=1.0, penalty_center="running")
PLAIN = dataclasses.replace(FAIR, method="lora")


@pytest.fixture(scope="module")
def data() -> Data:
    return few_digits(100, 100)


def trainer(config: TrainConfig, data: Data, largest: int | None = None) -> Trainer:
    """One whose model takes at most ``largest`` images at a time."""
    made = Trainer(config, data, None, "cpu", None)

    def refuse(module, inputs):
        if largest is not None and len(inputs[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    made.model.register_forward_pre_hook(refuse)
    return made


def assert_alike(one: Trainer, other: Trainer, data: Data) -> None:
    """By their losses: a key's bias has no gradient but rounding's, of which Adam makes whole steps. Parts give a
    gradient that is up to 1e-6 off (test_micro_batches.py), and Adam a step as much: four of them, and the loss follows
    the weights; 1e-4 leaves room for gradients near Adam's epsilon."""
    losses = [evaluate_split(t.model, data, data.val, t.config).metrics["loss"] for t in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("config", [FAIR, PLAIN], ids=["fair", "plain"])
def test_smaller_parts_train_the_same_weights(config, data):
    whole, halved = trainer(config, data), trainer(config, data, largest=10)
    expected, got = whole.train_epoch(), halved.train_epoch()
    assert halved.micro_batches.size == 8 and whole.micro_batches.size is None
    assert got == pytest.approx(expected, rel=1e-4)
    assert_alike(whole, halved, data)


@pytest.mark.parametrize("config", [FAIR, PLAIN], ids=["fair", "plain"])
def test_a_recording_goes_before_batches_are_halved(config, data):
    """A GPU's recorded step holds its memory: without it the batch fits, whole."""
    whole, holding = trainer(config, data), trainer(config, data)
    holding.recorded_step.recording = object()

    def refuse(module, inputs):
        if holding.recorded_step.recording is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    holding.model.register_forward_pre_hook(refuse)
    assert holding.train_epoch() == whole.train_epoch()
    assert holding.recorded_step.recording is None and holding.micro_batches.size is None
    holding.recorded_step.recording = object()
    assert holding.evaluate().metrics == whole.evaluate().metrics and holding.recorded_step.recording is None


def test_a_batch_that_fails_half_way_counts_once(data):
    """The forward pass may fit and the backward pass not: by then the running means have taken the batch in."""
    whole, failing = trainer(FAIR, data), trainer(FAIR, data)
    fails = iter([True])

    def refuse(gradient):
        if next(fails, False):
            raise torch.OutOfMemoryError("CUDA out of memory")

    failing.model.head.weight.register_hook(refuse)
    whole.train_epoch()
    failing.train_epoch()
    assert next(fails, None) is None and failing.micro_batches.size == 16
    assert torch.equal(failing.train_step.loss.running.updates, whole.train_step.loss.running.updates)
    torch.testing.assert_close(
        failing.train_step.loss.running.average, whole.train_step.loss.running.average, rtol=1e-5, atol=0
    )
    assert_alike(whole, failing, data)


def test_an_image_too_large_is_said_in_one_line(data):
    with pytest.raises(DoesNotFit, match=r"a single image must fit into a trial's GPU memory.*gpus_per_trial"):
        trainer(PLAIN, data, largest=0).train_epoch()
    with pytest.raises(DoesNotFit, match="a single image must fit"):
        evaluate_split(trainer(PLAIN, data, largest=0).model, data, data.val, PLAIN)


def test_an_evaluation_in_parts_measures_the_same(data):
    whole, parts = (evaluate_split(trainer(PLAIN, data, n).model, data, data.val, PLAIN) for n in (None, 10))
    tied = near_ties(logits_of(trainer(PLAIN, data).model, data.val, PLAIN))  # batches of another size round otherwise
    np.testing.assert_allclose(list(whole.metrics.values()), list(parts.metrics.values()), rtol=1e-5, atol=tied)
    np.testing.assert_allclose(whole.confusion, parts.confusion, atol=tied)


def test_the_record_says_so(data):
    halved = trainer(dataclasses.replace(PLAIN, micro_batch=16), data, largest=10)
    assert parts(halved) == ""  # as it was asked for
    halved.train_epoch()
    assert parts(halved) == " micro_batch=8"
