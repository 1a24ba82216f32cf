"""Real searches in processes of their own: record, study and MLflow agree; an interrupt ends everything properly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import results
from tests.processes import patience
from trainables.export import load
from tune_fairlora import cli
from tune_fairlora.record.event_log import read_events
from tune_fairlora.record.state import State

TINY = ["--space", "digits", "--epochs", "2", "--set", "batch_size=128", "--scheduler", "none"]


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "tune_fairlora.search", *argv]


def search(folder: Path, *argv: str, **env: str) -> subprocess.CompletedProcess:
    """Run a search in ``folder`` to its end."""
    environment = {**os.environ, **env}
    return subprocess.run(
        command(*argv), cwd=folder, env=environment, capture_output=True, text=True, timeout=patience(280)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search of six trials: its folder's parent and what it printed."""
    folder = tmp_path_factory.mktemp("search")
    done = search(folder, *TINY, "--trials", "6", "--name", "six")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_every_trial_stands_in_the_record_once(finished):
    folder, _ = finished
    table = pd.read_parquet(folder / "runs/six/trials.parquet")
    assert table["number"].tolist() == list(range(6))
    assert (table["status"] == "complete").all() and (table["epochs_trained"] == 2).all()
    assert table["method"].tolist()[:4] == ["lora", "fairlora", "fft", "fairfft"]
    assert table.loc[table["method"] == "fft", "rank"].isna().all()
    assert len(pd.read_parquet(folder / "runs/six/epochs.parquet")) == 12


@pytest.mark.slow
def test_the_result_of_a_trial_is_that_of_its_last_epoch(finished):
    folder, _ = finished
    record = results.read(folder / "runs/six")
    last = record.epochs.sort_values("epoch").groupby("number").last()
    for name in ("val_accuracy", "val_delta_f1", "val_loss"):
        assert record.trials.set_index("number")[name].equals(last[name])


@pytest.mark.slow
def test_the_front_is_what_no_trial_dominates(finished):
    """Five points are tried first, and one of them is trained again: by then it alone may stand on the front."""
    table = pd.read_parquet(finished[0] / "runs/six/trials.parquet")
    again = table.loc[table["repeats"].notna(), "config_id"]
    assert len(again) == 1 and set(table.loc[table["on_front"], "config_id"]) == set(again)
    single = table[table["repeats"].isna()]
    repeated = single[single["config_id"] == again.item()].iloc[0]
    points = list(zip(single["val_accuracy"], single["val_delta_f1"]))
    accuracy, delta = repeated["val_accuracy"], repeated["val_delta_f1"]
    assert not any(a >= accuracy and d <= delta and (a, d) != (accuracy, delta) for a, d in points)


@pytest.mark.slow
def test_the_study_agrees_with_the_record(finished):
    folder = finished[0] / "runs/six"
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))
    table = pd.read_parquet(folder / "trials.parquet")
    assert [t.values for t in study.trials] == table[["val_accuracy", "val_delta_f1"]].values.tolist()
    points = dict(zip(table["number"], zip(table["val_accuracy"], table["val_delta_f1"])))
    best = {
        n for n, (a, d) in points.items() if not any(p >= a and q <= d and (p, q) != (a, d) for p, q in points.values())
    }
    assert {t.number for t in study.best_trials} == best
    marks = {t.number: t.user_attrs["repeats"] for t in study.trials if "repeats" in t.user_attrs}
    assert marks == table.dropna(subset="repeats").set_index("number")["repeats"].astype(int).to_dict()


@pytest.mark.slow
def test_mlflow_has_one_parent_and_a_finished_child_a_trial(finished):
    folder, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tune-fairlora").experiment_id
    runs = client.search_runs([experiment])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_id: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert len(parents) == 1 and len(children) == 6
    assert {r.info.status for r in runs} == {"FINISHED"}
    table = pd.read_parquet(folder / "runs/six/trials.parquet")
    for row in table.itertuples():
        run = children[row.mlflow_run_id]
        assert run.data.metrics["val_accuracy"] == row.val_accuracy
        assert run.data.params["method"] == row.method and ("rank" in run.data.params) == ("lora" in row.method)
        assert run.data.tags["pareto"] == str(row.on_front).lower()
        assert [m.step for m in client.get_metric_history(row.mlflow_run_id, "val_delta_f1")] == [1, 2]
    parent = parents[0].info.run_id
    assert len(client.get_metric_history(parent, "hypervolume")) == 6
    shown = {"front.html", "front.json", "front.png", "front.svg", "record"}
    assert {a.path for a in client.list_artifacts(parent)} == shown
    assert [each.dataset.name for each in parents[0].inputs.dataset_inputs] == ["digits"]
    child = {a.path for a in client.list_artifacts(table["mlflow_run_id"].iloc[0])}
    assert child == {"by_class.json", "by_group.json", "confusion.html"}


@pytest.mark.slow
def test_the_adapters_of_the_front_are_models_once_and_one_can_be_registered(finished, capsys, monkeypatch):
    """Exported, logged, registered, and loaded by MLflow alone: the same probabilities."""
    folder, _ = finished
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    monkeypatch.chdir(folder)
    experiment = client.get_experiment_by_name("tune-fairlora").experiment_id
    front = results.read(folder / "runs/six").trials.query("on_front")
    assert _models(client, experiment) == set(front.loc[front["method"].str.contains("lora"), "number"])
    number = str(front["number"].iloc[-1])
    for version in ("first", "again"):
        argv = ["--search", "six", "--trial", number, "--register", "digits", "--alias", "best", "--out", version]
        assert cli.main(["export", *argv]) == 0
    assert "models:/digits@best" in capsys.readouterr().out
    assert [v.version for v in client.search_model_versions("name = 'digits'")] == [1]
    assert _models(client, experiment) >= {int(number)}
    mlflow.set_tracking_uri(uri)
    images = np.random.default_rng(0).integers(0, 255, (3, 30, 20, 3), dtype=np.uint8)
    served = mlflow.pyfunc.load_model("models:/digits@best").predict(images)
    model = load.load(folder / "first")
    batch = torch.stack([load.preprocess(Image.fromarray(image), folder / "first") for image in images])
    np.testing.assert_allclose(served.to_numpy(), model(batch).softmax(1).detach().numpy(), atol=1e-6)
    assert list(served.columns) == results.read(folder / "runs/six").classes


def _models(client: mlflow.MlflowClient, experiment: str) -> set[int]:
    found = [int(m.tags["trial"]) for m in client.search_logged_models([experiment]) if str(m.status) == "READY"]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.slow
def test_only_the_weights_of_the_front_and_its_rivals_are_kept(finished):
    folder = finished[0] / "runs/six"
    state = State()
    for event in read_events(folder):
        state.apply(event)
    kept = {int(path.name) for path in (folder / "trials").iterdir()}
    assert kept == {*state.front(), *state.rivals()}
    assert all([f.name for f in p.iterdir()] == ["model.safetensors"] for p in (folder / "trials").iterdir())


@pytest.mark.slow
def test_the_terminal_shows_a_line_a_trial_the_front_and_the_way_to_mlflow(finished):
    folder, out = finished
    assert sum(line.lstrip()[:2] in {f"{i}/" for i in range(1, 7)} for line in out.splitlines()) == 6
    assert "Pareto front, validation split" in out and str(folder / "runs/six") in out
    assert "-m tune_fairlora.ui\n" in out
    chatter = [line for line in out.splitlines() if "ray" in line.lower() and "/" not in line]
    assert chatter[0] == "starting Ray …" and chatter[1].startswith("Ray is up: ") and len(chatter) == 2


@pytest.mark.slow
def test_actors_are_reused_by_all_methods(finished):
    """Six trials of four methods on this machine's cores start no more processes than run at once."""
    log = (finished[0] / "runs/six/events.jsonl").read_text()
    pids = {json.loads(line)["pid"] for line in log.splitlines() if '"event": "epoch"' in line}
    assert 1 <= len(pids) <= (os.cpu_count() or 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "end"), (signal.SIGTERM, "end"), (signal.SIGINT, "search")]
)
def test_an_interrupt_ends_trials_and_runs_properly(tmp_path, number, moment):
    """At the first trial's end, and right after the record was begun, when Ray Tune is still being imported."""
    process = subprocess.Popen(
        command(*TINY, "--trials", "50", "--name", "cut"), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "runs/cut/events.jsonl"
    deadline = time.monotonic() + patience(150)
    while time.monotonic() < deadline and not (log.exists() and f'"event": "{moment}"' in log.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=patience(100))
    assert process.returncode == 128 + number, out
    table = pd.read_parquet(tmp_path / "runs/cut/trials.parquet")
    assert set(table["status"]) <= {"complete", "collapsed", "interrupted"} and len(table) < 50
    assert len(table) > 0 or moment == "search"  # by then the first trials may have begun
    assert "interrupted" in [event["status"] for event in read_events(log.parent) if event["event"] == "close"]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])
    assert len(runs) == 1 + len(table) and {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
    assert [r.info.status for r in runs if r.data.tags["role"] == "search"] == ["KILLED"]
    assert "Pareto front" in out


def runs_of(folder: Path) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])


def go_on(folder: Path, *options: str) -> pd.DataFrame:
    done = search(folder, "--resume", "six", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return pd.read_parquet(folder / "runs/six/trials.parquet")


@pytest.mark.slow
def test_a_finished_search_can_be_given_more_trials(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = pd.read_parquet(tmp_path / "runs/six/trials.parquet")
    table = go_on(tmp_path, "--trials", "8", "--tracking-uri", uri)
    assert table["number"].tolist() == list(range(8)) and (table["status"] == "complete").all()
    same = ["config_id", "val_accuracy", "val_delta_f1", "seconds", "mlflow_run_id"]
    assert table.head(6)[same].equals(before[same])
    again = go_on(tmp_path)  # nothing is left to do, and that it has 8 trials is remembered
    assert again["number"].tolist() == list(range(8))
    runs = runs_of(tmp_path)
    assert len(runs) == 9 and {run.info.status for run in runs} == {"FINISHED"}
    [parent] = [run for run in runs if run.data.tags["role"] == "search"]
    assert parent.data.tags["changed.trials"] == "8"


@pytest.mark.slow
def test_a_time_budget_ends_a_search_in_time_and_it_goes_on_later(tmp_path):
    start, budget = time.monotonic(), patience(120)
    done = search(tmp_path, *TINY, "--trials", "400", "--name", "six", "--time-budget", f"{budget:.0f}s")
    assert done.returncode == 0 and time.monotonic() - start < budget + patience(10), done.stdout + done.stderr
    assert "--resume six" in done.stdout
    table = pd.read_parquet(tmp_path / "runs/six/trials.parquet")
    ended = {"complete", "collapsed"}  # by what training happened to reach
    assert 0 < len(table) < 400 and set(table["status"]) <= {*ended, "interrupted"}
    more = len(table) + 1
    table = go_on(tmp_path, "--trials", str(more))
    assert len(table) == more and set(table["status"]) <= ended
    assert {run.info.status for run in runs_of(tmp_path)} == {"FINISHED"}


def leave_after(text: str, folder: Path) -> None:
    """Start a search of six trials and close its output once a line with ``text`` has been read."""
    argv = command(*TINY, "--trials", "6", "--name", "pipe")
    process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while (line := process.stdout.readline()) and text.encode() not in line:
        pass
    assert line, "the search ended before it said so"
    process.stdout.close()
    _, err = process.communicate(timeout=patience(150))
    assert process.returncode == 1 and b"Traceback" not in err


@pytest.mark.slow
def test_a_reader_that_goes_away_before_ray_is_up_leaves_nothing(tmp_path):
    leave_after("starting Ray", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_break_the_record(tmp_path):
    """As in ``search … | head -3``: the search breaks off, and record and MLflow are closed as for any failure."""
    leave_after("1/6", tmp_path)
    table = pd.read_parquet(tmp_path / "runs/pipe/trials.parquet")
    assert len(table) and set(table["status"]) <= {"complete", "collapsed", "interrupted"}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])
    assert "RUNNING" not in {r.info.status for r in runs}


BROKEN_SPACE = """
from optuna.distributions import CategoricalDistribution
from search_spaces import SPACES
import dataclasses
digits = SPACES["digits"]
SPACE = dataclasses.replace(digits, methods=("lora",), first={}, search={
    "last_blocks": CategoricalDistribution((0, 99)), "lr": CategoricalDistribution((1e-3, 1e12))})
"""


@pytest.mark.slow
def test_trials_that_fail_or_diverge_are_recorded_and_the_search_goes_on(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN_SPACE)
    done = search(tmp_path, *TINY, "--space", "broken.py", "--sampler", "grid", "--reseed", "0", "--name", "broken")
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "runs/broken/trials.parquet").set_index(["last_blocks", "lr"])
    assert len(table) == 4 and table.loc[(0, 1e-3), "status"] == "complete"
    assert table.loc[(0, 1e12), "status"] == "diverged" and "loss is" in table.loc[(0, 1e12), "reason"]
    for lr in (1e-3, 1e12):
        assert table.loc[(99, lr), "status"] == "failed"
        assert "`last_blocks <= 3` must hold" in table.loc[(99, lr), "reason"]
        assert table.loc[(99, lr), "failures"] == 1  # not tried again: it would be refused again
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tune-fairlora").experiment_id])
    assert sorted(r.info.status for r in runs) == ["FAILED"] * 3 + ["FINISHED"] * 2


def test_help_and_list_need_none_of_the_heavy_libraries():
    code = """
import sys
from tune_fairlora import cli
for argv in (["--help"], ["--list"]):
    try:
        cli.main(["search", *argv])
    except SystemExit as end:
        assert end.code == 0
heavy = {"torch", "ray", "mlflow", "timm", "peft", "pandas", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0, done.stderr
    assert "--gpus-per-trial" in done.stdout and "folder_clip" in done.stdout


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(tmp_path):
    done = search(tmp_path, *TINY, "--dry-run", "--name", "dry")
    assert done.returncode == 0, done.stderr
    assert "train 1583, val 1016, test 1000 images of 16 px" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_describe_counts_what_each_rank_trains():
    done = subprocess.run(command("--space", "folder_vit_tiny", "--describe"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # 12 blocks of rank 8 on qkv of width 192: 12 * 8 * (192 + 576); head 10 * 193; backbone 5,524,416; the head twice
    trained = 12 * 8 * (192 + 576) + 1930
    assert f"lora, fairlora  rank 8: {trained:,} of {5_524_416 + trained + 1930:,} parameters" in done.stdout
    assert f"fft, fairfft    every weight: {5_524_416 + 1930:,} of" in done.stdout
