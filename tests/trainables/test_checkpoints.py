"""A trial goes on from its files: after a kill, after a lost report, at its end; and a full disk is named."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import refusal
from trainables import logits
from trainables.config import TrainConfig
from trainables.data.store import Store
from trainables.metrics import adjusted, cell_counts
from trainables.models import adapters, create
from trainables.prepare import datasets
from trainables.training.fit import trained_state
from trainables.trial import checkpoints
from trainables.trial.ray_trainable import RayTrainable

CONFIG = TrainConfig(method="fairlora", epochs=3, batch_size=64, flip=False, crop=1.0, lr=5e-3, rank=2)


@pytest.fixture(scope="module")
def store() -> Path:
    return datasets.prepare("digits", None, 16)


def trial(folder: Path, store: Path, reported: int = 0) -> RayTrainable:
    """As in a new process of Ray's, and without Ray."""
    context = {"store": str(store), "weights": None, "folder": str(folder), "cpus": 1, "gpus": 0}
    return RayTrainable({"number": 7, "values": CONFIG.hyperparameters(), "reported": reported, "context": context})


def step(made: RayTrainable) -> dict:
    """The next result, once its checkpoint is on the disk."""
    result = result_of(made)
    if made.trial.written:
        made.trial.written.result()
    return result


def result_of(made: RayTrainable) -> dict:
    result = made.step()
    assert result.keys() == {"report"}  # were Ray told `done`, its scheduler would not see the last epoch
    return result["report"][0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, store) -> list[dict]:
    """The results of a trial that nothing disturbs."""
    made = trial(tmp_path_factory.mktemp("whole"), store)
    return [step(made) for _ in range(3)]


def told(result: dict) -> tuple:
    return result["epoch"], result["done"], repr(result["metrics"]), repr(result["tables"])


def test_a_trial_that_was_killed_after_a_report_goes_on_behind_it(tmp_path, store, whole):
    step(trial(tmp_path, store))
    made = trial(tmp_path, store, reported=1)
    assert [told(step(made)) for _ in range(2)] == [told(result) for result in whole[1:]]


def test_a_report_that_was_lost_is_made_again_without_training(tmp_path, store, whole):
    step(trial(tmp_path, store))
    made = trial(tmp_path, store, reported=0)
    written = os.stat(tmp_path / "trials/0007/checkpoint.pt").st_mtime_ns
    first = step(made)
    assert told(first) == told(whole[0]) and os.stat(tmp_path / "trials/0007/checkpoint.pt").st_mtime_ns == written
    assert told(step(made)) == told(whole[1])


def test_at_its_end_a_trial_leaves_its_weights_and_the_news_of_it(tmp_path, store, whole):
    made = trial(tmp_path, store)
    for _ in range(3):
        step(made)
    folder = tmp_path / "trials/0007"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.pt", "model.safetensors"]
    saved = checkpoints.load_checkpoint(folder)
    assert not any(isinstance(value, torch.Tensor) for value in saved.values()) and "model" not in saved
    assert told(step(trial(tmp_path, store, reported=2))) == told(whole[2])
    assert told(step(trial(tmp_path, store, reported=3))) == told(whole[2])  # its end may not have been written down


def test_what_it_said_of_each_image_gives_its_metrics_again_to_the_last_bit(tmp_path, store, whole):
    made = trial(tmp_path, store)
    for _ in range(2):
        step(made)
    assert logits.load(tmp_path, 7) is None
    last = step(made)
    images, kept = Store(store), logits.load(tmp_path, 7)
    rows, train = images.rows("val"), images.rows("train")
    training = cell_counts(images.label[train], images.group[train], 10, 2)
    found = adjusted(logits.evaluate_logits(kept, images.label[rows], images.group[rows], 2), training)
    assert {f"val_{name}": value for name, value in found.metrics.items()}.items() <= last["metrics"].items()
    assert logits.file_of(tmp_path, 7).stat().st_size < 20_000  # so that 5,000 trials stay below 100 MB


def test_a_checkpoint_that_a_kill_cut_short_costs_an_epoch_and_no_number(tmp_path, store, whole):
    """The search has heard of two epochs, of which the second's checkpoint never came onto the disk."""
    made, path = trial(tmp_path, store), tmp_path / "trials/0007/checkpoint.pt"
    step(made)
    first = path.read_bytes()
    step(made)
    path.write_bytes(first)
    again = trial(tmp_path, store, reported=2)
    assert [told(step(again)) for _ in range(2)] == [told(result) for result in whole[1:]]


def test_a_checkpoint_that_cannot_be_written_fails_the_trial_with_its_reason(small_disk, store):
    made = trial(small_disk, store)
    (small_disk / "full").write_bytes(bytes(2 * 1024 * 1024 - 20_000))
    with pytest.raises(OSError, match="No space left on device"):
        for _ in range(3):
            made.step()


def test_a_checkpoint_that_failed_does_not_cost_a_trial_its_end(tmp_path, store, whole):
    made = trial(tmp_path, store)
    for _ in range(2):
        step(made)
    made.trial.written = made.trial.writer.submit(lambda: 1 / 0)
    assert told(result_of(made)) == told(whole[2])


def test_training_goes_on_while_a_checkpoint_is_written_and_waits_for_the_one_before(tmp_path, store):
    made, gate = trial(tmp_path, store), threading.Event()
    slow = made.trial.writer.submit(gate.wait, 60)
    made.step()  # its checkpoint stands in line
    assert not slow.done() and not (tmp_path / "trials/0007/checkpoint.pt").exists()
    first, timer = made.trial.written, threading.Timer(0.5, gate.set)
    timer.start()
    made.step()
    assert first.done() and first.exception() is None
    made.cleanup()
    assert checkpoints.load_checkpoint(tmp_path / "trials/0007")["epoch"] == 2


def test_the_next_trial_waits_for_the_last_ones_checkpoint_and_not_for_its_luck(tmp_path, store):
    made = trial(tmp_path, store)
    made.step()
    written = made.trial.written
    assert made.reset_config(made.config | {"number": 8}) and written.done()
    made.trial.writer.submit(lambda: 1 / 0)
    made.cleanup()
    assert made.trial is None


def test_lora_checkpoints_hold_adapters_and_head_alone(tmp_path, store):
    step(trial(tmp_path, store))
    names = checkpoints.load_checkpoint(tmp_path / "trials/0007")["model"]
    assert names and all("lora_" in name or name.startswith("head.") for name in names)


@pytest.mark.parametrize("content", [b"", b"nothing", "half"])
def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path, store, content):
    step(trial(tmp_path, store))
    path = tmp_path / "trials/0007/checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    line = refusal(checkpoints.check_checkpoint, path.parent, CONFIG.config_id, 0)
    assert "must be a whole checkpoint" in line and "delete it" in line


def test_a_checkpoint_that_runs_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, ("touch exploded",)

    folder = tmp_path / "t"
    folder.mkdir()
    torch.save({"config_id": "x", "seed": 0, "result": Bomb()}, folder / "checkpoint.pt")
    refusal(checkpoints.check_checkpoint, folder, "x", 0)
    assert not Path("exploded").exists()


def test_another_trials_checkpoint_is_refused(tmp_path, store):
    step(trial(tmp_path, store))
    folder = tmp_path / "trials/0007"
    assert checkpoints.check_checkpoint(folder, CONFIG.config_id, 0)
    assert "another's" in refusal(checkpoints.check_checkpoint, folder, CONFIG.config_id, 1)
    assert not checkpoints.check_checkpoint(tmp_path / "trials/0008", CONFIG.config_id, 0)


@pytest.mark.slow
def test_a_hundred_lora_trials_on_vit_b_stay_below_2_gb(tmp_path):
    """Even if three quarters of them stand on the front at the papers' largest rank, with eight more at work."""
    config = TrainConfig(method="lora", rank=128, backbone="vit_b16", image_size=224)
    model = adapters.adapt(create.fresh_model(config, [str(i) for i in range(40)], "random"), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.zeros(1, 3, 224, 224)).sum().backward()
    optimizer.step()
    state = trained_state(model)
    checkpoints.save_weights(tmp_path, state, {})
    checkpoints.save_checkpoint(tmp_path, {"model": state, "optimizer": optimizer.state_dict()}, {"done": False})
    weights, checkpoint = ((tmp_path / name).stat().st_size for name in ("model.safetensors", "checkpoint.pt"))
    assert 75 * weights + 8 * checkpoint < 2e9
    assert weights < 20e6 and checkpoint < 60e6  # of 344 MB that the whole model has


FILL = """
import sys, torch
from pathlib import Path
from trainables.trial.checkpoints import save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder, {"config_id": "x", "seed": 0, "epoch": 1, "model": torch.zeros(10)}, {"done": False})
try:
    save_checkpoint(folder, {"config_id": "x", "seed": 0, "epoch": 2, "model": torch.zeros(2_000_000)}, {"done": False})
except OSError as error:
    print(error.errno, error.strerror, torch.load(folder / "checkpoint.pt")["epoch"], len(list(folder.iterdir())))
"""


def test_a_full_disk_is_told_as_such_and_the_checkpoint_before_stays(small_disk):
    done = subprocess.run([sys.executable, "-c", FILL, str(small_disk / "t")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number, *words, epoch, files = done.stdout.split()
    assert int(number) == errno.ENOSPC and " ".join(words).startswith("No space left on device")
    assert (epoch, files) == ("1", "1")


def test_weights_are_as_readable_as_any_other_file(tmp_path):
    before = os.umask(0o022)
    try:
        checkpoints.save_weights(tmp_path, {"a": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / checkpoints.WEIGHTS).stat().st_mode) == 0o644


def test_a_confirmation_alone_sees_the_test_split(tmp_path, store):
    images = Store(store)
    for test, split in ((False, "val"), (True, "test")):
        made = trial(tmp_path / split, store)
        made.trial.config["context"] |= {"test": True} if test else {}
        result = step(made)
        assert sum(result["tables"]["by_class"]["count"]) == len(images.rows(split))
        counts = np.bincount(images.label[images.rows(split)])
        assert result["tables"]["by_class"]["count"] == counts.tolist()
        made.cleanup()
