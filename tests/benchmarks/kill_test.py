"""Kill -9 a search with all its processes at random moments, resume it each time, and count what that has cost.

    python -m tests.benchmarks.kill_test
    python -m tests.benchmarks.kill_test --max-concurrent 1 --compare

Run it from the repository's root. It searches the space `digits` with the real command in a session of its own, 24
trials by default. A kill takes the driver, Ray's gcs_server and raylet and every worker, all stopped first, so that
nobody sees another's death. Of the seeded moments most are drawn uniformly from the first `--window` seconds after
training has begun in that run, every fourth or so from the first 30 seconds of the process, when Ray, MLflow and the
record are being opened. The last run is left alone. Each check prints a line; the exit status is 1 if any failed.

Trainings are counted by a `sitecustomize.py` beside the search, which Python itself imports in every process: it wraps
`Trainer.train_epoch` and writes a line before each epoch, so that epochs that were lost are counted too. The package
knows nothing of it. With `--compare` (and `--max-concurrent 1`, as the order of two trials is anybody's guess) the same
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
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pandas as pd
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial

from search_spaces import resolve
from search_spaces.space import Space
from trainables.checkpoints import load_checkpoint, trial_folder
from tune_fairlora.journal import JOURNAL, STUDY
from tune_fairlora.record import LOG, read_events
from tune_fairlora.state import INTERRUPTED, RUNNING, State

ROOT = Path(__file__).resolve().parents[2]
NAME, DATABASE, OUTPUT, TRAINED = "search", "mlflow.db", "out.txt", "trained.jsonl"
STARTING = 30.0  # seconds in which a process starts
UNREPEATABLE = ["seconds", "device", "mlflow_run_id"]
COUNTER = f'''
import importlib.util, json, os, sys
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "{TRAINED}")
class Wrap:
    def find_spec(self, name, path=None, target=None):
        if name != "trainables.fit":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load, spec.loader.exec_module = spec.loader.exec_module, lambda module: (load(module), wrap(module.Trainer))
        return spec
def wrap(trainer):
    train = trainer.train_epoch
    def train_epoch(self):
        line = json.dumps([self.config.config_id, self.config.seed, self.epoch + 1, os.getpid()])
        with open(FILE, "a") as file:
            file.write(line + "\\n")
        return train(self)
    trainer.train_epoch = train_epoch
sys.meta_path.insert(0, Wrap())
'''


class Search:
    """The real command, in a session of its own in ``folder``, where its output is added to ``out.txt``."""

    def __init__(self, folder: Path, *options: object):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(COUNTER)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "tune_fairlora.search", *map(str, options)]
        with open(folder / OUTPUT, "a") as out:
            print("$", *command[1:], file=out, flush=True)
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        self.started, self.pid = time.monotonic(), self.process.pid

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def until(self, condition: Callable[[], object], seconds: float = 300) -> bool:
        """Whether ``condition`` came true in time and while the command ran."""
        end = time.monotonic() + seconds
        while not (met := condition()) and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return bool(met)

    def wait(self, seconds: float = 1800) -> int:
        """The exit status; a command that does not end is killed, with status -9."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
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
        while new := [each for each in self.processes() if each.pid not in stopped]:
            send(new, signal.SIGSTOP)
            stopped |= {each.pid for each in new}
        send(self.processes(), signal.SIGKILL)
        self.process.wait(60)
        while self.processes():
            time.sleep(0.02)
        self.tidy()
        return len(stopped)

    def tidy(self) -> None:
        """Ray's own folder of a killed session: logs and sockets."""
        for folder in Path(tempfile.gettempdir(), "ray").glob(f"session_*_{self.pid}"):
            shutil.rmtree(folder, ignore_errors=True)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
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
    return [tuple(json.loads(line)[:3]) for line in path.read_text().splitlines()] if path.exists() else []


def in_flight(folder: Path) -> list[tuple[str, int, int]]:
    """The epochs that were begun and not saved, once every process is dead: these a resumed search must train again."""
    begun, lost = {(config, seed): epoch for config, seed, epoch in trained(folder)}, []
    for trial in state_of(folder).trials.values():
        key = (trial.config_id, trial.seed)
        checkpoint = load_checkpoint(trial_folder(runs(folder), trial.number)) if trial.status == RUNNING else None
        if trial.status == RUNNING and begun.get(key, 0) > (checkpoint["result"]["epoch"] if checkpoint else 0):
            lost.append((*key, begun[key]))
    return lost


def next_run(folder: Path, new: list[str]) -> Search:
    """Resume what there is; a search that was killed before its first event has to be begun anew, as it says."""
    if events(folder):
        return Search(folder, "--resume", NAME)
    shutil.rmtree(runs(folder), ignore_errors=True)
    return Search(folder, *new, "--name", NAME)


def wait_for_moment(search: Search, folder: Path, window: float, rng: random.Random) -> str:
    """Let the search run until a random moment; which it is, or "" where the search ended before."""
    starting, share = rng.random() < 0.25, rng.random()
    begun = len(trained(folder))
    if not starting:
        search.until(lambda: len(trained(folder)) > begun)
    base, limit = search.seconds, STARTING if starting else window
    search.until(lambda: search.seconds >= (0 if starting else base) + share * limit)
    if search.process.poll() is not None:
        return ""
    return f"{search.seconds:5.1f} s, " + ("starting" if starting else f"{share * limit:4.1f} s into training")


def killed_search(folder: Path, new: list[str], kills: int, window: float, seed: int) -> tuple[int, int, list]:
    """The last run's exit status, how many kills hit, and the epochs that were in flight at each of them."""
    rng, lost, hits = random.Random(seed), [], 0
    for number in range(1, kills + 1):
        search = next_run(folder, new)
        moment = wait_for_moment(search, folder, window, rng)
        if not moment:
            print(f"the search ended before kill {number}", flush=True)
            break
        processes, hits, flying = search.kill(), hits + 1, in_flight(folder)
        state = state_of(folder)
        ended = len(state.trials) - state.count(RUNNING)
        counts = f"{ended} trials ended, {state.count(RUNNING)} open, {len(flying)} epochs in flight"
        print(f"kill {number:2}: after {moment}; {processes} processes; {counts}", flush=True)
        lost += flying
    search = next_run(folder, new)
    return search.wait(), hits, lost


def check(holds: object, text: str) -> bool:
    print(("OK      " if holds else "FAILED  ") + text, flush=True)
    return bool(holds)


def check_count(folder: Path, lost: list[tuple[str, int, int]]) -> bool:
    """Each epoch was trained once, and once more for each time that it was in flight when a kill came."""
    times, allowed = Counter(trained(folder)), Counter(lost)
    reported = sum(len(trial.epochs) for trial in state_of(folder).trials.values())
    beyond = {key: n for key, n in times.items() if n > 1 + allowed[key]}
    again = times.total() - len(times)
    text = f"{times.total()} epochs begun, {reported} reported, {again} trained again, {len(lost)} in flight at kills"
    return check(not beyond and len(times) == reported, f"{text}, {len(beyond)} beyond those")


def check_all(folder: Path, space: Space, trials: int) -> bool:
    """The table, Optuna's journal and MLflow tell of the same trials, once each."""
    table, state = pd.read_parquet(runs(folder) / "trials.parquet"), state_of(folder)
    frozen = study(folder)
    unended = table["status"].isin([RUNNING, INTERRUPTED]).sum()
    good = check(
        table["number"].tolist() == list(range(trials)) and not unended, f"trials.parquet: {len(table)} trials"
    )
    finished = sum(each.state.is_finished() for each in frozen)
    good &= check(len(frozen) == finished == trials, f"Optuna's journal: {len(frozen)} trials, {finished} finished")
    journal_ids = [space.suggest(FixedTrial(t.params), seed=state.trials[t.number].seed).config_id for t in frozen]
    mirrored = mirror(folder / DATABASE, state)
    good &= check_mirror(mirrored, state)
    ids = table["config_id"].tolist()
    same = ids == journal_ids == [mirrored[n]["tags"]["config_id"] for n in sorted(mirrored) if n >= 0]
    good &= check(same and len(set(ids)) == trials, "the same configuration under each number in all three")
    left = [path.name for path in runs(folder).rglob(".*.tmp")]
    return good & check(not left, f"{len(left)} torn files left behind {left[:3]}")


def study(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(runs(folder) / JOURNAL)))
    return optuna.load_study(study_name=STUDY, storage=storage).trials


def mirror(database: Path, state: State) -> dict[int, dict]:
    """MLflow's runs of the search by trial number, -1 for its own: status, tags, params, points; read without MLflow."""
    found: dict[int, dict] = {}
    with sqlite3.connect(database) as store:
        for key, status in store.execute("select run_uuid, status from runs where lifecycle_stage = 'active'"):
            run = {name: list(store.execute(query, (key,))) for name, query in QUERIES.items()}
            tags = dict(run["tags"])
            if tags.get("search_id") == state.settings["id"]:
                number = int(tags.get("trial", -1))
                run |= {"tags": tags, "status": status, "twins": 1 + found.get(number, {}).get("twins", 0)}
                found[number] = run
    return found


QUERIES = {
    "tags": "select key, value from tags where run_uuid = ?",
    "params": "select key, value from params where run_uuid = ?",
    "points": "select key, step, value from metrics where run_uuid = ? and is_nan = 0",
}


def check_mirror(mirrored: dict[int, dict], state: State) -> bool:
    """MLflow has one parent, each trial once with its parameters, and one point for each metric of each epoch."""
    open_runs = [n for n, run in mirrored.items() if run["status"] == "RUNNING"]
    once = all(run["twins"] == 1 for run in mirrored.values()) and sorted(mirrored) == [-1, *sorted(state.trials)]
    good = check(once and not open_runs, f"MLflow: {len(mirrored) - 1} children, {len(open_runs)} runs RUNNING")
    wrong = [n for n, trial in state.trials.items() if n in mirrored and not same_run(mirrored[n], trial)]
    points = sum(len(run["points"]) for n, run in mirrored.items() if n >= 0)
    return good & check(not wrong, f"MLflow: {points} points, one a metric and epoch; other than the log: {wrong}")


def same_run(run: dict, trial) -> bool:
    params = {name: str(value) for name, value in trial.values.items()}
    points = [(name, entry["epoch"], value) for entry in trial.epochs for name, value in entry["metrics"].items()]
    finite = sorted(point for point in points if math.isfinite(point[2]))
    return sorted(run["params"]) == sorted(params.items()) and sorted(run["points"]) == finite


def differences(one: Path, other: Path) -> Iterator[str]:
    """What two records say differently, but for times, devices and run ids."""
    for name in ("trials.parquet", "epochs.parquet"):
        tables = [
            pd.read_parquet(runs(each) / name).drop(columns=UNREPEATABLE, errors="ignore") for each in (one, other)
        ]
        try:
            pd.testing.assert_frame_equal(*tables, check_exact=True)
        except AssertionError as error:
            yield f"{name}: {' '.join(str(error).split())[:300]}"
    for left, right in zip(study(one), study(other), strict=True):
        if (left.params, left.values, left.state) != (right.params, right.values, right.state):
            yield f"{JOURNAL}: trial {left.number}"


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="kill-"))).resolve()
    print(f"in {folder}", flush=True)
    return 0 if prove(folder, args) else 1


def prove(folder: Path, args: argparse.Namespace) -> bool:
    new = ["--space", "digits", "--trials", str(args.trials), "--seed", str(args.seed)]
    for name in ("epochs", "max_concurrent"):
        new += [f"--{name.replace('_', '-')}", str(getattr(args, name))] if getattr(args, name) else []
    begun = time.monotonic()
    status, hits, lost = killed_search(folder / "killed", new, args.kills, args.window, args.seed)
    good = check(status == 0 and hits == args.kills, f"{hits} kills, then exit status {status}")
    print(f"{time.monotonic() - begun:.0f} s in all", flush=True)
    space = resolve("digits").with_changes({}, None, **({"epochs": args.epochs} if args.epochs else {}))
    good &= check_all(folder / "killed", space, args.trials) & check_count(folder / "killed", lost)
    if args.compare:
        Search(folder / "whole", *new, "--name", NAME).wait()
        found = list(differences(folder / "killed", folder / "whole"))
        good &= check(not found, f"the record of a search that was never killed differs in {found or 'nothing'}")
    return good


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--trials", type=int, default=24)
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--seed", type=int, default=0, help="of the search and of the moments")
    p.add_argument("--window", type=float, default=10.0, help="seconds of training within which a kill comes")
    p.add_argument("--max-concurrent", type=int)
    p.add_argument("--epochs", type=int)
    p.add_argument("--compare", action="store_true", help="with a search that is never killed")
    p.add_argument("--folder", type=Path, help="default: a new one in the temporary folder")
    return p


if __name__ == "__main__":
    sys.exit(main())
