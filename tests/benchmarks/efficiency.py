"""How close a search comes to its limit: the bare loop's time of the same steps / the search's after Ray's start.

    python -m tests.benchmarks.efficiency --data digits
    python -m tests.benchmarks.efficiency --data signdigits --folder ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors
    python -m tests.benchmarks.efficiency --search runs/NAME        # the bare loop of a search that is over

By turns a search (24 trials of 8 epochs of digits, or 12 of 3 of signdigits; two at a time, none stopped, the points of
`against_glue.py`, the training seed being the round's number) and `bare_loop.py` on the trials of its record. The
search's time runs from the moment when Ray is up to the record's `close`: libraries, the check of model and weights,
the start of the trials' processes, models, data, metrics, checkpoints, the record and the last tables are in it. What
comes behind it, MLflow's last and the process's end, is printed apart.

Printed: the ratio of each round, median, least and largest; how far accuracies of search and bare loop lie apart (both
train on the same batches: the plain methods must agree); and where the time goes, in seconds of a process, mean over
the processes, so that the parts add up to the wall time. A "–" is what the record does not tell.

The exit status is 1 if the goal is missed, or if plain methods end elsewhere than in the bare loop.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks import against_glue, bare_loop
from tests.benchmarks.rows import Row, spread, wait_for_quiet
from trainables.config import METHODS
from tune_fairlora.record.event_log import read_events

GOALS = {"digits": 0.75, "signdigits": 0.90}
TOLERANCE = 1e-9  # of the accuracy where the same weights are trained
PLAN, LEAD, PROCESS = "checks, while processes start", "before the first trial", "start of the process"
RESET, HANDOVER = "model reset", "to the next trial"
READ, TRAIN, VALIDATE, METRICS = "batches, crops", "training steps", "validation: forward", "validation: metrics"
REST, SAVE, WAIT = "the rest of an epoch", "checkpoints", "reporting and waiting"
IDLE, CLOSING = "nothing left to do", "closing"
PARTS = (PLAN, LEAD, PROCESS, RESET, HANDOVER, READ, TRAIN, VALIDATE, METRICS, REST, SAVE, WAIT, IDLE, CLOSING)
INNER = {"read": READ, "train": TRAIN, "validate": VALIDATE, "metrics": METRICS}


@dataclass(frozen=True)
class Measured:
    """A search and its bare loop: seconds of both, the parts of both, and the largest difference of accuracy between
    their trials, of the plain methods and of the fair ones. ``after`` is what follows the ``close``."""

    search: float
    bare: float
    parts: dict[str, float]
    bare_parts: dict[str, float]
    apart: tuple[float, float]
    after: float = float("nan")

    @property
    def efficiency(self) -> float:
        return self.bare / self.search


def wall(events: Sequence[dict]) -> float:
    """Seconds from Ray's start to a record's ``close``."""
    return next(e["time"] for e in events if e["event"] == "close") - began(events)


def began(events: Sequence[dict]) -> float:
    """When Ray was up; older records have their first event right behind."""
    return events[0].get("ray_up", events[0]["time"])


def parts_of(events: Sequence[dict]) -> dict[str, float]:
    """Where a search's time goes, by `PARTS`: seconds, mean over its processes, so that they add up to ``wall``. What
    the record does not tell (an epoch without ``times``) is left out: its time is in the part around it, an epoch's in
    its training steps."""
    begun = {e["number"]: e["time"] for e in events if e["event"] == "start"}
    of_process: dict[int, list[dict]] = defaultdict(list)
    for event in events:
        if event["event"] == "epoch":
            of_process[event["pid"]].append(event)
    last = max(epochs[-1]["time"] for epochs in of_process.values())
    total: dict[str, float] = defaultdict(float)
    for epochs in of_process.values():
        total[PLAN] += events[0]["time"] - began(events)
        for name, seconds in _of_process(epochs, begun, events[0]["time"]):
            total[name] += seconds
        total[IDLE] += last - epochs[-1]["time"]
        total[CLOSING] += wall(events) - (last - began(events))
    return {name: total[name] / len(of_process) for name in PARTS if name in total}


def _of_process(epochs: Sequence[dict], begun: dict[int, float], now: float):
    """(part, seconds) of one process from ``now``, the search's beginning, to its last report."""
    for i, event in enumerate(epochs):
        times, first = event.get("times") or {}, i == 0 or epochs[i - 1]["number"] != event["number"]
        if first:
            start = max(begun[event["number"]], now)  # a trial may be handed out before its process is free
            yield (HANDOVER if i else LEAD), start - now
            now = start
        around = event["time"] - now - event["seconds"]  # what was neither training nor validation
        for key, name, there in (("start", RESET, first), ("save", SAVE, True)):
            if key in times and there:
                around -= times[key]
                yield name, times[key]
        yield (WAIT if not first else HANDOVER if i else PROCESS), around
        known = {INNER[key]: times[key] for key in INNER if key in times}
        yield from known.items()
        yield (REST if known else TRAIN), event["seconds"] - sum(known.values())
        now = event["time"]


def bare_parts(bare: bare_loop.Bare, processes: int) -> dict[str, float]:
    fields = {READ: "read", TRAIN: "train", VALIDATE: "validate"}
    sums = {part: sum(getattr(trial, name) for trial in bare.trials) for part, name in fields.items()}
    return {part: seconds / processes for part, seconds in sums.items()} | {IDLE: bare.idle}


def against_bare(folder: Path, last_row: bool | None = None) -> Measured:
    """The bare loop of the search in ``folder``, now."""
    events = read_events(folder)
    task = bare_loop.task_of(events, last_row)
    pids = {e["pid"] for e in events if e["event"] == "epoch"}
    bare = bare_loop.run(task, len(pids))
    ended = {e["number"]: e["metrics"]["val_accuracy"] for e in events if e["event"] == "epoch"}
    apart = [0.0, 0.0]
    for config, ours, theirs in zip(task.configs, (ended[n] for n in sorted(ended)), bare.trials):
        fair = METHODS[config.method].fair
        apart[fair] = max(apart[fair], abs(ours - theirs.accuracy))
    return Measured(wall(events), bare.seconds, parts_of(events), bare_parts(bare, len(pids)), tuple(apart))


def measure(inputs: against_glue.Inputs, work: Path, i: int) -> Measured:
    """A search with training seed ``i``, then its bare loop."""
    out = work / f"efficiency-{i}"
    began, seconds = against_glue.timed(against_glue.our_command(inputs, out, i), inputs, out)
    close = next(e["time"] for e in read_events(out / against_glue.NAME) if e["event"] == "close")
    measured = against_bare(out / against_glue.NAME)
    return replace(measured, after=began + seconds - close)


def table(measured: Measured) -> str:
    """Seconds of a process and their share of the search's wall time, beside the bare loop's."""
    lines = ["| seconds of a process | search | share | bare loop |", "|---|---|---|---|"]
    for name in PARTS:
        ours, bare = measured.parts.get(name), measured.bare_parts.get(name)
        cells = ("–", "–") if ours is None else (f"{ours:.2f}", f"{100 * ours / measured.search:.1f} %")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {'' if bare is None else f'{bare:.2f}'} |")
    lines.append(f"| wall time | {measured.search:.2f} | 100 % | {measured.bare:.2f} |")
    return "\n".join(lines)


def row(data: str, runs: Sequence[Measured]) -> Row:
    """The table's line of `bench.py`."""
    ratios, goal = [run.efficiency for run in runs], GOALS[data]
    middle = statistics.median(ratios)
    ours, bare = (statistics.median(getattr(run, name) for run in runs) for name in ("search", "bare"))
    seconds = f"{ours:.1f} s after Ray's start", f"bare loop {bare:.1f} s"
    measure = f"{data}: efficiency"
    return Row(measure, f"≥ {goal:.2f}", *seconds, f"{middle:.2f}", spread(ratios), middle >= goal and agrees(runs))


def agrees(runs: Sequence[Measured]) -> bool:
    return max(run.apart[0] for run in runs) <= TOLERANCE


def report(data: str, runs: Sequence[Measured]) -> bool:
    """Print the last round's parts and the verdict; whether the goal is reached."""
    made = row(data, runs)
    apart = [max(run.apart[i] for run in runs) for i in (0, 1)]
    print(table(runs[-1]))
    print(f"largest difference of accuracy: plain methods {apart[0]:.4f}, fair ones {apart[1]:.4f}")
    print(f"efficiency: median {made.ratio} ({made.spread}), goal {made.goal}: {'reached' if made.ok else 'MISSED'}")
    return bool(made.ok)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(GOALS), default="digits")
    p.add_argument("--search", type=Path, help="the folder of a finished search, instead of new ones")
    p.add_argument(
        "--whole", action="store_true", help="with --search: a bare loop without the shortcut of class_token.py"
    )
    p.add_argument("--folder", type=Path, help="of signdigits: image files and metadata.csv")
    p.add_argument("--weights", type=Path, help="of signdigits: ViT-Tiny's")
    p.add_argument("--trials", type=int)
    p.add_argument("--epochs", type=int)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--work", type=Path, help="a new folder to keep everything in; default: a temporary one")
    args = p.parse_args()
    wait_for_quiet()
    if args.search and args.whole:
        whole = against_bare(args.search, last_row=False)
        print(f"{whole.efficiency:.3f} of a bare loop that computes the last block whole ({whole.bare:.1f} s)")
        return 0
    if args.search:
        return 0 if report(args.data, [against_bare(args.search)]) else 1
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary) / "work").resolve()
        work.mkdir(parents=True)
        inputs = against_glue.prepared(argparse.Namespace(**vars(args), until=None, reuse_actors=False), work)
        runs = []
        for i in range(args.rounds):
            load = os.getloadavg()[0]
            runs.append(measure(inputs, work, i))
            seconds = f"search {runs[-1].search:.1f} s, bare loop {runs[-1].bare:.1f} s"
            after = f"{runs[-1].after:.1f} s after its close, load before {load:.1f}"
            print(f"round {i}: {seconds}: {runs[-1].efficiency:.3f} ({after})", flush=True)
        return 0 if report(args.data, runs) else 1


if __name__ == "__main__":
    sys.exit(main())
