"""The training loop: exact resumption, no leaks between trials, closed forms of the schedule, and honest numbers."""

import copy
import dataclasses
import gc
import io
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn

from tests.few_digits import few_digits, near_ties
from trainables.config import METHODS, ConfigError, TrainConfig
from trainables.data.batches import Data, Split
from trainables.models.create import fresh_model, load
from trainables.models.forward import forward
from trainables.training.fit import Diverged, Trainer, fit, trained_state

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TrainConfig(epochs=2, batch_size=32, dropout=0.1, flip=True, crop=0.7, lr=5e-3)


@pytest.fixture(scope="module")
def data() -> Data:
    """The digits with 100 training images: 3 full batches of 32 and one of 4."""
    return few_digits(100, 80)


def run(config: TrainConfig, data: Data, checkpoint=None) -> tuple[list[dict], dict]:
    """All epochs' metrics and the weights at the end."""
    metrics = []
    for epoch in fit(config, data, checkpoint=checkpoint):
        metrics.append(epoch.metrics)
        state = trained_state(epoch.trainer.model)
    return metrics, state


def assert_same(one, other) -> None:
    np.testing.assert_equal(one[0], other[0])  # NaN equals NaN here
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


def through_a_file(checkpoint: dict) -> dict:
    torch.save(checkpoint, file := io.BytesIO())
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


NOISELESS = {"penalty_center": "running", "balance": "class", "per_group": 8, "micro_batch": 12}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, NOISELESS], ids=["default", "running, balanced, in parts"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(data, method, dtype, changes):
    config = dataclasses.replace(CONFIG, method=method, epochs=3, dtype=dtype, targets="qv", **changes)
    whole = run(config, data)
    torch.manual_seed(99)  # another process would have another global stream
    first = next(fit(config, data))
    assert forward(first.trainer.model, torch.zeros(1, 3, 16, 16), config).dtype == getattr(torch, dtype)
    rest = run(config, data, through_a_file(first.trainer.checkpoint()))
    assert_same((whole[0][1:], whole[1]), rest)


def test_a_checkpoint_is_of_its_epoch_whatever_happens_next(data):
    epochs = fit(CONFIG, data)
    kept = next(epochs).trainer.checkpoint()
    frozen, last = through_a_file(kept), next(epochs)
    for _ in range(2):  # resuming must not train in the caller's tensors either
        np.testing.assert_equal(run(CONFIG, data, kept)[0], [last.metrics])
    fair = dataclasses.replace(CONFIG, method="fairlora", penalty_center="running")
    epochs = fit(fair, data)
    running = next(epochs).trainer.checkpoint()
    last_fair = next(epochs)
    for _ in range(2):
        np.testing.assert_equal(run(fair, data, running)[0], [last_fair.metrics])
    moments = kept["optimizer"]["state"]
    assert all(torch.equal(moments[i]["exp_avg"], m["exp_avg"]) for i, m in frozen["optimizer"]["state"].items())
    assert list(fit(CONFIG, data, checkpoint=last.trainer.checkpoint())) == []  # nothing is left to do


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"seed": 1}, {"method": "fft"}, {"epochs": 5}])
def test_a_checkpoint_of_another_run_is_refused(data, change):
    checkpoint = next(fit(CONFIG, data)).trainer.checkpoint()
    other = dataclasses.replace(CONFIG, **change)
    with pytest.raises(
        ConfigError, match=rf"must belong to configuration {other.config_id} with seed {other.seed}, but"
    ):
        next(fit(other, data, checkpoint=checkpoint))


@pytest.mark.parametrize("method", METHODS)
def test_only_the_weights_of_the_method_move(data, method):
    config = dataclasses.replace(CONFIG, method=method, epochs=1)
    pristine = load("vit_nano", 16, None).state_dict()
    (epoch,) = fit(config, data)
    weights = {n.replace(".base_layer", ""): p for n, p in epoch.trainer.model.named_parameters()}
    moved = {name for name, tensor in pristine.items() if not torch.equal(weights[name], tensor)}
    names = set(epoch.trainer.checkpoint()["model"]) - {"head.weight", "head.bias"}
    adapters = {f"blocks.{i}.attn.qkv.lora_{m}.default.weight" for i in range(3) for m in "AB"}
    assert (moved, names) == ((set(), adapters) if METHODS[method].lora else (set(pristine), set(pristine)))
    assert not torch.equal(weights["head.weight"], fresh_model(config, "0123456789", None).head.weight)


def test_any_trial_before_leaves_a_trial_as_it_is(data):
    load.cache_clear()
    first = run(CONFIG, data)
    for other in ("fft", "fairlora"):
        next(fit(dataclasses.replace(CONFIG, method=other, seed=7, dtype="bfloat16", targets="qv"), data))
    with pytest.raises(Diverged):
        run(dataclasses.replace(CONFIG, method="fft", lr=1e30), data)
    assert_same(first, run(CONFIG, data))
    assert run(dataclasses.replace(CONFIG, seed=1), data)[0] != first[0]


@pytest.mark.parametrize("cold", [True, False])
def test_the_callers_random_streams_are_left_alone(data, cold):
    drawn = []
    for work in (lambda: None, lambda: run(CONFIG, data)):
        if cold:
            load.cache_clear()
        torch.manual_seed(8), np.random.seed(8)
        work()
        drawn.append(torch.rand(2).tolist() + np.random.random(2).tolist())
    assert drawn[0] == drawn[1]


HIGH, LOW = 0.5 + math.cos(math.pi / 4) / 2, 0.5 - math.cos(math.pi / 8) / 2


@pytest.mark.parametrize(
    ("warmup", "epochs", "head_lr", "shares"),
    [
        (1 / 3, 3, 0.01, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 6: HIGH, 8: 0.5, 11: LOW}),  # 12 steps, 4 of warm-up
        (0.0, 1, 0.0, {0: 1.0, 1: HIGH, 2: 0.5, 3: 1 - HIGH}),
    ],
)
def test_learning_rates_rise_linearly_and_fall_as_a_cosine(data, warmup, epochs, head_lr, shares):
    config = dataclasses.replace(CONFIG, epochs=epochs, warmup=warmup, lr=0.003, head_lr=head_lr)
    trainer, seen = Trainer(config, data, None, "cpu", None), []
    groups, head = trainer.train_step.optimizer.param_groups, {id(p) for p in trainer.model.head.parameters()}
    peaks = [head_lr or 0.003 if {id(p) for p in g["params"]} <= head else 0.003 for g in groups]
    assert len(peaks) == 3  # the adapters; the head's weight and its bias
    trainer.train_step.optimizer.register_step_pre_hook(lambda *_: seen.append([g["lr"] for g in groups]))
    while trainer.epoch < epochs:
        trainer.train_epoch()
    assert len(seen) == max(shares) + 1
    for step, share in shares.items():
        assert seen[step] == pytest.approx([share * peak for peak in peaks]), step


def test_biases_norms_and_tokens_have_no_weight_decay(data):
    trainer = Trainer(dataclasses.replace(CONFIG, method="fft", weight_decay=0.3), data, None, "cpu", None)
    decay = {id(p): g["weight_decay"] for g in trainer.train_step.optimizer.param_groups for p in g["params"]}
    for name, p in trainer.model.named_parameters():
        plain = "norm" in name or name.endswith("bias") or name in ("cls_token", "pos_embed")
        assert decay.pop(id(p)) == (0.0 if plain else 0.3), name
    assert not decay


@pytest.mark.parametrize(("clip", "most"), [(0.01, 0.01), (0.5, 0.5), (0.0, math.inf)])
def test_the_gradients_norm_is_limited(data, clip, most):
    norms = []
    trainer = Trainer(dataclasses.replace(CONFIG, clip_norm=clip, method="fairfft", lam=10.0), data, None, "cpu", None)
    weights = list(trainer.model.parameters())
    trainer.train_step.optimizer.register_step_pre_hook(
        lambda *_: norms.append(nn.utils.get_total_norm([p.grad for p in weights]))
    )
    trainer.train_epoch()
    assert max(norms) <= most * 1.001 and max(norms) > min(0.9 * most, 1.0)


def test_dropout_is_on_in_each_epoch_and_drawn_anew(data):
    seen, epochs = [], fit(dataclasses.replace(CONFIG, epochs=3), data)
    trainer = next(epochs).trainer  # and so each epoch below comes behind an evaluation
    trainer.train_step.optimizer.register_step_pre_hook(
        lambda *_: seen.append((trainer.model.training, torch.initial_seed()))
    )
    assert len(list(epochs)) == 2 and len(seen) == 8
    assert all(training for training, _ in seen) and len({seed for _, seed in seen}) == 2


def test_each_epochs_metrics_are_those_of_the_validation_split(data):
    for epoch in fit(dataclasses.replace(CONFIG, method="fft"), data):
        model, val = copy.deepcopy(epoch.trainer.model).eval(), data.val
        pixels = val.store.images(val.rows).transpose(0, 3, 1, 2)
        with torch.no_grad():
            logits = model((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5)
        label, predicted, got = val.label.numpy(), logits.argmax(1).numpy(), epoch.metrics
        near = {"rel": 1e-6, "abs": near_ties(logits)}  # another code path than evaluate's
        assert got["val_accuracy"] == pytest.approx(accuracy_score(label, predicted), **near)
        assert got["val_macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro"), **near)
        assert got["val_loss"] == pytest.approx(log_loss(label, logits.double().softmax(1), labels=range(10)), rel=1e-4)
        by_group = [accuracy_score(label[val.group == g], predicted[val.group == g]) for g in (0, 1)]
        assert got["val_delta_group_accuracy"] == pytest.approx(abs(by_group[0] - by_group[1]), **near)
        assert epoch.evaluation.confusion.sum() == len(val) and epoch.seconds > 0


@pytest.mark.parametrize("groups", ["class", "sensitive", "class_x_sensitive"])
def test_train_numbers_are_means_of_the_terms_and_the_plain_methods_have_no_penalty(data, groups):
    fair = next(fit(dataclasses.replace(CONFIG, method="fairlora", lam=2.0, groups=groups), data)).metrics
    total = fair["train_cross_entropy"] + 2 * fair["train_penalty"]
    assert fair["train_loss"] == pytest.approx(total) and fair["train_penalty"] > 0
    plain = next(fit(CONFIG, data)).metrics
    assert plain["train_penalty"] == 0 and plain["train_loss"] == plain["train_cross_entropy"]


def test_a_penalty_with_all_the_weight_falls_at_every_step(data):
    """All images in one batch, so that an epoch is a step: Adam's first ones go against each gradient's sign, and are
    too small here to go too far."""
    full = {"batch_size": 100, "flip": False, "crop": 1.0, "warmup": 0.0, "epochs": 4, "lr": 1e-5}
    config = dataclasses.replace(CONFIG, method="fairfft", groups="sensitive", lam=1e4, **full)
    penalties = [metrics["train_penalty"] for metrics in run(config, data)[0]]
    assert all(after < before for before, after in itertools.pairwise(penalties))


def test_the_running_form_trains_something_else_and_without_memory_the_same(data):
    fair = dataclasses.replace(CONFIG, method="fairfft", lam=1.0, lr=1e-3, epochs=1)
    paper, forgetful, lasting = (
        run(dataclasses.replace(fair, **changes), data)
        for changes in ({}, {"penalty_center": "running", "penalty_decay": 0.0}, {"penalty_center": "running"})
    )
    loss = [metrics["train_loss"] for (metrics,), _ in (paper, forgetful, lasting)]
    # Four steps, whose gradients are 1e-6 apart (test_micro_batches.py); a hundred times as much is no rounding.
    assert loss[1] == pytest.approx(loss[0], rel=1e-5) and loss[2] != pytest.approx(loss[0], rel=1e-3)


@pytest.mark.parametrize(("epochs", "batch"), [(2, 32), (1, 100)])
def test_an_absurd_learning_rate_diverges_even_in_the_last_step(data, epochs, batch):
    config = dataclasses.replace(CONFIG, method="fft", lr=1e30, epochs=epochs, batch_size=batch, warmup=0.0)
    with pytest.raises(Diverged, match=r"loss is (nan|inf)"):
        run(config, data)


@pytest.mark.parametrize("changes", [{}, NOISELESS], ids=["default", "running, balanced, in parts"])
@pytest.mark.parametrize("method", ["lora", "fairlora"])
def test_an_image_without_numbers_diverges_before_it_moves_a_weight(data, monkeypatch, method, changes):
    trainer = Trainer(dataclasses.replace(CONFIG, method=method, **changes), data, None, "cpu", None)
    before = trained_state(trainer.model)
    monkeypatch.setattr(Split, "pixels", lambda _, index, device: torch.full((len(index), 3, 16, 16), math.nan))
    with pytest.raises(Diverged, match=r"^the training loss is nan at step 0 \(epoch 1\)$"):
        trainer.train_epoch()
    assert all(torch.equal(before[name], after) for name, after in trained_state(trainer.model).items())


class Guarded:
    """The store, but it raises if a row of the test split is read."""

    def __init__(self, store):
        self.store, self.forbidden, self.read = store, set(store.rows("test").tolist()), set()

    @property
    def manifest(self):
        return self.store.manifest

    def images(self, rows, out):
        self.read |= set(rows.tolist())
        assert not self.forbidden & self.read, "the test split was read"
        return self.store.images(rows, out)


def test_training_reads_its_own_splits_and_never_the_test_split(data):
    guarded = Guarded(data.train.store)
    train, val = (dataclasses.replace(split, store=guarded) for split in (data.train, data.val))
    run(CONFIG, Data(data.manifest, train, val))
    assert guarded.forbidden and guarded.read == {*data.train.rows.tolist(), *data.val.rows.tolist()}


def test_a_store_of_another_size_is_refused(data):
    with pytest.raises(ConfigError, match="image_size=24, but the store holds 16 px images"):
        next(fit(dataclasses.replace(CONFIG, image_size=24), data))


def test_a_run_that_is_dropped_frees_its_model_at_once(data):
    """Without a collection of garbage: the next trial's model would come on top of it, on a GPU too."""
    gc.collect()
    gc.disable()
    try:
        epochs = fit(CONFIG, data)
        model = weakref.ref(next(epochs).trainer.model)
        assert model() is not None
        del epochs
        assert model() is None
    finally:
        gc.enable()
