"""Kill -9 a search with all its processes at random moments, resume it each time, and count what that has cost.

    python -m tests.benchmarks.kill_test
    python -m tests.benchmarks.kill_test --max-concurrent 1 --compare

Run it from the repository's root. The real command searches `digits` in a session of its own. A kill takes the driver,
Ray's gcs_server and raylet and every worker, all stopped first, so that nobody sees another's death. Most of the seeded
moments are drawn from the first `--window` seconds after training has begun in that run, every fourth from the first 30
seconds of the process. The last run is left alone. The exit status is 1 if any check failed.

Trainings are counted by a `sitecustomize.py` beside the search, which Python itself imports in every process: it wraps
`Trainer.train_epoch` and writes a line before each epoch, so that epochs that were lost count too; the package knows
nothing of it. With `--compare` (and `--max-concurrent 1`, as the order of two trials is anybody's guess) the same
search runs once more without a kill, and both records must be equal to the last digit.
"""

import argparse
import json
import math
import os
import random
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

from search_spaces import resolve
from search_spaces.space import Space
from trainables.checkpoints import load_checkpoint, trial_folder
from tune_fairlora.journal import JOURNAL, Journal
from tune_fairlora.record import LOG, read_events
from tune_fairlora.state import INTERRUPTED, RUNNING, State

ROOT = Path(__file__).resolve().parents[2]
NAME, DATABASE, OUTPUT, TRAINED = "search", "mlflow.db", "out.txt", "trained.jsonl"
STARTING = 30.0  # seconds in which a process starts
COUNTER = f"""
import importlib.util, json, os, sys
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "{TRAINED}")
class Wrap:
    def find_spec(self, name, path=None, target=None):
        if name == "trainables.fit":
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
        end = time.monotonic() + seconds
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
        self.process.wait(60)
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
    return read_events(runs(folder)) if (runs(folder) / LOG).is_file() else []


def state_of(folder: Path) -> State:
    state = State()
    for entry in events(folder):
        state.apply(entry)
    return state


def trained(folder: Path) -> list[tuple[str, int, int]]:
    """Every epoch that was ever begun, as (configuration, seed, epoch)."""
    path = folder / TRAINED
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def in_flight(folder: Path, before: int) -> list[tuple[str, int, int]]:
    """The epochs that were begun, behind ``before`` others, and not saved, once every process is dead: these must be
    trained again."""
    begun, lost = {(config, seed): epoch for config, seed, epoch in trained(folder)[before:]}, []
    for trial in [trial for trial in state_of(folder).trials.values() if trial.status == RUNNING]:
        key, checkpoint = (trial.config_id, trial.seed), load_checkpoint(trial_folder(runs(folder), trial.number))
        if begun.get(key, 0) > (checkpoint["result"]["epoch"] if checkpoint else 0):
            lost.append((*key, begun[key]))
    return lost


def next_run(folder: Path, new: list[str]) -> Search:
    """Resume what there is; a search that was killed before its first event has to be begun anew, as it says."""
    if events(folder):
        return Search(folder, "--resume", NAME)
    shutil.rmtree(runs(folder), ignore_errors=True)
    return Search(folder, *new, "--name", NAME)


def wait_for_moment(search: Search, folder: Path, window: float, rng: random.Random, starting: bool) -> str:
    """Let the search run until a random moment; which it is, or "" where the search ended before."""
    share, begun = rng.random(), len(trained(folder))
    if not starting:
        search.until(lambda: len(trained(folder)) > begun)
    moment = share * STARTING if starting else search.seconds + share * window
    search.until(lambda: search.seconds >= moment)
    where = "starting" if starting else f"{share * window:4.1f} s into training"
    return f"{search.seconds:5.1f} s, {where}" if search.process.poll() is None else ""


def killed_search(folder: Path, new: list[str], kills: int, window: float, seed: int) -> tuple[int, int, list]:
    """The last run's exit status, how many kills hit, and the epochs that were in flight at each of them."""
    rng, lost, hits, moment = random.Random(seed), [], 0, "none yet"
    while hits < kills and (moment or never_up(folder)):
        before, search = len(trained(folder)), next_run(folder, new)
        if moment := wait_for_moment(search, folder, window, rng, hits % 4 == 3):
            processes, hits, flying, state = search.kill(), hits + 1, in_flight(folder, before), state_of(folder)
            lost, open_ = lost + flying, state.count(RUNNING)
            counts = f"{len(state.trials) - open_} trials ended, {open_} open, {len(flying)} epochs in flight"
            print(f"kill {hits:2}: after {moment}; {processes} processes; {counts}", flush=True)
    while (status := next_run(folder, new).wait()) and never_up(folder):
        continue
    return status, hits, lost


def never_up(folder: Path) -> bool:
    """Ray gives itself 30 seconds to start, which a busy machine may not have: then the command is given once more."""
    return "timed out during startup" in (folder / OUTPUT).read_text()[-1000:]


def check(holds: object, text: str) -> bool:
    print(("OK      " if holds else "FAILED  ") + text, flush=True)
    return bool(holds)


def check_count(folder: Path, lost: list[tuple[str, int, int]]) -> bool:
    """Each epoch was trained once, and once more for each time that it was in flight when a kill came."""
    times, allowed = Counter(trained(folder)), Counter(lost)
    reported = sum(len(trial.epochs) for trial in state_of(folder).trials.values())
    beyond = {key: n for key, n in times.items() if n > 1 + allowed[key]}
    text = f"{times.total()} epochs begun, {reported} reported, {times.total() - len(times)} trained again"
    return check(
        not beyond and len(times) == reported, f"{text}, {len(lost)} in flight at kills; beyond those {beyond}"
    )


def check_all(folder: Path, space: Space, trials: int) -> bool:
    """The table, Optuna's journal and MLflow tell of the same trials, once each."""
    table, state, frozen = pd.read_parquet(runs(folder) / "trials.parquet"), state_of(folder), study(folder)
    whole = table["number"].tolist() == list(range(trials)) and not table["status"].isin([RUNNING, INTERRUPTED]).any()
    good = check(whole, f"trials.parquet: {len(table)} trials: {dict(Counter(table['status']))}")
    finished = sum(each.state.is_finished() for each in frozen)
    good &= check(len(frozen) == finished == trials, f"Optuna's journal: {len(frozen)} trials, {finished} finished")
    in_journal = [space.suggest(FixedTrial(t.params), seed=state.trials[t.number].seed).config_id for t in frozen]
    mirrored, ids = mirror(folder / DATABASE, state), table["config_id"].tolist()
    good &= check_mirror(mirrored, state)
    same = ids == in_journal == [mirrored[n]["tags"]["config_id"] for n in sorted(mirrored) if n >= 0]
    good &= check(same and len(set(ids)) == trials, "the same configuration under each number in all three")
    left = [path.name for path in runs(folder).rglob(".*.tmp")]
    return good & check(not left, f"{len(left)} torn files left behind {left[:3]}")


def study(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """But for enqueued points that no trial was left for."""
    trials = Journal(runs(folder), state_of(folder).objectives, ()).study.trials
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
    return run["params"] == sorted(params) and run["points"] == finite


def differences(one: Path, other: Path) -> list[str]:
    """What two records say differently, but for times, devices and run ids."""
    found = []
    for name in ("trials.parquet", "epochs.parquet"):
        tables = [pd.read_parquet(runs(each) / name) for each in (one, other)]
        tables = [each.drop(columns=["seconds", "device", "mlflow_run_id"], errors="ignore") for each in tables]
        if not tables[0].equals(tables[1]):
            found.append(name)
    told = [[(t.params, t.values, t.state) for t in study(each)] for each in (one, other)]
    return found + ([JOURNAL] if told[0] != told[1] else [])


def prove(folder: Path, args: argparse.Namespace) -> bool:
    new = ["--space", "digits", "--trials", str(args.trials), "--seed", str(args.seed), "--epochs", str(args.epochs)]
    new += ["--max-concurrent", str(args.max_concurrent)] if args.max_concurrent else []
    begun, killed, space = time.monotonic(), folder / "killed", resolve("digits").with_changes({}, epochs=args.epochs)
    status, hits, lost = killed_search(killed, new, args.kills, args.window, args.seed)
    text = f"{hits} of {args.kills} kills, then exit status {status}, after {time.monotonic() - begun:.0f} s in all"
    good = check(status == 0 and hits == args.kills, text)
    good &= check_all(killed, space, args.trials) & check_count(killed, lost)
    if args.compare:
        while next_run(folder / "whole", new).wait() and never_up(folder / "whole"):
            continue
        found = differences(killed, folder / "whole")
        good &= check(not found, f"the record of a search that was never killed differs in {found or 'nothing'}")
    return good


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--trials", type=int, default=24)
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--seed", type=int, default=0, help="of the search and of the moments")
    p.add_argument("--window", type=float, default=10.0, help="seconds of training within which a kill comes")
    p.add_argument("--max-concurrent", type=int)
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--compare", action="store_true", help="with a search that is never killed")
    p.add_argument("--folder", type=Path, help="default: a new one in the temporary folder")
    args = p.parse_args(argv)
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="kill-"))).resolve()
    print(f"in {folder}", flush=True)
    return 0 if prove(folder, args) else 1


if __name__ == "__main__":
    sys.exit(main())
