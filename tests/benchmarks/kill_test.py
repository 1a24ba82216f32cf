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
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.results import CONFIRMED
from search_spaces import resolve
from tests.processes import patience
from tests.searches import NAME, OUTPUT, Search, check, check_all, events, records, runs, study, trained
from trainables.trial.checkpoints import load_checkpoint, trial_folder
from tune_fairlora.algorithms.study import STUDY_FILE
from tune_fairlora.plan.search_options import CONFIRM_SEEDS
from tune_fairlora.record.state import COMPLETE, INTERRUPTED, RUNNING

STARTING = 30.0  # seconds in which a process starts
A_DEATH = 2  # epochs of a trial that the death of its process may cost: one at work, one whose checkpoint was at work


def in_flight(folder: Path, before: int) -> list[tuple[str, int, int]]:
    """The epochs that were begun, behind ``before`` others, and not saved, once every process is dead: these must be
    trained again. Of a trial ``A_DEATH`` at most."""
    begun, lost = {(config, seed): epoch for config, seed, epoch in trained(folder)[before:]}, []
    for record, state in records(folder):
        for trial in [trial for trial in state.trials.values() if trial.status == RUNNING]:
            key, checkpoint = (trial.config_id, trial.seed), load_checkpoint(trial_folder(record, trial.number))
            saved = checkpoint["result"]["epoch"] if checkpoint else 0
            last = begun.get(key, 0)
            lost += [(*key, epoch) for epoch in range(max(saved, last - A_DEATH) + 1, last + 1)]
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
    moment = share * patience(STARTING) if starting else search.seconds + share * window
    search.until(lambda: search.seconds >= moment)
    where = "starting" if starting else f"{share * window:4.1f} s into training"
    return f"{search.seconds:5.1f} s, {where}" if search.process.poll() is None else ""


def killed_search(folder: Path, new: list[str], kills: int, window: float, seed: int) -> tuple[int, int, list]:
    """The last run's exit status, how many kills hit, and the epochs that were in flight at each of them."""
    rng, lost, hits, moment = random.Random(seed), [], 0, "none yet"
    while hits < kills and (moment or never_up(folder)):
        before, search = len(trained(folder)), next_run(folder, new)
        if moment := wait_for_moment(search, folder, window, rng, hits % 4 == 3):
            processes, hits, flying, state = search.kill(), hits + 1, in_flight(folder, before), records(folder)[-1][1]
            lost, open_ = lost + flying, state.count(RUNNING)
            what = "fresh trainings" if len(records(folder)) > 1 else "trials"
            counts = f"{len(state.trials) - open_} {what} ended, {open_} open, {len(flying)} epochs in flight"
            print(f"kill {hits:2}: after {moment}; {processes} processes; {counts}", flush=True)
    while (status := next_run(folder, new).wait()) and never_up(folder):
        continue
    return status, hits, lost


def never_up(folder: Path) -> bool:
    """Ray gives itself 30 seconds to start, which a busy machine may not have: then the command is given once more."""
    return "timed out during startup" in (folder / OUTPUT).read_text()[-1000:]


def check_count(folder: Path, lost: list[tuple[str, int, int]]) -> bool:
    """Each epoch was trained once, and once more for each time that it was in flight when a kill came."""
    times, allowed = Counter(trained(folder)), Counter(lost)
    reported = sum(len(trial.epochs) for _, state in records(folder) for trial in state.trials.values())
    beyond = {key: n for key, n in times.items() if n > 1 + allowed[key]}
    text = f"{times.total()} epochs begun, {reported} reported, {times.total() - len(times)} trained again"
    return check(
        not beyond and len(times) == reported, f"{text}, {len(lost)} in flight at kills; beyond those {beyond}"
    )


def check_fresh(folder: Path) -> bool:
    """Each configuration of the front has its fresh trainings, with seeds that nothing else had, and their rows."""
    (_, search), (_, fresh) = records(folder)
    front = {search.trials[n].config_id for n in search.front()}
    ended = Counter(trial.config_id for trial in fresh.trials.values() if trial.status not in (RUNNING, INTERRUPTED))
    used = {(trial.config_id, trial.seed) for trial in search.trials.values()}
    seeds = [(trial.config_id, trial.seed) for trial in fresh.trials.values()]
    good = check(set(ended) == front and set(ended.values()) == {CONFIRM_SEEDS}, f"fresh trainings: {dict(ended)}")
    good &= check(len(set(seeds)) == len(seeds) and used.isdisjoint(seeds), "each with a seed of its own")
    table = pd.read_parquet(runs(folder) / CONFIRMED)
    return good & check(len(table) == fresh.count(COMPLETE), f"confirmed.parquet: {len(table)} rows")


def differences(one: Path, other: Path) -> list[str]:
    """What two records say differently, but for times, devices and run ids."""
    found = []
    names = ["trials.parquet", "epochs.parquet", "configurations.parquet"]
    names += [f"confirm/{name}" for name in names[:2]] + [CONFIRMED] if len(records(other)) > 1 else []
    for name in names:
        tables = [pd.read_parquet(runs(each) / name) for each in (one, other)]
        tables = [each.drop(columns=["seconds", "device", "mlflow_run_id"], errors="ignore") for each in tables]
        if not tables[0].equals(tables[1]):
            found.append(name)
    told = [[(t.params, t.values, t.state) for t in study(each)] for each in (one, other)]
    return found + ([STUDY_FILE] if told[0] != told[1] else [])


def prove(folder: Path, args: argparse.Namespace) -> bool:
    new = ["--space", "digits", "--trials", str(args.trials), "--seed", str(args.seed), "--epochs", str(args.epochs)]
    new += ["--max-concurrent", str(args.max_concurrent)] if args.max_concurrent else []
    new += ["--confirm"] if args.confirm else []
    begun, killed, space = time.monotonic(), folder / "killed", resolve("digits").with_changes({}, epochs=args.epochs)
    status, hits, lost = killed_search(killed, new, args.kills, args.window, args.seed)
    text = f"{hits} of {args.kills} kills, then exit status {status}, after {time.monotonic() - begun:.0f} s in all"
    good = check(status == 0 and hits == args.kills, text)
    good &= check_all(killed, space, args.trials) & check_count(killed, lost)
    good &= not args.confirm or check_fresh(killed)
    if args.compare:
        while next_run(folder / "whole", new).wait() and never_up(folder / "whole"):
            continue
        found = differences(killed, folder / "whole")
        good &= check(not found, f"the record of a search that was never killed differs in {found or 'nothing'}")
    return good


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--trials", type=int, default=32, help="enough that the search outlives the kills")
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--seed", type=int, default=0, help="of the search and of the moments")
    p.add_argument("--window", type=float, default=10.0, help="seconds of training within which a kill comes")
    p.add_argument("--max-concurrent", type=int)
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--confirm", action="store_true", help="with fresh trainings of the front, which are killed too")
    p.add_argument("--compare", action="store_true", help="with a search that is never killed")
    p.add_argument("--folder", type=Path, help="default: a new one in the temporary folder")
    args = p.parse_args(argv)
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="kill-"))).resolve()
    print(f"in {folder}", flush=True)
    return 0 if prove(folder, args) else 1


if __name__ == "__main__":
    sys.exit(main())
