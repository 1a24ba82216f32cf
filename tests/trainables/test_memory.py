"""Memory that is too small for a batch: smaller parts, the same gradient, and the record says so.

Without a GPU nothing is really out of memory: hooks on a real model raise what torch raises there.
"""

import dataclasses

import numpy as np
import pytest
import torch

from tests.few_digits import few_digits, logits_of, near_ties
from trainables.config import ConfigError, TrainConfig
from trainables.data import Data
from trainables.fit import Trainer, evaluate_split
from trainables.trial import parts

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
    gradient that is up to 1e-6 off (test_objective.py), and Adam a step as much: four of them, and the loss follows
    the weights; 1e-4 leaves room for gradients near Adam's epsilon."""
    losses = [evaluate_split(t.model, data, data.val, t.config).metrics["loss"] for t in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("config", [FAIR, PLAIN], ids=["fair", "plain"])
def test_smaller_parts_train_the_same_weights(config, data):
    whole, halved = trainer(config, data), trainer(config, data, largest=10)
    expected, got = whole.train_epoch(), halved.train_epoch()
    assert halved.objective.micro_batch == 8 and whole.objective.micro_batch is None
    assert got == pytest.approx(expected, rel=1e-4)
    assert_alike(whole, halved, data)


@pytest.mark.parametrize("config", [FAIR, PLAIN], ids=["fair", "plain"])
def test_a_recording_goes_before_batches_are_halved(config, data):
    """A GPU's recorded step holds its memory: without it the batch fits, whole."""
    whole, holding = trainer(config, data), trainer(config, data)
    holding.steps.graph = object()

    def refuse(module, inputs):
        if holding.steps.graph is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    holding.model.register_forward_pre_hook(refuse)
    assert holding.train_epoch() == whole.train_epoch()
    assert holding.steps.graph is None and holding.objective.micro_batch is None
    holding.steps.graph = object()
    assert holding.evaluate().metrics == whole.evaluate().metrics and holding.steps.graph is None


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
    assert next(fails, None) is None and failing.objective.micro_batch == 16
    assert torch.equal(failing.objective.running.updates, whole.objective.running.updates)
    torch.testing.assert_close(failing.objective.running.average, whole.objective.running.average, rtol=1e-5, atol=0)
    assert_alike(whole, failing, data)


def test_an_image_too_large_is_said_in_one_line(data):
    with pytest.raises(ConfigError, match=r"a single image must fit into a trial's GPU memory.*--gpus-per-trial"):
        trainer(PLAIN, data, largest=0).train_epoch()
    with pytest.raises(ConfigError, match="a single image must fit"):
        evaluate_split(trainer(PLAIN, data, largest=0).model, data, data.val, PLAIN)


def test_an_evaluation_in_parts_measures_the_same(data):
    whole, parts = (evaluate_split(trainer(PLAIN, data, n).model, data, data.val, PLAIN) for n in (None, 10))
    tied = near_ties(logits_of(trainer(PLAIN, data).model, data.val, PLAIN))  # batches of another size round otherwise
    np.testing.assert_allclose(list(whole.metrics.values()), list(parts.metrics.values()), rtol=1e-5, atol=tied)
    np.testing.assert_allclose(whole.confusion, parts.confusion, atol=tied)


def test_the_record_says_so(data):
    class Epoch:
        trainer = trainer(dataclasses.replace(PLAIN, micro_batch=16), data, largest=10)

    assert parts(Epoch) == ""  # as it was asked for
    Epoch.trainer.train_epoch()
    assert parts(Epoch) == " micro_batch=8"
