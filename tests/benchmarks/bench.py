"""All benchmarks with a goal, and the curves: one table, within a bounded time.

    python -m tests.benchmarks.bench                       # `make bench`: at most 40 minutes
    python -m tests.benchmarks.bench --only digits,penalty --minutes 15

The parts run one after the other, each in a process of its own, the longest last. One that no longer fits into
the time is left out, and the table says so: the next run begins with what this version of the code has not measured,
and the table keeps the rest (on two cores all parts take about 80 minutes, so that two runs measure everything). How
long a part takes is known from such a machine, and is corrected by what the parts before it took. A part that is cut
off, or fails, reports the rounds that it has finished. The table is written anew after each part (--out), and beside
it what it is made of, as .json. Photographs and
ViT-Tiny's weights are taken from ../shared where they are there, else their rows say that they are not. The exit status
is 1 if a goal is missed or a part failed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.benchmarks import parts
from tests.benchmarks.against_glue import ROOT, UNWANTED
from tests.benchmarks.book import Book
from tests.benchmarks.rows import Row, skipped, wait_for_quiet
from trainables.files import replace_atomically


class Part(NamedTuple):
    """``rows`` measures, and yields after each round all rows as they then stand; it takes ``minutes`` on two cores,
    and the photographs if ``photographs``."""

    measure: str
    minutes: float
    rows: Callable[[Path, float], Iterator[list[Row]]]
    photographs: bool = False


PARTS = {
    "digits": Part("digits against glue and bare loop", parts.ROUNDS_MINUTES["digits"], parts.digits),
    "start": Part("what a start leaves out", 2, parts.start),
    "penalty": Part("the penalty's cost", 1, parts.penalty),
    "logging": Part("a result's logging", 2, parts.logging),
    "prefix": Part("frozen blocks kept", 4, parts.prefix, photographs=True),
    "last_row": Part("the last block's row alone", 1, parts.last_row),
    "half": Part("bfloat16", 1.5, parts.half),
    "until": Part("time to the front of glue's", 28, parts.until, photographs=True),
    "growth": Part("how a search grows", 8, parts.growth),
    "signdigits": Part(
        "signdigits against glue and bare loop", parts.ROUNDS_MINUTES["signdigits"], parts.signdigits, photographs=True
    ),
}
# What both sides of a comparison import: compiled by Python, and read from the disk, before the first takes time.
LIBRARIES = (
    "mlflow",
    "tests.benchmarks.glue",
    "tune_fairlora.execution.ray_executor",
    "trainables.trial.ray_trainable",
)
COMMAND = (sys.executable, "-m", "tests.benchmarks.bench")
STOP_SECONDS = 20  # for a search that is told to end


def run(name: str, work: Path, minutes: float, pace: float = 1.0) -> tuple[list[Row], bool]:
    """The rows of a part, and whether it was left to its end. A process of its own measures it in at most ``minutes``:
    by what it knows of its own time, those are ``minutes / pace``."""
    file = work / f"{name}.json"
    words = ["--part", name, "--rows", file, "--minutes", minutes / pace, "--work", work / name]
    process = subprocess.Popen([*COMMAND, *map(str, words)], cwd=ROOT)
    try:
        status = process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        stop(process.pid)
        return [*_kept(file), skipped(PARTS[name].measure, f"cut off after {minutes:.0f} minutes")], False
    except BaseException:
        stop(process.pid)
        raise
    if status or not file.exists():
        failure = Row(PARTS[name].measure, ours=f"failed (exit status {status}): see above", ok=False)
        return [*_kept(file), failure], True
    return _kept(file), True


def _kept(file: Path) -> list[Row]:
    """What a part has written so far."""
    return [Row(*row) for row in json.loads(file.read_text())] if file.exists() else []


def stop(pid: int) -> None:
    """End a process and all below it: they are asked, and then killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for act in (psutil.Process.terminate, psutil.Process.kill):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)
            _, found = psutil.wait_procs(found, STOP_SECONDS)


class Budget:
    """How many minutes are left, and whether a part still fits: as long as known, times what parts took until now."""

    def __init__(self, minutes: float):
        self.end, self.known, self.spent = time.monotonic() + 60 * minutes, 0.0, 0.0

    @property
    def left(self) -> float:
        return (self.end - time.monotonic()) / 60

    @property
    def pace(self) -> float:
        return max(1.0, self.spent / self.known) if self.known else 1.0

    def fits(self, part: Part) -> bool:
        return part.minutes * self.pace <= self.left

    def took(self, part: Part, minutes: float) -> None:
        self.known, self.spent = self.known + part.minutes, self.spent + minutes


def measure_all(names: list[str], budget: Budget, put: Callable[[str, list[Row], bool], None]) -> None:
    """Measure the parts; ``put`` gets each one's rows, and whether they are all."""
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            part = PARTS[name]
            if part.photographs and parts.photographs() is None:
                put(name, [skipped(part.measure, "no photographs")], False)
            elif not budget.fits(part):
                put(name, [skipped(part.measure, f"{budget.left:.0f} minutes are left, run it again")], False)
            else:
                print(f"\n== {name}: {part.measure}, about {part.minutes * budget.pace:.0f} minutes", flush=True)
                start = time.monotonic()
                put(name, *run(name, Path(work), budget.left, budget.pace))
                budget.took(part, (time.monotonic() - start) / 60)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", metavar="A,B", help=f"of {','.join(PARTS)}; default: all, in this order")
    p.add_argument("--minutes", type=float, default=40)
    p.add_argument("--out", type=Path, default=Path("benchmarks.md"))
    for name in ("--part", "--rows", "--work"):  # how it calls itself
        p.add_argument(name, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.part:
        Path(args.work).mkdir()
        for made in PARTS[args.part].rows(Path(args.work), args.minutes):
            text = json.dumps(made)
            replace_atomically(Path(args.rows), lambda file, text=text: file.write_text(text))
        return 0
    names = args.only.split(",") if args.only else list(PARTS)
    if unknown := set(names) - PARTS.keys():
        p.error(f"--only takes {', '.join(PARTS)}, but got {', '.join(sorted(unknown))}")
    budget, book, failed = Budget(args.minutes), Book(args.out.resolve()), []
    for name in UNWANTED:
        os.environ.pop(name, None)
    subprocess.run([sys.executable, "-c", f"import {', '.join(LIBRARIES)}"], cwd=ROOT, check=True)
    wait_for_quiet()

    def put(name: str, rows: list[Row], whole: bool) -> None:
        book.put(name, rows, whole)
        failed.extend(row for row in rows if row.ok is False)

    measure_all(book.order(names), budget, put)
    print(f"\n{book.table(names)}\nwritten to {book.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
