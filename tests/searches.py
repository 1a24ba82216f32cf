"""Real searches as commands of their own, killed and resumed, and what their table, study and MLflow say then."""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import psutil
from optuna.trial import FixedTrial, TrialState

from analysis.results import CONFIRMATION
from search_spaces.space import Space
from tests.processes import patience
from tune_fairlora.algorithms.study import SearchStudy
from tune_fairlora.record.event_log import EVENT_LOG, read_events
from tune_fairlora.record.state import INTERRUPTED, RUNNING, State

ROOT = Path(__file__).resolve().parents[1]
NAME, DATABASE, OUTPUT, TRAINED = "search", "mlflow.db", "out.txt", "trained.jsonl"
COUNTER = f"""
import importlib.util, json, os, sys
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "{TRAINED}")
class Wrap:
    def find_spec(self, name, path=None, target=None):
        if name == "trainables.training.fit":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            load, spec.loader.exec_module = spec.loader.exec_module, lambda module: (load(module), wrap(module.Trainer))
            return spec
def wrap(trainer):
    train = trainer.train_epoch
    def train_epoch(self):
        with open(FILE, "a") as file:
            file.write(json.dumps([self.config.config_id, self.config.seed, self.epoch + 1]) + "\\n")
        return train(self)
    trainer.train_epoch = train_epoch
sys.meta_path.insert(0, Wrap())
"""
QUERIES = {
    "tags": "select key, value from tags where run_uuid = ?",
    "params": "select key, value from params where run_uuid = ? order by key",
    "points": "select key, step, value from metrics where run_uuid = ? and is_nan = 0 order by key, step",
}


class Search:
    """The real command, in a session of its own in ``folder``, where its output is added to ``out.txt``."""

    def __init__(self, folder: Path, *options: object):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(COUNTER)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "tune_fairlora.search", *map(str, options)]
        with open(folder / OUTPUT, "a") as out:
            print("$", *command[1:], file=out, flush=True)
            streams = {"stdout": out, "stderr": out, "start_new_session": True}
            self.process = subprocess.Popen(command, cwd=folder, env=environment, **streams)
        self.started, self.pid = time.monotonic(), self.process.pid

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def until(self, condition: Callable[[], object], seconds: float = 900) -> bool:
        """Whether ``condition`` came true in time and while the command ran."""
        end = time.monotonic() + patience(seconds)
        while not (met := condition()) and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        return bool(met)

    def wait(self, seconds: float = 1800) -> int:
        """The exit status; a command that does not end is killed, with status -9."""
        if not self.until(lambda: False, seconds) and self.process.poll() is None:
            self.kill()
        return self.process.returncode

    def processes(self) -> list[psutil.Process]:
        """The driver and what hangs below it, and Ray's processes whose session bears the driver's number."""
        found, own = {}, re.compile(rf"session_[\d_-]+_{self.pid}\b")
        for process in psutil.process_iter(["cmdline"]):
            if process.pid == self.pid or own.search(" ".join(process.info["cmdline"] or ())):
                found |= {each.pid: each for each in family(process)}
        return [each for each in found.values() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> int:
        """End everything at one moment, as a power cut does: whoever still ran would tidy up. How many there were."""
        stopped: set[int] = set()
        while new := {each.pid for each in self.processes()} - stopped:
            send(new, signal.SIGSTOP)
            stopped |= new
        send(stopped, signal.SIGKILL)
        self.process.wait(patience(60))
        while self.processes():
            time.sleep(0.02)
        for folder in Path(tempfile.gettempdir(), "ray").glob(f"session_*_{self.pid}"):
            shutil.rmtree(folder, ignore_errors=True)  # Ray's own, with logs and sockets
        return len(stopped)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def send(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def runs(folder: Path) -> Path:
    return folder / "runs" / NAME


def events(folder: Path) -> list[dict]:
    return read_events(runs(folder)) if (runs(folder) / EVENT_LOG).is_file() else []


def state_of(folder: Path) -> State:
    state = State()
    for entry in events(folder):
        state.apply(entry)
    return state


def records(folder: Path) -> list[tuple[Path, State]]:
    """The search's own record, and that of its fresh trainings if they have begun."""
    found = [(runs(folder), state_of(folder))]
    fresh = runs(folder) / CONFIRMATION
    if (fresh / EVENT_LOG).is_file():
        state = State()
        for entry in read_events(fresh):
            state.apply(entry)
        found.append((fresh, state))
    return found


def trained(folder: Path) -> list[tuple[str, int, int]]:
    """Every epoch that was ever begun, as (configuration, seed, epoch)."""
    path = folder / TRAINED
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def check(holds: object, text: str) -> bool:
    print(("OK      " if holds else "FAILED  ") + text, flush=True)
    return bool(holds)


def check_all(folder: Path, space: Space, trials: int) -> bool:
    """The table, Optuna's study and MLflow tell of the same trials, once each."""
    table, state, frozen = pd.read_parquet(runs(folder) / "trials.parquet"), state_of(folder), study(folder)
    whole = table["number"].tolist() == list(range(trials)) and not table["status"].isin([RUNNING, INTERRUPTED]).any()
    good = check(whole, f"trials.parquet: {len(table)} trials: {dict(Counter(table['status']))}")
    finished = sum(each.state.is_finished() for each in frozen)
    good &= check(len(frozen) == finished == trials, f"Optuna's study: {len(frozen)} trials, {finished} finished")
    in_study = [space.suggest(FixedTrial(t.params), seed=state.trials[t.number].seed).config_id for t in frozen]
    mirrored, ids = mirror(folder / DATABASE, state), table["config_id"].tolist()
    good &= check_mirror(mirrored, state)
    same = ids == in_study == [mirrored[n]["tags"]["config_id"] for n in sorted(mirrored) if n >= 0]
    once = len(set(zip(ids, table["seed"]))) == trials
    good &= check(same and once, "the same configuration under each number in all three, with each seed once")
    left = [path.name for path in runs(folder).rglob(".*.tmp")]
    return good & check(not left, f"{len(left)} torn files left behind {left[:3]}")


def study(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """But for enqueued points that no trial was left for."""
    trials = SearchStudy(runs(folder), state_of(folder).objectives).optuna.trials
    return [trial for trial in trials if trial.state != TrialState.WAITING]


def mirror(database: Path, state: State) -> dict[int, dict]:
    """MLflow's runs of the search by number, -1 for its own: status, tags, params, points; read without MLflow."""
    found: dict[int, dict] = {}
    with sqlite3.connect(database) as store:
        for key, status in store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'"):
            run = {name: list(store.execute(query, (key,))) for name, query in QUERIES.items()}
            tags = dict(run["tags"])
            if tags.get("search_id") == state.settings["id"]:
                number = int(tags.get("trial", -1))
                count = 1 + found.get(number, {}).get("count", 0)
                found[number] = run | {"tags": tags, "status": status, "count": count}
    return found


def check_mirror(mirrored: dict[int, dict], state: State) -> bool:
    """MLflow has one parent, each trial once with its parameters, and one point for each metric of each epoch."""
    open_runs = [n for n, run in mirrored.items() if run["status"] == "RUNNING"]
    once = all(run["count"] == 1 for run in mirrored.values()) and sorted(mirrored) == [-1, *sorted(state.trials)]
    good = check(once and not open_runs, f"MLflow: 1 parent, {len(mirrored) - 1} children, {len(open_runs)} RUNNING")
    wrong = [n for n, trial in state.trials.items() if n in mirrored and not same_run(mirrored[n], trial)]
    points = sum(len(run["points"]) for n, run in mirrored.items() if n >= 0)
    return good & check(not wrong, f"MLflow: {points} points, one a metric and epoch; other than the log: {wrong}")


def same_run(run: dict, trial) -> bool:
    params = [(name, str(value)) for name, value in trial.values.items()]
    points = [(name, entry["epoch"], value) for entry in trial.epochs for name, value in entry["metrics"].items()]
    finite = sorted(point for point in points if math.isfinite(point[2]))
    own = [point for point in run["points"] if not point[0].startswith(("claimed_", "front_chance", "test_"))]
    return run["params"] == sorted(params) and own == finite
