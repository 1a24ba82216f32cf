"""The parts of `bench.py`: each calls a benchmark and puts its numbers into rows, which it yields after each round.

``work`` is a new folder, ``minutes`` what is left; those that can do less look at it, the others take what
`bench.PARTS` says."""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks import against_glue, efficiency
from tests.benchmarks.rows import Row, skipped, spread

SHARED = against_glue.ROOT.parent / "shared"
FOLDER, WEIGHTS = SHARED / "data" / "signdigits", SHARED / "weights" / "vit_tiny_patch16_224_in1k.safetensors"

# For all rounds of search, glue and bare loop; and how many there are at least. Two of the digits': from one alone the
# noise between seeds is not known, and what is taken for it calls the results of seed 0 different by a hair.
ROUNDS_MINUTES, LEAST_ROUNDS = {"digits": 15, "signdigits": 22}, {"digits": 2, "signdigits": 1}


def photographs() -> tuple[Path, Path] | None:
    """The photographs' folder and ViT-Tiny's weights beside the project; None where they are absent."""
    return (FOLDER, WEIGHTS) if FOLDER.is_dir() and WEIGHTS.is_file() else None


def inputs_of(data: str, work: Path, until: float | None = None) -> against_glue.Inputs:
    folder, weights = photographs() or (None, None)
    chosen = {"trials": None, "epochs": None, "until": until, "reuse_actors": False}
    return against_glue.prepared(argparse.Namespace(data=data, folder=folder, weights=weights, **chosen), work)


def compared(data: str, work: Path, minutes: float) -> Iterator[list[Row]]:
    """Rounds of a search of ours, glue's, and the bare loop of ours, in turn: as many as fit, and ``LEAST_ROUNDS`` at
    least. On a slow machine the bare loop, which takes as long as ours, is left out rather than all be cut off."""
    inputs, start = inputs_of(data, work), time.monotonic()
    found: list[tuple[against_glue.Run, against_glue.Run, float]] = []
    measured: list[efficiency.Measured] = []
    least, most = LEAST_ROUNDS[data], 60 * ROUNDS_MINUTES[data]
    while len(found) < least or (time.monotonic() - start) * (1 + 1 / len(found)) <= most:
        i = len(found)
        found.append(against_glue.run_round(inputs, work, i, None))
        yield _rows(data, inputs, found, measured, "the bare loop is still to run")
        if time.monotonic() - start + 1.1 * found[-1][0].seconds < 60 * minutes:
            measured.append(efficiency.against_bare(work / f"ours-{i}" / against_glue.NAME))
        yield _rows(data, inputs, found, measured, f"{minutes:.0f} minutes are too few for the bare loop")
    if measured:
        efficiency.report(data, measured)


def _rows(
    data: str,
    inputs: against_glue.Inputs,
    found: Sequence[tuple[against_glue.Run, against_glue.Run, float]],
    measured: Sequence[efficiency.Measured],
    why: str,
) -> list[Row]:
    """The rounds so far. ``why`` there is no efficiency, where none is ``measured``."""
    bare = efficiency.row(data, measured) if measured else skipped(f"{data}: efficiency", why)
    return [_whole(data, inputs, *zip(*found)), bare]


def _whole(
    data: str,
    inputs: against_glue.Inputs,
    ours: Sequence[against_glue.Run],
    glue: Sequence[against_glue.Run],
    ratios: Sequence[float],
) -> Row:
    """Whole commands, and whether both got the same results within noise; too few rounds have no verdict."""
    middle, least = statistics.median(ratios), LEAST_ROUNDS[data]
    seconds = [f"{statistics.median(run.seconds for run in runs):.0f} s" for runs in (ours, glue)]
    measure = f"{data}: {inputs.setup.trials} trials x {inputs.setup.epochs} epochs, whole command"
    goal = inputs.setup.goal
    words = measure, f"≥ {goal:g}x", seconds[0], f"glue {seconds[1]}", f"{middle:.2f}x"
    if len(ratios) < least:
        return Row(*words, f"{len(ratios)} of {least} rounds")
    points = json.loads(inputs.points.read_text())
    results = [np.array([against_glue.by_point(run, points) for run in runs]) for runs in (ours, glue)]
    table = pd.read_csv(inputs.folder / "metadata.csv")
    agree = against_glue.agreement(*results, int((table["split"] == "val").sum()), table["label"].nunique())
    return Row(*words, spread(ratios) + "; RESULTS DISAGREE" * (not agree), middle >= goal and agree)


def digits(work: Path, minutes: float) -> Iterator[list[Row]]:
    return compared("digits", work, minutes)


def signdigits(work: Path, minutes: float) -> Iterator[list[Row]]:
    return compared("signdigits", work, minutes)


def until(work: Path, minutes: float) -> Iterator[list[Row]]:
    """The time until 95 % of glue's last hypervolume."""
    share = 0.95
    inputs = inputs_of("signdigits", work, share)
    ours, glue, ratio = against_glue.run_round(inputs, work, 0, share)
    target = share * against_glue.volumes(glue)[-1][1]
    seconds = [against_glue.reached(against_glue.volumes(run), target) for run in (ours, glue)]
    measure = f"signdigits: until {share:.0%} of glue's last hypervolume"
    words, goal = (f"{seconds[0]:.0f} s", f"glue {seconds[1]:.0f} s"), inputs.setup.goal
    yield [Row(measure, f"≥ {goal:g}x", *words, f"{ratio:.2f}x", "one round", ratio >= goal)]


def penalty(work: Path, minutes: float) -> Iterator[list[Row]]:
    from tests.benchmarks import penalty_cost

    yield penalty_cost.rows()


def start(work: Path, minutes: float) -> Iterator[list[Row]]:
    from tests.benchmarks import start_cost

    yield start_cost.rows()


def half(work: Path, minutes: float) -> Iterator[list[Row]]:
    from tests.benchmarks import half_precision

    yield half_precision.rows()


def logging(work: Path, minutes: float) -> Iterator[list[Row]]:
    """On sqlite alone: the server's ratio is larger, and its start takes long."""
    from tests.benchmarks import logging_cost

    pairs, _ = logging_cost.compare(work, f"sqlite:///{work / 'mlflow.db'}", 30)
    theirs, ours = np.median(pairs, axis=0)
    ratios = (pairs[:, 0] / pairs[:, 1]).tolist()
    middle = statistics.median(ratios)
    words = f"{ours:.2f} ms", f"Ray's MLflowLoggerCallback {theirs:.0f} ms"
    good = middle >= 1 / logging_cost.GOAL
    yield [Row("a result's logging, sqlite", "≥ 100x", *words, f"{middle:.0f}x", spread(ratios, 0), good)]


def prefix(work: Path, minutes: float) -> Iterator[list[Row]]:
    """On a third of the photographs, as by default."""
    import torch

    from tests.benchmarks import prefix as benchmark
    from trainables.data import batches
    from trainables.prepare import datasets

    torch.set_num_threads(1)
    folder, weights = photographs()
    seen = benchmark.slice_of(batches.open_data(datasets.prepare("folder", folder, benchmark.BASE.image_size)), 600)
    benchmark.measure(benchmark.slice_of(seen, 32), str(weights), epochs=1, trials=1)  # libraries and weights loaded
    done = benchmark.measure(seen, str(weights))
    benchmark.report(done, seen)
    yield [benchmark.row(done)]


def last_row(work: Path, minutes: float) -> Iterator[list[Row]]:
    from tests.benchmarks import last_row as benchmark

    made = []
    for method in ("lora", "fft"):
        made.append(_last_row(method, benchmark.measure(method)))
        yield made


def _last_row(method: str, pairs: Sequence[tuple[float, float]]) -> Row:
    row, whole = (1000 * statistics.median(column) for column in zip(*pairs))
    ratios = [a / b for a, b in pairs]
    measure = f"step of ViT-Tiny at 112 px, {method}: last block's row alone"
    words = f"{row:.0f} ms", f"whole block {whole:.0f} ms"
    return Row(measure, "–", *words, f"{statistics.median(ratios):.3f}", spread(ratios, 3))


def growth(work: Path, minutes: float) -> Iterator[list[Row]]:
    """Of the curves' points as many as fit into the time, the cheap ones first."""
    from tests.benchmarks import growth as benchmark

    found: dict[benchmark.Point, benchmark.Measured] = {}
    yield [benchmark.row(name, found) for name in benchmark.CURVES]
    for found in benchmark.measure(benchmark.chosen(list(benchmark.CURVES), 60 * 0.9 * minutes), work):
        yield [benchmark.row(name, found) for name in benchmark.CURVES]
    for name in benchmark.CURVES:
        print(f"\n{benchmark.table(name, found)}")
