"""The time to a front of a given hypervolume, ours against glue's, as `against_glue.py --until` has it, in less time.

    python -m tests.benchmarks.first_front --target 0.8702 --rounds 2 --folder ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors

The target is known from a whole run (`bench --only until`), so that each search is ended once it is reached: a round
takes 6 minutes on two cores instead of half an hour, and there can be several. Searches, options, seeds (a round's
number), order and the hypervolume's reference are those of `against_glue.py`. Progress is read from the disk once a
second: ours from its record, glue's from the result.json of each of its trials, a trial being at its end with its last
epoch.

Glue begins at the four points at which ours does, or with `--own-start` where OptunaSearch begins by itself: at random,
as a search does whose user has no good points in mind.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tests.benchmarks import against_glue, bench
from tests.benchmarks.against_glue import OBJECTIVES, Inputs, Run


def our_trials(out: Path, inputs: Inputs) -> pd.DataFrame:
    """Objectives and ``time`` of the complete trials until now."""
    done = [trial for trial in against_glue.our_trials(out) if trial.status == "complete"]
    return pd.DataFrame([{**{name: t.metrics[name] for name in OBJECTIVES}, "time": t.seen} for t in done])


def glue_trials(out: Path, inputs: Inputs) -> pd.DataFrame:
    """The same of glue's."""
    rows = []
    for file in out.glob("glue/*/result.json"):
        results = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        last = [r for r in results if r["training_iteration"] == inputs.setup.epochs]
        rows += [{**{name: r[name] for name in OBJECTIVES}, "time": r["timestamp"]} for r in last]
    return pd.DataFrame(rows)


def seconds_to(target: float, words: list[str], trials: Callable[[], pd.DataFrame], out: Path, inputs: Inputs) -> float:
    """Run a module of ours until its front reaches ``target``, and end it; infinite where it ends before."""
    with against_glue.started(words, inputs, out) as process:
        began, over, seconds = time.time(), False, math.inf
        try:
            while not over and seconds == math.inf:
                time.sleep(1)
                over = process.poll() is not None  # asked first: what it wrote last is looked at
                found = trials()
                curve = against_glue.volumes(Run(began, 0.0, found)) if len(found) else []
                seconds = against_glue.reached(curve, target)
            return seconds
        finally:
            bench.stop(process.pid)


def run_round(inputs: Inputs, work: Path, i: int, target: float) -> float:
    """glue / ours of one round, ours first in even rounds."""
    sides = {"ours": (against_glue.our_command, our_trials), "glue": (against_glue.glue_command, glue_trials)}
    seconds = {}
    for name in list(sides)[:: 1 if i % 2 == 0 else -1]:
        command, trials = sides[name]
        out = work / f"{name}-{i}"
        words = command(inputs, out, i)
        seconds[name] = seconds_to(target, words, lambda trials=trials, out=out: trials(out, inputs), out, inputs)
    ratio = seconds["glue"] / seconds["ours"]
    print(f"round {i}: ours {seconds['ours']:.1f} s, glue {seconds['glue']:.1f} s: ratio {ratio:.2f}", flush=True)
    return ratio


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--target", type=float, required=True, help="hypervolume from accuracy 0 and ΔF1 1")
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--weights", type=Path, required=True)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--own-start", action="store_true", help="glue is given no points to begin with")
    args = p.parse_args()
    chosen = {"data": "signdigits", "trials": None, "epochs": None, "until": 0.95, "reuse_actors": False}
    chosen |= {"folder": args.folder, "weights": args.weights}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        inputs = against_glue.prepared(argparse.Namespace(**chosen), Path(work))
        inputs = replace(inputs, points=None) if args.own_start else inputs
        ratios = [run_round(inputs, Path(work), i, args.target) for i in range(args.rounds)]
    middle, goal = statistics.median(ratios), inputs.setup.goal
    print(f"glue / ours: median {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal {goal:g}")
    return 0 if middle >= goal else 1


if __name__ == "__main__":
    sys.exit(main())
