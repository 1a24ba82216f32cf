"""The test split is touched here alone: the saved model measured on it, or trained anew on train and val."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import tune_fairlora as tf
from tests.few_digits import logits_of, near_ties
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.store import Store
from trainables.metrics import cell_counts
from trainables.prepare import datasets
from trainables.training.fit import evaluate_split, fit, trained_state
from tune_fairlora import cli
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.tables import render

OBJECTIVES = ("val_accuracy", "val_delta_f1")
CONFIG = TrainConfig(method="lora", rank=4, lr=5e-3, batch_size=128, epochs=2, flip=False, crop=1.0)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A record as a search leaves it: trial 0 complete and on the front, trial 1 failed; and trial 0's own model."""
    folder, store = tmp_path_factory.mktemp("searches") / "done", datasets.prepare("digits", None, 16)
    (folder / "trials/0000").mkdir(parents=True)
    seen = batches.open_data(store)
    fingerprint = seen.manifest.fingerprint
    settings = {
        "name": "done", "objectives": OBJECTIVES, "directions": ["maximize", "minimize"], "store": str(store),
        "weights_file": "", "weights": "hub", "data_fingerprint": fingerprint,
        "groups": seen.manifest.groups, "classes": seen.manifest.classes, "collapse_floor": 0.1,
    }  # fmt: skip
    (folder / "search.json").write_text(json.dumps(settings))
    record = Record(folder)
    record.add("search", settings=settings)
    for number in (0, 1):
        values = CONFIG.hyperparameters()
        record.add("start", number=number, values=values, config_id=CONFIG.config_id, seed=0)
    for epoch in fit(CONFIG, seen):
        record.add("epoch", number=0, epoch=epoch.number, metrics=epoch.metrics, seconds=1.0)
    record.add("end", number=0, status="complete", reason="", tables={})
    record.add("end", number=1, status="failed", reason="x", tables={})
    record.add("close", status="complete")
    safetensors.torch.save_file(trained_state(epoch.trainer.model), folder / "trials/0000/model.safetensors")
    render(record)
    record.close()
    return folder, epoch.trainer.model, store


def confirmed(folder) -> pd.DataFrame:
    return pd.read_parquet(folder / "confirmed.parquet").set_index("trained_on")


def test_the_saved_model_is_measured_on_the_test_split(search, capsys):
    folder, model, store = search
    assert cli.main(["confirm", "--search", str(folder)]) == 0
    seen = batches.open_confirmation(store)
    expected = evaluate_split(model, seen, seen.val, CONFIG).metrics
    tied = near_ties(logits_of(model, seen.val, CONFIG))  # its last block computes one row alone, and rounds otherwise
    row = confirmed(folder).loc["train"]
    assert row["number"] == 0 and row["config_id"] == CONFIG.config_id
    for name, value in expected.items():
        assert row[f"test_{name}"] == pytest.approx(value, abs=max(1e-6, tied), nan_ok=True)
    line, _, looks = capsys.readouterr().out.splitlines()
    assert looks.startswith("looks at this test split on this machine, with this one: ")
    assert line.startswith("   0 lora      train    validation → test: accuracy 0.")
    assert re.findall(r"(?<=\d)  (.+?) \d\.\d{4} → ", line) == ["ΔF1", "worst group", "worst attribute"]
    # Weighed by what the model was trained on, in which a ground goes with most digits of a parity.
    training = cell_counts(seen.train.label.numpy(), seen.train.group.numpy(), 10, 2)
    cells = evaluate_split(model, seen, seen.val, CONFIG).by_cell["accuracy"]
    assert row["test_adjusted_accuracy"] == pytest.approx(
        (training * cells).sum() / training.sum(), abs=max(1e-6, tied)
    )
    assert row["test_worst_cell_accuracy"] == pytest.approx(cells.min(), abs=max(1e-6, tied))


def test_a_refit_trains_on_train_and_val_and_stands_beside_the_first(search):
    folder, _, store = search
    assert cli.main(["confirm", "--search", str(folder)]) == 0
    assert cli.main(["confirm", "--search", str(folder), "--refit", "trainval"]) == 0
    *_, last = fit(CONFIG, batches.open_confirmation(store, trainval=True))
    table = confirmed(folder)
    assert sorted(table.index) == ["train", "trainval"]
    assert table.loc["trainval", "test_accuracy"] == pytest.approx(last.evaluation.metrics["accuracy"])
    assert table.loc["trainval", "test_loss"] != table.loc["train", "test_loss"]  # another model, of more images


def test_the_api_confirms_as_the_command_does(search):
    folder, _, _ = search
    table = tf.open(folder).confirm([0])
    pd.testing.assert_frame_equal(table.set_index("trained_on"), confirmed(folder))
    assert table["number"].tolist() == [0] * len(table) and table["test_accuracy"].notna().all()


def test_train_val_and_test_are_apart_and_trainval_is_the_first_two(search):
    store = Store(search[2])
    seen, plain = batches.open_confirmation(search[2], trainval=True), batches.open_data(search[2])
    assert seen.val.rows.tolist() == store.rows("test").tolist()
    assert seen.train.rows.tolist() == sorted([*plain.train.rows, *plain.val.rows])
    assert not set(seen.train.rows) & set(seen.val.rows)
    assert batches.open_confirmation(search[2]).train.rows.tolist() == plain.train.rows.tolist()
    assert np.array_equal(seen.train.label.numpy(), store.label[seen.train.rows])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--trials", "7"], "trial 7 does not exist"),
        (["--trials", "0,x"], "--trials takes whole numbers with commas, but got 'x'"),
        (["--trials", "1"], "must be complete trials of the search, but trial 1 is failed"),
        (["--device", "banana"], "invalid choice: 'banana'"),
        (["--refit", "test"], "argument --refit: invalid choice: 'test'"),
    ],
)
def test_a_mistake_is_one_line(search, capsys, argv, message):
    assert cli.main(["confirm", "--search", str(search[0]), *argv]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_a_folder_that_is_no_search_or_has_lost_its_images_is_refused(search, tmp_path, capsys):
    assert cli.main(["confirm", "--search", str(tmp_path)]) == 2
    assert "must be the folder of a search, but has no events.jsonl" in capsys.readouterr().err
    shutil.copytree(search[0], tmp_path / "copy")
    settings = json.loads((search[0] / "search.json").read_text())

    def refused(**changes) -> str:
        (tmp_path / "copy/search.json").write_text(json.dumps(settings | changes))
        assert cli.main(["confirm", "--search", str(tmp_path / "copy")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "the search's images are gone from" in refused(store=str(tmp_path / "gone.arrow"))
    assert "must be those of the search, but are others now" in refused(data_fingerprint="other")
    (tmp_path / "weights.pt").write_bytes(b"others")
    assert "are others now" in refused(weights_file=str(tmp_path / "weights.pt"), weights="0" * 64)
    assert "the search's weights are gone" in refused(weights_file=str(tmp_path / "no.pt"), weights="0" * 64)
    saved = tmp_path / "copy/trials/0000/model.safetensors"
    safetensors.torch.save_file({"other": torch.zeros(1)}, saved)
    assert "but holds others; set --refit to train" in refused()
    saved.write_bytes(b"torn")
    assert "must be whole, but" in refused()
    saved.unlink()
    assert "trial 0 has no saved weights (the front's trials have): set --refit to train" in refused()
    events = (tmp_path / "copy/events.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "copy/events.jsonl").write_text("".join(events[:-1]))
    assert "must be over before it is confirmed, but is still open" in refused()
    (tmp_path / "copy/search.json").write_text("{}")
    assert cli.main(["confirm", "--search", str(tmp_path / "copy")]) == 2
