"""``import tune_fairlora as tf``: a search is opened, looked at, and run from a script or a notebook, whose process is
left as it was."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pytest

import tune_fairlora as tf
from tests import told
from tests.processes import refusal
from trainables.config import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A search that is over; its trials are drawn, so it has no models."""
    statuses = ["complete"] * 13 + ["stopped", "failed", "complete"]
    return told.write(tmp_path_factory.mktemp("api") / "runs/drawn", statuses=statuses, store="gone.arrow")


def test_a_search_is_opened_by_its_name_or_its_folder(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent.parent)
    assert tf.open("drawn").folder == tf.open(folder).folder == tf.open("drawn", folder.parent).folder == folder
    assert tf.ConfigError is ConfigError
    assert "there are: drawn" in refusal(tf.open, "other")
    assert "has no events.jsonl" in refusal(tf.open, tmp_path)


def test_its_tables_are_those_of_the_folder_and_the_front_is_sorted(folder):
    search = tf.open(folder)
    table = pd.read_parquet(folder / "trials.parquet")
    pd.testing.assert_frame_equal(search.trials, table)
    assert len(search.epochs) == len(pd.read_parquet(folder / "epochs.parquet"))
    assert set(search.front["number"]) == set(table.loc[table["on_front"], "number"])
    assert search.front["val_accuracy"].is_monotonic_decreasing and search.confirmed.empty
    assert search.status == "complete" and repr(search) == f"Search('{folder}')"


def test_a_trial_knows_its_numbers_and_why_it_was_picked(folder):
    search = tf.open(folder)
    best = search.best("accuracy")
    row = search.trials.set_index("number").loc[best.number]
    assert row["val_accuracy"] == search.front["val_accuracy"].max() == best.metrics["val_accuracy"]
    assert best.why.startswith(f"accuracy: trial {best.number} has the best val_accuracy")
    assert best.config.config_id == row["config_id"] and best.status == "complete"
    assert repr(best).startswith(f"Trial({best.label}, complete, val_accuracy {best.metrics['val_accuracy']:.4f}, ")
    assert search.best().number in set(search.front["number"])
    assert refusal(search.trial, 99) == "`trial` must be one of the search's 16, but 99 does not exist"
    assert "a rule to pick by is knee, accuracy, fairness, or like" in refusal(search.best, "cheapest")


def test_a_search_shows_its_front_while_it_runs_and_before_it_has_one(folder, tmp_path):
    assert tf.open(folder)._repr_html_().count("drawFront(document") == 1
    statuses = {"statuses": ["complete", "running"], "trials": 2, "close": None}
    running = tf.open(told.write(tmp_path / "running", store="gone.arrow", **statuses))
    assert running.status == "running" and "drawFront" in running._repr_html_()
    assert running.best("accuracy").number == 0
    assert "must be over before a trial is exported" in refusal(running.best("accuracy").export, tmp_path / "m")
    (tmp_path / "new").mkdir()
    first = (tmp_path / "running/events.jsonl").read_text().split("\n")[0]
    (tmp_path / "new/events.jsonl").write_text(first + "\n")
    new = tf.open(tmp_path / "new")
    assert new._repr_html_() == "<p>No trial has ended yet.</p>" and new.status == "running"
    assert "has no search.json" in refusal(lambda: new.trials)


def test_a_report_is_written_where_it_is_wanted(folder, tmp_path):
    search = tf.open(folder)
    assert search.report(tmp_path / "r.html") == tmp_path / "r.html" and (tmp_path / "r.html").stat().st_size > 10_000
    assert search.report() == folder / "report.html"
    assert "`out` must be a file in a folder that exists" in refusal(search.report, tmp_path)
    assert "unknown metric of `by` 'val_acuracy'" in refusal(search.report, by="val_acuracy")


def test_what_has_no_model_is_neither_exported_nor_confirmed(folder, tmp_path):
    search = tf.open(folder)
    assert refusal(search.trial(13).export, tmp_path) == "`trial` must be a complete trial, but trial 13 is stopped"
    assert "has no saved weights" in refusal(search.best().export, tmp_path)
    assert "`alias` names a version" in refusal(search.best().export, tmp_path, alias="champion")
    assert refusal(search.confirm, refit="all") == "`refit` must be one of train, trainval, but got 'all'"


def test_a_wrong_argument_is_one_line_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(tf.run, "digits", trails=3).startswith("unknown option 'trails', did you mean trials?")
    assert "`trials`" in refusal(tf.run, "digits", trials=0)
    assert "unknown space 'digit', did you mean digits?" in refusal(tf.run, "digit")
    assert refusal(tf.run, "folder_vit_tiny", data="nowhere") == "`data` must be a folder, but nowhere is not"
    assert "nothing must be a search in runs or its folder" in refusal(tf.resume, "nothing")
    assert not list(tmp_path.iterdir())


def await_(condition: Callable[[], bool]) -> None:
    """A search takes 10 s to start on two quiet cores, and minutes on busy ones."""
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


SMALL = {"epochs": 1, "methods": ["lora"], "scheduler": "none"}
SCRIPT = f"""
import os, signal, sys, threading, time
import tune_fairlora as tf

def state():
    files = sorted(os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if int(n) > 2 and
                   os.path.exists(f"/proc/self/fd/{{n}}"))
    return (os.getcwd(), dict(os.environ), {{n: signal.getsignal(n) for n in signal.valid_signals()}}, files,
            sys.stdin, sys.stdout, sys.stderr, sys.excepthook, list(sys.path), threading.active_count())

before, small = state(), {SMALL}
first = tf.run("digits", trials=2, name="first", **small)
assert state() == before
assert first.status == "complete" and len(first.trials) == 2

thread = threading.Thread(target=lambda: tf.run("digits", trials=2, name="second", seed=1, **small))
thread.start()
thread.join()
assert state() == before and tf.open("second").status == "complete"

third = tf.run("digits", trials=3, name="third", max_concurrent=1, wait=False, **small)
assert third.status == "running"
while not (third.folder / "trials.parquet").exists():
    time.sleep(0.1)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    third.wait()
except KeyboardInterrupt:
    print("interrupted", third.status)
print("resumed", tf.resume("third").status, len(third.trials))
assert not {{"ray", "torch", "mlflow"}} & set(sys.modules)
"""


@pytest.mark.slow
def test_a_script_searches_twice_and_stays_as_it_was(tmp_path):
    """Without a main guard, in a thread too; an interrupt ends a search in order, and it is resumed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert done.stdout.count("Ray is up: ") == 4 and done.stdout.count("record      ") == 4
    assert "interrupted interrupted\n" in done.stdout and "resumed complete 3\n" in done.stdout


@pytest.mark.slow
def test_a_search_ends_in_order_when_its_caller_is_killed(tmp_path):
    options = SMALL | {"trials": 40, "name": "orphan"}
    code = f"import time, tune_fairlora as tf\ntf.run('digits', wait=False, **{options})\ntime.sleep(900)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    table = tmp_path / "runs/orphan/trials.parquet"
    try:
        await_(lambda: table.exists() or caller.poll() is not None)
    finally:
        caller.kill()
        caller.wait()
    search = tf.open(tmp_path / "runs/orphan")
    await_(lambda: search.status != "running")
    assert search.status == "interrupted" and (search.trials["status"] != "running").all()


CELLS = [
    f"import tune_fairlora as tf\nsearch = tf.run('digits', trials=2, name='whole', **{SMALL})",
    "search",
    "search.front[['number', 'method']]",
    f"""import os, signal, threading, time
def stop():
    while not os.path.exists("runs/stopped/trials.parquet"):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
try:
    tf.run('digits', trials=40, name='stopped', **{SMALL})
except KeyboardInterrupt:
    print("interrupted:", tf.open("stopped").status)""",
]


@pytest.mark.slow
def test_a_notebook_searches_shows_the_front_and_is_interrupted(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]
    shown = ["".join(o.get("data", {}).get("text/html", "") for o in cell.outputs) for cell in notebook.cells]
    assert "Ray is up: " in printed[0] and "2/2  " in printed[0] and "Pareto front" in printed[0]
    assert shown[0].count("drawFront(document") == 1  # drawn while the search ran, in place
    assert shown[1].count("drawFront(document") == 1 and "lora" in shown[2]
    assert printed[3].endswith("interrupted: interrupted\n")
