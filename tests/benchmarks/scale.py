"""What a result costs the driver as a search grows: 5,000 trials, 64 at once, on replayed curves of digits.

    python tests/benchmarks/scale.py                          # sampler random: the driver's own work alone
    python tests/benchmarks/scale.py --sampler tpe --trials 1000

Everything but Ray, MLflow and training is the real thing: controller, record (with its fsyncs), searcher and study,
scheduler, pruning of files, tables rendered by their thread. Trials are played from the recorded curves of digits (each
draws a run at random), round-robin over the 64 that are open. Printed: milliseconds that the driver spends on a result
(`result`, and `ended` where it is a trial's last), and on a suggestion, of that the sampler's own time (`ask`), median
and 99th percentile over the first and the last fifth of the trials, the memory of the process, the files.

Measured (two cores, shared with other work): see README, "When something breaks".
"""

import argparse
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from ray.tune.search import Searcher
from rich.console import Console

from search_spaces import SPACES
from trainables.data.store import Store
from trainables.prepare import datasets
from tune_fairlora.execution.controller import SearchController
from tune_fairlora.execution.terminal import Progress
from tune_fairlora.execution.time_budget import HangDetector, TimeBudget
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.search_options import SearchOptions
from tune_fairlora.record.event_log import Record

TABLE = Path(__file__).parent / "data" / "digits.parquet"


class Times:
    """Seconds of each kind of work, with the number of the trial that caused it."""

    def __init__(self):
        self.rows: list[tuple[str, int, float]] = []

    def measure(self, kind: str, number: int, work, *args):
        start = time.perf_counter()
        done = work(*args)
        self.rows.append((kind, number, time.perf_counter() - start))
        return done

    def table(self, trials: int) -> pd.DataFrame:
        """Milliseconds: median and 99th percentile of the first and the last fifth."""
        frame = pd.DataFrame(self.rows, columns=["work", "number", "ms"]).assign(ms=lambda f: 1000 * f["ms"])
        fifth, parts = max(1, trials // 5), {}
        for name, chosen in (("first", frame["number"] < fifth), ("last", frame["number"] >= trials - fifth)):
            grouped = frame[chosen].groupby("work")["ms"]
            parts |= {f"{name} {fifth}: median": grouped.median(), "p99 " + name: grouped.quantile(0.99)}
        return pd.DataFrame(parts).round(2)


def curves() -> list[list[dict[str, float]]]:
    """The metrics of each run in the table, epoch by epoch."""
    frame = pd.read_parquet(TABLE)
    runs = frame.sort_values("epoch").groupby(["config_id", "seed"], sort=False)
    made = [
        run[[n for n in run if n.startswith("val_")]].astype(float).to_dict("records")
        for _, run in runs
        if len(run) == 8
    ]
    return made


def make_plan(folder: Path, sampler: str, trials: int) -> Plan:
    options, store = SearchOptions(space="digits", sampler=sampler, trials=trials), datasets.prepare("digits", None, 16)
    return Plan(
        options=options, folder=folder, space=SPACES["digits"], store=store, manifest=Store(store).manifest,
        weights=None, trials=trials, points=(),
    )  # fmt: skip


def play(controller: SearchController, at_once: int, times: Times) -> None:
    """Run all trials, an epoch of each open one in turn."""
    runs, open_trials, over = curves(), {}, False
    draw = np.random.default_rng(0)
    while open_trials or not over:
        while len(open_trials) < at_once and not over:
            given = times.measure("suggest", controller.searcher.next, controller.searcher.suggest, "")
            over = given is None or given == Searcher.FINISHED
            if not over:
                open_trials[given["number"]] = (runs[draw.integers(len(runs))], 0)
        for number, (run, epoch) in list(open_trials.items()):
            goes_on = times.measure("result", number, controller.result, number, result(run, epoch))
            open_trials[number] = (run, epoch + 1)
            if not goes_on:
                del open_trials[number]
                times.measure("ended", number, controller.ended, number)


def result(run: list[dict], epoch: int) -> dict:
    tables = {"confusion": [[10] * 10] * 10, "by_group": {"accuracy": [0.9, 0.8]}}
    made = {"done": epoch == 7, "epoch": epoch + 1, "metrics": run[epoch], "tables": tables}
    return made | {"seconds": 0.5, "device": "cpu", "pid": 1}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trials", type=int, default=5000)
    p.add_argument("--at-once", type=int, default=64)
    p.add_argument("--sampler", default="random")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    plan, times = make_plan(folder, args.sampler, args.trials), Times()
    record = Record(folder)
    record.add("search", settings=plan.settings())
    progress = Progress(record, plan.trials, args.at_once, Console(file=io.StringIO(), width=120))
    controller = SearchController(plan, record, progress, TimeBudget(), HangDetector(), 0.0)
    draw = controller.searcher._draw
    controller.searcher._draw = lambda number: times.measure("ask", number, draw, number)
    before, start = memory(), time.perf_counter()
    play(controller, args.at_once, times)
    seconds = time.perf_counter() - start
    controller.renderer.close()
    print(times.table(args.trials).to_string())
    counts = {status: record.count(status) for status in ("complete", "stopped", "collapsed")}
    print(f"{args.trials} trials, {args.at_once} at once, sampler {args.sampler}: {seconds:.0f} s; {counts}")
    print(f"memory: {before:.0f} MB before, {memory():.0f} MB at most")
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        print(f"{file.name:20} {file.stat().st_size / 1e6:8.1f} MB")
    record.close()


def memory() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
