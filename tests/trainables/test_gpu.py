"""Training on a GPU: recorded steps, limits, resuming. Skipped where there is none.

python -m pytest tests/trainables/test_gpu.py -p no:xdist
"""

import dataclasses
import gc
import itertools

import numpy as np
import pytest
import torch

from tests.few_digits import few_digits
from trainables.config import TrainConfig
from trainables.data.batches import Data, Split, training_batches
from trainables.training import gpu
from trainables.training.fit import Diverged, Trainer, evaluate_split, fit, trained_state
from trainables.training.optimizer import set_learning_rates

if not torch.cuda.is_available():
    pytest.skip("no GPU that torch can use", allow_module_level=True)

BASE = TrainConfig(batch_size=32, epochs=2, lr=1e-3)
VARIANTS = {
    "lora": {},
    "lora-dropout-bf16": {"dropout": 0.2, "dtype": "bfloat16"},
    "lora-qv-bf16": {"targets": "qv", "dtype": "bfloat16"},
    "fairlora": {"method": "fairlora", "lam": 0.5},
    "fairlora-running": {"method": "fairlora", "lam": 0.5, "penalty_center": "running", "reduction": "mean"},
    "fairlora-balanced": {"method": "fairlora", "lam": 0.5, "balance": "class", "groups": "class_x_sensitive"},
    "fft": {"method": "fft"},
    "fairfft-bf16": {"method": "fairfft", "lam": 0.5, "dtype": "bfloat16", "clip_norm": 0.0},
    "last-blocks": {"last_blocks": 1, "flip": False, "crop": 1.0},
}


@pytest.fixture(scope="module", autouse=True)
def device():
    assert gpu.claim(1.0) == "cuda"


@pytest.fixture(scope="module")
def data() -> Data:
    return few_digits(32 * 6 + 9, 150)


def large(backbone: str, **changes) -> TrainConfig:
    size = 256 if backbone.startswith("swin") else 224
    return dataclasses.replace(BASE, data="folder", backbone=backbone, image_size=size, **changes)


def enlarged(n: int, size: int) -> Data:
    """So many digits at another size."""
    small = few_digits(n, 20)
    manifest = dataclasses.replace(small.manifest, size=size)

    class Enlarged:
        def __init__(self):
            self.manifest = manifest

        def images(self, rows, out):
            out[...] = np.resize(small.train.store.images(rows), out.shape)

    splits = [Split(Enlarged(), s.rows, s.label, s.group) for s in (small.train, small.val)]
    return Data(manifest, *splits)


def trainer(config: TrainConfig, data: Data, recorded: bool = True, weights: str | None = "random", **more) -> Trainer:
    made = Trainer(config, data, weights, "cuda", more.get("checkpoint"))
    made.recorded_step.may_record = recorded
    return made


def after(made: Trainer, epochs: int) -> tuple[list[dict], dict]:
    """Train; losses and metrics of each epoch, and the weights at the end."""
    found = [made.train_epoch() | made.evaluate().metrics for _ in range(epochs)]
    return found, trained_state(made.model)


def assert_same(one: tuple, other: tuple) -> None:
    np.testing.assert_equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert torch.equal(one[1][name], other[1][name]), name


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_recorded_steps_are_the_computed_ones_to_the_bit(change, data):
    config = dataclasses.replace(BASE, **change)
    recorded, computed = trainer(config, data), trainer(config, data, recorded=False)
    assert_same(after(recorded, 2), after(computed, 2))
    assert recorded.recorded_step.recording is not None and computed.recorded_step.recording is None


@pytest.mark.parametrize("backbone", ["vit_tiny", "clip_b32", "swinv2_t"])
@pytest.mark.parametrize("method", ["lora", "fft"])
def test_each_family_can_be_recorded(backbone, method):
    config = large(backbone, method=method, dtype="bfloat16")
    made = enlarged(32 * 5, config.image_size)
    recorded, computed = trainer(config, made), trainer(config, made, recorded=False)
    assert_same(after(recorded, 1), after(computed, 1))
    assert recorded.recorded_step.recording is not None


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_no_step_waits_for_the_gpu(change, data):
    """torch raises at each hidden question. The first epoch may ask: kernels are chosen, a step is recorded."""
    made = trainer(dataclasses.replace(BASE, **change), data)
    made.train_epoch()
    batches = list(
        itertools.islice(training_batches(data.train, made.config, 1, "cuda", made.prefix_cache.training(1)), 7)
    )
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with made.recorded_step.context():
            for batch in batches:
                set_learning_rates(made.train_step.optimizer, 0.5)
                made.recorded_step(*batch)
            tokens = made.prefix_cache.training(1)
            next(training_batches(data.train, made.config, 1, "cuda", tokens))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_same_run_twice_is_the_same_to_the_bit(data):
    for change in VARIANTS.values():
        config = dataclasses.replace(BASE, **change)
        assert_same(after(trainer(config, data), 2), after(trainer(config, data), 2))


@pytest.mark.parametrize("name", ["lora-dropout-bf16", "fairlora-running", "fft"])
def test_a_run_that_is_taken_up_equals_one_that_was_never_broken_off(name, data):
    config = dataclasses.replace(BASE, **VARIANTS[name])
    whole, first = trainer(config, data), trainer(config, data)
    whole.train_epoch()
    first.train_epoch()
    again = trainer(config, data, checkpoint=first.checkpoint())
    assert_same(after(again, 1), after(whole, 1))


def test_a_checkpoint_goes_on_on_the_other_device(data):
    config = dataclasses.replace(BASE, method="fft")
    there, here = trainer(config, data), Trainer(config, data, "random", "cpu", None)
    there.train_epoch()
    here.train_epoch()
    crossed = (
        Trainer(config, data, "random", "cpu", there.checkpoint()),
        trainer(config, data, checkpoint=here.checkpoint()),
    )
    losses = [made.train_epoch()["loss"] for made in (*crossed, there, here)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-3)


def test_a_gpu_computes_what_a_cpu_computes(data):
    config = dataclasses.replace(BASE, method="fairlora", lam=0.5)
    here, there = Trainer(config, data, "random", "cpu", None), trainer(config, data)
    for _ in range(2):
        assert there.train_epoch() == pytest.approx(here.train_epoch(), rel=1e-3)
    mine, theirs = here.evaluate().metrics, there.evaluate().metrics
    assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)


def test_nothing_is_left_of_a_trial_for_the_next(data):
    alone = after(trainer(BASE, data), 2)
    after(trainer(dataclasses.replace(BASE, method="fairfft", dtype="bfloat16"), data), 1)
    gc.collect()
    before = torch.cuda.memory_allocated()
    second = after(trainer(BASE, data), 2)
    assert_same(second, alone)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before


def test_a_loss_that_is_no_number_ends_the_run(data):
    config = dataclasses.replace(BASE, method="fft", lr=1e20, clip_norm=0.0, warmup=0.0)
    with pytest.raises(Diverged, match=r"loss is (nan|inf)"):
        list(fit(config, data, "random", "cuda"))
    with pytest.raises(Diverged, match=r"at step 1 \(epoch 1\)|at step 2 \(epoch 1\)"):
        trainer(config, data).train_epoch()


@pytest.fixture
def limited():
    """A limit of so many bytes for tensors."""

    def to(n: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(n / gpu.total_bytes())

    yield to
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_goes_through_in_parts(limited):
    """For real: the GPU's memory ends in the midst of a step."""
    config = large("vit_tiny", method="fairfft", lam=0.5, batch_size=96, penalty_center="running")
    made = enlarged(96 * 5, 224)
    whole = trainer(config, made, recorded=False)
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    expected = whole.train_epoch()
    peak = torch.cuda.max_memory_allocated() - start
    parts = trainer(config, made)
    limited(torch.cuda.memory_allocated() + peak // 2)
    got = parts.train_epoch()
    assert parts.micro_batches.size and parts.recorded_step.recording is None
    assert got == pytest.approx(expected, rel=1e-3)
    losses = [evaluate_split(t.model, made, made.val, config, "cuda").metrics["loss"] for t in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_share_is_a_limit():
    try:
        gpu.limit(0.1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.1 * gpu.total_bytes()), dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("name", ["lora", "fft", "fairlora-running"])
def test_a_trial_fits_into_what_the_probe_says(name, data, limited):
    config = dataclasses.replace(BASE, **VARIANTS[name])
    needed = gpu.trial_bytes(config, data, "random") - gpu.PROCESS_BYTES
    assert 0 < needed < gpu.total_bytes() / 20
    limited(needed)
    made = trainer(config, data)
    after(made, 2)
    assert made.micro_batches.size is None and made.recorded_step.recording is not None
