"""Which search finds a good front soonest? Contenders on a table of recorded curves, at equal epochs.

    python -m tests.benchmarks.search_quality --data digits --figure analysis/images/search_quality.png
    python -m tests.benchmarks.search_quality --data digits --study      # the options of our own scheduler
    python -m tests.benchmarks.search_quality --data digits --lambdas    # ours with λ up to 10, and up to 1

Replays `tests/benchmarks/data/<data>.parquet` (`replay.py`) to the contenders of `searchers.py`, 30 times each, two
trials at a time; prints Markdown. A repeat searches on one training seed of the table. Its front at any moment is that
of the trials that are complete by then and not collapsed, and is worth a share of what the whole grid's is worth:

- other seeds: the hypervolume from accuracy 0 and ΔF1 1 of the configurations' means over the *other* training seeds.
- same seed: the same on the seed that was searched, luck with it included.
- near: from the median of the grid's trials. Any sound trial has most of the square from (0, 1); this is the rest of
  it. On other seeds it is a share of what the best configurations there are worth, as the grid's front may get none.

The goal: 95 % on other seeds at an eighth of the grid's epochs, ours first or within the interval of the first.
Intervals are of the mean over repeats, 95 %: they say nothing of other tables.
"""

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.pareto import as_minimization, front, hypervolume
from search_spaces import SPACES
from tests.benchmarks.replay import COMPLETE, DIRECTIONS, OBJECTIVES, STOPPED, Table, Trace, replay
from tests.benchmarks.searchers import CONTENDERS, Ours, study

TOOL = {"digits": SPACES["digits"], "signdigits": SPACES["folder_vit_tiny"]}  # where the tool's first points come from
REFERENCE = as_minimization([[0.0, 1.0]], DIRECTIONS)[0]
GOAL = 0.95
MEASURES = ("other seeds", "same seed", "same seed, near", "other seeds, near")
FLOORS = (0.0, 0.25, 0.5, 0.75)
PACES = {"families": (True, False), "grace_period": (1, 2), "reduction_factor": (2, 3, 4)}
OPTIONS = PACES | {"floor": FLOORS}
COLORS = ("#999999", "#000000", "#CC79A7", "#56B4E9", "#E69F00", "#E69F00", "#009E73", "#F0E442", *["#0072B2"] * 3)
DASHES = {
    "OptunaSearch + ASHA": "--",
    "ours, no first points": "--",
    "ours, none stopped": ":",
    "ours, one family": "-.",
}


class Score:
    """What a front found on one training seed is worth, by each of MEASURES."""

    def __init__(self, table: Table, seed: int):
        whole = [i for i in range(len(table)) if table.status(i, seed) == COMPLETE]
        self.own, others = table.costs([seed]), table.costs([s for s in table.seeds if s != seed])
        near = np.nanmedian(self.own[whole], axis=0), np.nanmedian(others[whole], axis=0)
        self.terms = [(others, REFERENCE), (self.own, REFERENCE), (self.own, near[0]), (others, near[1])]
        self.whole = self.values(whole)
        self.whole[3] = hypervolume(others[whole], near[1])

    def values(self, configs: Sequence[int]) -> np.ndarray:
        found = np.array(configs, int)
        members = found[front(self.own[found])]
        return np.array([hypervolume(costs[members], reference) for costs, reference in self.terms])

    def curves(self, trace: Trace, limit: int) -> np.ndarray:
        """``[measures, limit + 1]``: the share of the grid's hypervolume after so many epochs."""
        values, configs = np.zeros((len(MEASURES), limit + 1)), []
        for step in trace.ended(COMPLETE):
            configs.append(step.config)
            values[:, step.spent :] = (self.values(configs) / np.where(self.whole > 0, self.whole, np.nan))[:, None]
        return values


read = cache(Table.read)  # once a process
score = cache(lambda path, seed: Score(read(path), seed))


def run(job: tuple, data: str, path: Path, workers: int, part: int) -> dict:
    """One repeat of one contender, or of ours with options, over the first 1/``part`` of the grid's epochs."""
    name, options, repeat = job
    table = read(path)
    seed, limit = table.seeds[repeat % len(table.seeds)], table.epochs // part
    if options:
        searcher, scheduler = study(table, repeat, space=TOOL[data]), Ours(table.guess, **options)
    else:
        searcher, scheduler = CONTENDERS[name](table, repeat, TOOL[data])
    trace = replay(table, searcher, scheduler, seed, workers, limit)
    eighth = [step.status for step in trace.steps if step.spent <= table.epochs // 8]
    half = searcher.half_trained() if hasattr(searcher, "half_trained") else np.nan
    curves = dict(zip(MEASURES, score(path, seed).curves(trace, limit)))
    counts = {"complete": eighth.count(COMPLETE), "stopped": eighth.count(STOPPED), "half_trained": half}
    return {"name": name, "repeat": repeat, "seed": seed, **counts, **curves}


def mean(values) -> tuple[float, float]:
    """The mean and half of its 95 % interval (Student's t)."""
    from scipy.stats import t

    values = np.asarray(values, float)
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def epochs_to_goal(curve: np.ndarray) -> float:
    """Infinite where the curve does not come there."""
    return float(np.argmax(curve >= GOAL)) if (curve >= GOAL).any() else np.inf


def by_name(runs: pd.DataFrame, measure: str) -> dict[str, np.ndarray]:
    """Name -> ``[repeats, epochs + 1]``."""
    return {name: np.stack(rows[measure].to_list()) for name, rows in runs.groupby("name", sort=False)}


def summary(runs: pd.DataFrame, measure: str, epochs: int) -> str:
    """A Markdown table of all contenders by one measure."""
    head = ("at 1/8", "ours less it, at 1/8", "at 1/4", "at 1/2", "mean at 95 %", "median at 95 %", "got there")
    lines = [f"| {measure} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    curves = by_name(runs, measure)
    for name, own in curves.items():
        eighth, quarter, half = (own[:, epochs // n] for n in (8, 4, 2))
        gap = "" if name == "ours" else percent(*mean(curves["ours"][:, epochs // 8] - eighth))
        reached = np.array([epochs_to_goal(curve) for curve in own])
        soon = said(epochs_to_goal(own.mean(axis=0))), said(float(np.median(reached)))
        cells = [percent(*mean(eighth)), gap, percent(*mean(quarter)), percent(*mean(half)), *soon]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.isfinite(reached).mean():.0%} |")
    return "\n".join(lines)


def counts(runs: pd.DataFrame) -> str:
    lines = ["| at 1/8 | complete | stopped | stopped share of `best_trials` at the end |", "|---" * 4 + "|"]
    for name, rows in runs.groupby("name", sort=False):
        half = "" if rows["half_trained"].isna().all() else f"{rows['half_trained'].mean():.0%}"
        lines.append(f"| {name} | {rows['complete'].mean():.1f} | {rows['stopped'].mean():.1f} | {half} |")
    return "\n".join(lines)


def said(epochs: float) -> str:
    return f"{epochs:.0f}" if np.isfinite(epochs) else "–"


def percent(value: float, half: float) -> str:
    return f"{100 * value:.1f} ± {100 * half:.1f}"


def draw(runs: pd.DataFrame, epochs: int, title: str, path: Path) -> None:
    """The share of the grid's hypervolume against epochs, mean and interval: a panel a measure, a line a contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    styles = dict(zip(CONTENDERS, (*COLORS, "#D55E00")))
    for ax, measure, low in zip(figure.subplots(1, 2), MEASURES[::2], (0.8, 0.0)):
        for name, curves in by_name(runs, measure).items():
            middle, half = np.array([mean(column) for column in curves.T]).T
            color, dash, width = styles[name], DASHES.get(name, "-"), 2.6 if name == "ours" else 1.4
            ax.plot(middle, color=color, linestyle=dash, linewidth=width, label=name)
            ax.fill_between(range(len(middle)), middle - half, middle + half, color=color, alpha=0.1, linewidth=0)
        ax.axhline(GOAL, color="0.6", linewidth=0.8)
        ax.axvline(epochs // 8, color="0.6", linewidth=0.8)
        ax.set(xlim=(0, len(middle) - 1), ylim=(low, 1.05), title=measure)
        ax.set_xlabel(f"epochs, all trials together (the whole grid: {epochs})")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("hypervolume, share of the grid's")
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def study_table(runs: pd.DataFrame) -> str:
    """A Markdown table of our scheduler's options: first each value of each with all others' runs together, then every
    combination. An area is the mean share of the grid's hypervolume over the epochs up to a quarter."""
    lines = [f"| options | {' | '.join(f'area, {m}' for m in MEASURES)} | mean at 95 % |", "|---" * 6 + "|"]
    single = [f"{name}={value}" for name, values in OPTIONS.items() for value in values]
    for name in (*single, *runs["name"].unique()):
        rows = runs[[set(name.split()) <= set(own.split()) for own in runs["name"]]]
        if rows.empty:
            continue
        areas = [percent(*mean([curve.mean() for curve in rows[measure]])) for measure in MEASURES]
        soon = said(epochs_to_goal(np.mean(rows[MEASURES[0]].to_list(), axis=0)))
        lines.append(f"| {name} | {' | '.join(areas)} | {soon} |")
    return "\n".join(lines)


def floor_table(table: Table) -> str:
    """What a floor would do, from the table alone: how far the sound trials of the final front are above a guess at
    each epoch, as a share of the median's distance, and how many of all trials each floor would stop there."""
    lines = [f"| epoch | least on the final front, seeds {table.seeds} | stopped by {FLOORS[1:]} |", "|---" * 3 + "|"]
    for epoch in range(1, table.budget):
        least, under = [], []
        for seed in table.seeds:
            recall, sound = table.recalls(seed, epoch), np.flatnonzero(~table.lost(seed))
            ratio = (recall - table.guess) / (np.median(recall) - table.guess)
            least.append(f"{ratio[sound[front(table.costs([seed])[sound])]].min():.2f}")
            under.append([(ratio < floor).mean() for floor in FLOORS[1:]])
        lines.append(f"| {epoch} | {', '.join(least)} | {', '.join(f'{u:.0%}' for u in np.mean(under, axis=0))} |")
    return "\n".join(lines)


def kept_table(table: Table, repeats: int, workers: int) -> str:
    """How often a trial is kept at a rung that ends lost, and how often that is for its ΔF1 (its accuracy is not among
    the best third so far), a search of all configurations in random order."""
    lines = ["| floor | judged | lost | lost and kept | of these for their ΔF1 |", "|---" * 5 + "|"]
    for floor in FLOORS:
        counts = np.zeros(4)
        for repeat in range(repeats):
            seed, ours = table.seeds[repeat % len(table.seeds)], Ours(table.guess, floor=floor)
            trace = replay(table, CONTENDERS["random"](table, repeat, None)[0], ours, seed, workers)
            seen, bad = {epoch: [] for epoch in ours.asha.rungs(table.budget)}, table.lost(seed)
            for step in trace.steps:
                if step.epoch in seen:
                    seen[step.epoch].append(table.curve(step.config, seed).metrics[step.epoch - 1][OBJECTIVES[0]])
                    last = sorted(seen[step.epoch])[-1 - (len(seen[step.epoch]) - 1) // 3]  # of the best third
                    kept = bad[step.config] and step.status != STOPPED
                    counts += [1, bad[step.config], kept, kept and seen[step.epoch][-1] < last]
        lines.append(f"| {floor} | {' | '.join(f'{count:.1f}' for count in counts / repeats)} |")
    return "\n".join(lines)


def lambda_table(data: str, path: Path, repeats: int, workers: int) -> str:
    """What ours gains from a grid without λ > 1: its share of epochs that goes there, and what its front is worth after
    an eighth of the whole grid's epochs, as shares of what the whole grid is worth. The second row less the first is
    paired by repeat."""
    whole, frame = read(path), pd.read_parquet(path)
    head = ("epochs at λ > 1", "complete", "other seeds", "less the first", "other seeds, near", "less the first")
    lines, first = [f"| λ up to | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"], None
    for most in (10, 1):
        table = Table(frame[~(frame["lam"] > most)])  # null for a method without λ
        numbers, runs = [whole.points.index(point) for point in table.points], []
        for repeat in range(repeats):
            seed, searcher = table.seeds[repeat % len(table.seeds)], study(table, repeat, space=TOOL[data])
            trace = replay(table, searcher, Ours(table.guess), seed, workers, whole.epochs // 8)
            above = np.mean([table.points[step.config].get("lam", 0) > 1 for step in trace.steps])
            found = [numbers[step.config] for step in trace.ended(COMPLETE)]
            worth = score(path, seed).values(found) / score(path, seed).whole
            runs.append((above, len(found), worth[0], worth[3]))
        above, complete, *worth = np.array(runs).T
        first = worth if first is None else first
        cells = [f"{above.mean():.1%}", f"{complete.mean():.1f}"]
        for own, before in zip(worth, first):
            cells += [percent(*mean(own)), "" if own is before else percent(*mean(own - before))]
        lines.append(f"| {most} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(TOOL), default="digits")
    p.add_argument("--table", type=Path, help="a Parquet file, or a folder of parts; default: the data's own")
    p.add_argument("--repeats", type=int, default=30)
    p.add_argument("--workers", type=int, default=2, help="trials side by side")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    p.add_argument("--figure", type=Path, help="a PNG of the curves")
    p.add_argument("--out", type=Path, help="a Parquet file of the curves, a row a repeat")
    p.add_argument("--study", action="store_true", help="our scheduler's options instead of the contenders")
    p.add_argument("--lambdas", action="store_true", help="ours on the grid with and without λ > 1 instead")
    args = p.parse_args()
    table = read(path := args.table or Path(__file__).parent / f"data/{args.data}.parquet")
    if len(table.seeds) < 2:
        p.error(f"a table must have two whole seeds, to search on one and score on the other, but has {table.seeds}")
    print(f"{args.data}: {len(table)} configurations x {table.budget} epochs, seeds {table.seeds}\n")
    if args.lambdas:
        print(lambda_table(args.data, path, args.repeats, args.workers))
        return
    choices = [dict(zip(OPTIONS, values)) for values in itertools.product(*OPTIONS.values())]
    named = {" ".join(f"{k}={v}" for k, v in choice.items()): choice for choice in choices}
    which = (named if args.study else dict.fromkeys(CONTENDERS)).items()
    jobs = [(name, options, repeat) for name, options in which for repeat in range(args.repeats)]
    work = partial(run, data=args.data, path=path, workers=args.workers, part=4 if args.study else 2)
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        runs = pd.DataFrame(pool.map(work, jobs, chunksize=5))
    if args.out:
        runs.to_parquet(args.out, compression="zstd")
    if args.study:
        print(study_table(runs), floor_table(table), kept_table(table, args.repeats, args.workers), sep="\n\n")
    else:
        print(*(summary(runs, measure, table.epochs) for measure in MEASURES), counts(runs), sep="\n\n")
    if args.figure:
        draw(runs, table.epochs, f"{args.data}: mean of {args.repeats} repeats and its 95 % interval", args.figure)


if __name__ == "__main__":
    main()
