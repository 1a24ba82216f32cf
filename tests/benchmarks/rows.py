"""What a benchmark gives `bench.py`: a line of its table. And waiting until the machine has nothing else to do."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psutil

BUSY = 0.3  # cores of other work that a measurement bears
COLUMNS = ("measure", "goal", "ours", "peer", "ratio (spread)", "", "measured")


class Row(NamedTuple):
    """One measure, in words. ``ok`` says whether the goal is reached; None where there is none, or no measurement.
    ``when`` is the day, and the version of the code."""

    measure: str
    goal: str = "–"
    ours: str = "–"
    peer: str = "–"
    ratio: str = "–"
    spread: str = ""
    ok: bool | None = None
    when: str = ""


def skipped(measure: str, why: str, goal: str = "–") -> Row:
    return Row(measure, goal, f"skipped: {why}")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Least and largest of a few values; the 10th and 90th percentile from ten on; nothing of a single one."""
    if len(values) < 2:
        return "one round"
    low, high = min(values), max(values)
    if len(values) >= 10:
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        return f"{deciles[0]:.{digits}f}–{deciles[-1]:.{digits}f}, 10–90 %"
    return f"{low:.{digits}f}–{high:.{digits}f}"


def markdown(rows: Iterable[Row]) -> str:
    """The table; a bar in a text would end its cell."""
    verdicts = {True: "reached", False: "MISSED", None: ""}
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    for row in rows:
        ratio = f"{row.ratio} ({row.spread})" if row.spread else row.ratio
        lines.append((row.measure, row.goal, row.ours, row.peer, ratio, verdicts[row.ok], row.when))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def others(seconds: float = 3.0) -> float:
    """Cores that are at work now, while this process waits."""
    return psutil.cpu_percent(interval=seconds) / 100 * (os.cpu_count() or 1)


def wait_for_quiet(minutes: float = 5.0) -> None:
    """Return when less than ``BUSY`` cores are at work. After ``minutes`` say so, and return too."""
    end = time.monotonic() + 60 * minutes
    while (busy := others()) >= BUSY:
        if time.monotonic() > end:
            print(f"other work keeps {busy:.1f} cores busy: these are numbers of a shared machine", flush=True)
            return
