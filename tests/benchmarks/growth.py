"""How a whole search grows: curves of time and memory against trials, trials at a time, and images.

    python -m tests.benchmarks.growth                              # all three, about 8 minutes on two cores
    python -m tests.benchmarks.growth --curves trials,images

The real command on digits, 2 epochs a trial, none stopped, the same points in the same order: 8, 16, 32 and 64 trials;
16 trials with 1, 2 and 4 at a time; 16 trials on 1, 2, 4 and 8 times the images (each row of the store repeated, all
splits alike). A search that two curves share runs once. Printed for each: seconds of the whole command, Ray's start
included, seconds a trial, and the most memory (MiB resident, looked at once a second) of the driver, of Ray's own
processes, and of the trials' processes, pages that processes share counted in each; and the straight line a + b x
through the seconds by least squares.
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
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from search_spaces import SPACES
from tests.benchmarks.against_glue import ROOT, clean_environment, drawn_points
from tests.benchmarks.rows import Row, wait_for_quiet
from trainables.data.store import Store, write
from trainables.models.create import weights_file
from trainables.prepare import datasets
from trainables.prepare.prepared import FORMAT, MANIFEST, STORE, counts, rows_of

SIZE, EPOCHS = 16, 2
KINDS = ("driver", "Ray", "trials")


class Point(NamedTuple):
    """One search: how many trials, how many at a time, how many times the images."""

    trials: int
    at_once: int
    images: int


class Curve(NamedTuple):
    """Searches that differ in ``x`` alone, and what b in a + b x is."""

    x: Callable[[Point], int]
    unit: str
    points: tuple[Point, ...]


class Measured(NamedTuple):
    """Seconds of the whole command; MiB at most by `KINDS`."""

    seconds: float
    memory: dict[str, float]


CURVES = {
    "trials": Curve(lambda p: p.trials, "s a trial", tuple(Point(n, 2, 1) for n in (8, 16, 32, 64))),
    "concurrency": Curve(lambda p: p.at_once, "s a trial at a time", tuple(Point(16, n, 1) for n in (1, 2, 4))),
    "images": Curve(lambda p: p.images, "s a copy", tuple(Point(16, 2, n) for n in (1, 2, 4, 8))),
}


def estimate(point: Point) -> float:
    """Seconds, roughly, on two cores."""
    return 22 + 1.1 * point.trials * point.images / min(point.at_once, 2)


def chosen(names: list[str], seconds: float) -> list[Point]:
    """The points of the curves ``names``, each once, cheapest first, as many as fit into ``seconds``."""
    left = sorted({point for name in names for point in CURVES[name].points}, key=estimate)
    return [p for i, p in enumerate(left) if sum(map(estimate, left[: i + 1])) <= seconds]


def repeated(source: Path, times: int, folder: Path) -> Path:
    """A prepared data set with each row of the store ``source`` ``times`` times."""
    store = Store(source)
    manifest = replace(store.manifest, fingerprint=f"{store.manifest.fingerprint}x{times}")
    folder.mkdir()
    write(folder / STORE, manifest, (row for row in rows_of(store) for _ in range(times)))
    facts = {name: getattr(manifest, name) for name in ("name", "size", "classes", "groups", "positive", "notes")}
    facts |= {"splits": counts(Store(folder / STORE)), "content_hash": manifest.fingerprint, "source": {}}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **facts}))
    return folder


class Watch:
    """The memory of a process and of all below it."""

    def __init__(self, pid: int):
        self.driver, self.trials = psutil.Process(pid), set()
        self.samples: list[dict[int, int]] = []  # bytes resident by process

    def look(self) -> None:
        """Ray renames its workers "ray::…", a trial's only once its libraries are loaded: so whose a process is, is
        known at the end."""
        sample = {}
        for process in [self.driver, *self.driver.children(recursive=True)]:
            try:
                sample[process.pid] = process.memory_info().rss
                if "Trainable" in " ".join(process.cmdline()[:1]):  # Tune wraps ours in its own
                    self.trials.add(process.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        self.samples.append(sample)

    def most(self) -> dict[str, float]:
        """MiB at most, by `KINDS`."""
        kinds = {pid: self._kind(pid) for sample in self.samples for pid in sample}
        return {
            kind: max(sum(size for pid, size in sample.items() if kinds[pid] == kind) for sample in self.samples)
            / 2**20
            for kind in KINDS
        }

    def _kind(self, pid: int) -> str:
        return "driver" if pid == self.driver.pid else "trials" if pid in self.trials else "Ray"


def watched(words: list[str], log: Path) -> Measured:
    """Run a module of ours to its end. Raises SystemExit with the end of its output where it fails."""
    with open(log, "w") as out:
        start = due = time.perf_counter()
        command = [sys.executable, "-m", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=out, stderr=subprocess.STDOUT)
        watch = Watch(process.pid)
        while process.poll() is None:
            if time.perf_counter() >= due:
                due += 1
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    watch.look()
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode:
        end = log.read_text()[-2000:]
        raise SystemExit(f"{words[0]} must end well, but its exit status is {process.returncode}:\n{end}")
    return Measured(seconds, watch.most())


def search(point: Point, folder: Path, epochs: int = EPOCHS) -> Measured:
    """The whole search of ``point``, in the new ``folder``."""
    folder.mkdir()
    points = folder / "points.json"
    points.write_text(json.dumps(drawn_points(SPACES["digits"], point.trials)))
    share = min(1.0, (os.cpu_count() or 1) / point.at_once)
    words = ["tune_fairlora.search", "--space", "digits", "--epochs", epochs, "--trials", point.trials]
    words += ["--enqueue", points, "--scheduler", "none", "--max-concurrent", point.at_once, "--cpus-per-trial", share]
    words += ["--storage", folder, "--name", "search", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    if point.images > 1:
        source = datasets.prepare("digits", None, SIZE)
        words += ["--data", repeated(source, point.images, folder / "data")]
    return watched([str(word) for word in words], folder / "log.txt")


def line(xs: list[int], seconds: list[float]) -> tuple[float, float]:
    """a and b of a + b x by least squares."""
    b, a = np.polyfit(xs, seconds, 1)
    return float(a), float(b)


def measure(points: list[Point], work: Path, epochs: int = EPOCHS) -> Iterator[dict[Point, Measured]]:
    """Each search once; each is printed as it ends, and all so far are yielded."""
    datasets.prepare("digits", None, SIZE), weights_file("vit_nano", None)  # made before time is taken
    found: dict[Point, Measured] = {}
    for i, point in enumerate(points):
        found[point] = search(point, work / f"growth-{i}", epochs)
        what = f"{point.trials} trials, {point.at_once} at a time, {point.images} x the images"
        print(f"{what}: {found[point].seconds:.1f} s (expected {estimate(point):.0f})", flush=True)
        yield found


def table(name: str, found: dict[Point, Measured]) -> str:
    """One curve, as far as it was measured."""
    lines = [f"| {name} | seconds | a trial | driver MiB | Ray MiB | trials MiB |", "|---|---|---|---|---|---|"]
    for point in [point for point in CURVES[name].points if point in found]:
        done = found[point]
        sizes = " | ".join(f"{done.memory[kind]:.0f}" for kind in KINDS)
        x, single = CURVES[name].x(point), done.seconds / point.trials
        lines.append(f"| {x} | {done.seconds:.1f} | {single:.2f} | {sizes} |")
    return "\n".join(lines)


def row(name: str, found: dict[Point, Measured]) -> Row:
    """A curve as a line of `bench.py`'s table."""
    curve = CURVES[name]
    points = [point for point in curve.points if point in found]
    measure = f"digits, {name} {curve.x(curve.points[0])} to {curve.x(curve.points[-1])}"
    if len(points) < 2:
        return Row(measure, "–", "skipped: no time left")
    xs, seconds = [curve.x(point) for point in points], [found[point].seconds for point in points]
    a, b = line(xs, seconds)
    ours = ", ".join(f"{x}: {s:.0f} s" for x, s in zip(xs, seconds))
    most = found[points[-1]].memory
    held = f"driver {most['driver']:.0f}, Ray {most['Ray']:.0f}, trials {most['trials']:.0f} MiB at {xs[-1]}"
    return Row(measure, "–", ours, held, f"{a:.1f} s + {b:.2f} {curve.unit}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--curves", default=",".join(CURVES), help="of %(default)s")
    p.add_argument("--minutes", type=float, default=12, help="points that no longer fit are left out")
    p.add_argument("--epochs", type=int, default=EPOCHS)
    args = p.parse_args()
    names = args.curves.split(",")
    points = chosen(names, 60 * args.minutes)
    print(f"{len(points)} searches, about {sum(map(estimate, points)) / 60:.0f} minutes", flush=True)
    wait_for_quiet()
    with tempfile.TemporaryDirectory() as work:
        *_, found = measure(points, Path(work), args.epochs)
    for name in names:
        print(f"\n{table(name, found)}\n{row(name, found).ratio}")


if __name__ == "__main__":
    main()
