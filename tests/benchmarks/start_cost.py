"""What a search's start leaves out: Ray's needless programs (`fast_start.py`), peft's transformers (`lean_peft.py`).

    python -m tests.benchmarks.start_cost --rounds 6

With and without each, in new processes by turns: seconds of `ray.init` and `ray.shutdown`, and seconds in which one
process loads what a trial needs, nothing else at work (in a search two load at once). Printed: medians, and the ratio
without / with of each round, its median, least and largest. No goal: the exit status is 0.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks import against_glue
from tests.benchmarks.rows import Row, spread, wait_for_quiet

RAY = """
import contextlib, json, sys, time
from tune_fairlora import startup
startup.quiet_libraries()
import ray
from tune_fairlora.execution.fast_start import bare_ray
start = time.perf_counter()
with bare_ray() if sys.argv[1] == "ours" else contextlib.nullcontext():
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
up = time.perf_counter()
ray.shutdown()
print(json.dumps([up - start, time.perf_counter() - up]))
"""
LOADING = """
import importlib, json, sys, time
from trainables.trial.lean_peft import import_peft
from tune_fairlora.execution.fast_start import TRIAL_MODULES
start = time.perf_counter()
if sys.argv[1] == "ours":
    import_peft()
for name in TRIAL_MODULES:
    importlib.import_module(name)
print(json.dumps([time.perf_counter() - start]))
"""


def seconds(code: str, side: str) -> list[float]:
    """What ``code`` measures as ``side`` ("ours" or "peer") in a process of its own."""
    command = [sys.executable, "-c", code, side]
    done = subprocess.run(command, capture_output=True, text=True, env=against_glue.clean_environment(), check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(code: str, rounds: int) -> list[tuple[list[float], list[float]]]:
    """Ours and the peer's, by turns; a first round, which reads files from the disk, does not count."""
    pairs = []
    for i in range(rounds + 1):
        order = ("ours", "peer") if i % 2 == 0 else ("peer", "ours")
        pair = {side: seconds(code, side) for side in order}
        pairs.append((pair["ours"], pair["peer"]))
    return pairs[1:]


def row(name: str, what: str, peer: str, pairs: Sequence[tuple[list[float], list[float]]], part: int = 0) -> Row:
    ours, theirs = ([pair[side][part] for pair in pairs] for side in (0, 1))
    ratios = [b / a for a, b in zip(ours, theirs)]
    words = f"{statistics.median(ours):.1f} s", f"{peer} {statistics.median(theirs):.1f} s"
    return Row(f"{name}: {what}", "–", *words, f"{statistics.median(ratios):.2f}x", spread(ratios))


def rows(rounds: int = 5) -> list[Row]:
    wait_for_quiet()
    pairs, loaded = measure(RAY, rounds), measure(LOADING, rounds)
    return [
        row("Ray on two cores", "its start", "all its programs", pairs, 0),
        row("Ray on two cores", "its end", "all its programs", pairs, 1),
        row("a trial's process", "libraries", "with transformers", loaded),
    ]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=6)
    for each in rows(p.parse_args().rounds):
        print(f"{each.measure}: {each.ours}, {each.peer}: {each.ratio} ({each.spread})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
