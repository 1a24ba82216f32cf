"""How true is the front that a search claims? Searches replayed on recorded curves of many seeds, at equal epochs.

    python -m tests.benchmarks.front_truth --data digits_seeds
    python -m tests.benchmarks.front_truth --data digits_seeds --rules     # which trainings are repeated, and how many
    python -m tests.benchmarks.front_truth --data digits_seeds --images    # intervals over seeds and images

Each of ``--repeats`` searches has the epochs of ``--trials`` full trainings. It explores with one training seed; ours
may spend a share of its epochs on candidates, with fresh seeds. What a configuration is truly worth is its mean over
the seeds that this search has not used of it: none of its own luck is in there. Of the claimed front, means over the
searches and their 95 % intervals:

- optimism: how much better its points are said to be than they are.
- themselves: the share of its points that no other of its points truly dominates.
- all tried: the share that no configuration truly dominates of all that the search has tried, the stopped ones too.
- hypervolume: of its points' true worth, from accuracy 0 and ΔF1 1.
- within: how often the interval over seeds holds the true worth, whose own standard error is allowed for.

With ``--images`` the recorded images of validation and test are dealt anew for each search, half of them to be chosen
by and half for the truth, and a search is of 18 configurations drawn at random, and six trainings again: "within" is
then how often the interval over seeds and images holds what fresh seeds show on the other images, whose own errors are
allowed for.

A front of means is what searches claim; ``estimates`` are shrunk means, ``twice`` those of configurations that were
trained twice or more. Every table is one draw of a data set, an architecture and a grid: it says nothing of others.
"""

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.claims import interval, shifts
from analysis.estimates import Estimates, estimate, membership, seed_draws
from analysis.pareto import front, hypervolume
from analysis.predictions import Predictions
from search_spaces import SPACES
from tests.benchmarks.replay import COMPLETE, OBJECTIVES, NeverStop, Table, replay
from tests.benchmarks.search_quality import mean
from tests.benchmarks.searchers import GridSpace, Ours, RayAsha, RayOptuna, study
from trainables.data.store import Store
from trainables.metrics import measure
from trainables.prepare import datasets

REFERENCE = np.array([0.0, 1.0])
SPACE = {"digits_seeds": SPACES["digits"], "signdigits_seeds": SPACES["folder_vit_tiny"]}
CONTENDERS: dict[str, Callable] = {  # (table, seed, the tool's space) -> searcher and scheduler
    "Ray OptunaSearch": lambda t, s, _: (RayOptuna(GridSpace(t.points), s), NeverStop()),
    "TPE, none stopped": lambda t, s, _: (study(t, s), NeverStop()),
    "TPE + ASHA on accuracy": lambda t, s, _: (study(t, s), RayAsha("val_accuracy", t.budget)),
    "ours": lambda t, s, space: (study(t, s, space=space), Ours(t.guess)),
}
SHARE, RULE = 0.25, "likely"
EXPLORED, AGAIN = 18, 6  # configurations and repeated trainings of a search with ``--images``
SPLITS, FACTS = ("validation", "test"), (("", 1), ("_label", 0), ("_group", 0))  # of a file of logits; images' axis
SHARES = (0.125, 0.25, 0.375, 0.5)
FORMS = {
    "optimism, accuracy": 4, "optimism, ΔF1": 4, "themselves": 2, "all tried": 2, "hypervolume": 4, "points": 1,
    "within, accuracy": 3, "within, ΔF1": 3,
}  # fmt: skip


class Costs:
    """The final costs of a table, float ``[configurations, seeds, 2]``, NaN where a run is not complete."""

    def __init__(self, table: Table, values: np.ndarray | None = None):
        """``values``: of other images than the table's."""
        self.values = np.full((len(table), len(table.seeds), 2), np.nan)
        for i, (j, seed) in itertools.product(range(len(table)), enumerate(table.seeds)):
            if table.status(i, seed) == COMPLETE:
                self.values[i, j] = table.costs_of(i, seed) if values is None else values[i, j]

    def fresh(self, config: int, used: Sequence[int]) -> np.ndarray:
        return np.delete(self.values[config], used, axis=0)

    def true(self, used: dict[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """``[len(used), 2]`` each: means over the seeds that are not used, and their standard errors."""
        left = [self.fresh(config, seeds) for config, seeds in used.items()]
        errors = [np.nanstd(values, axis=0, ddof=1) / len(values) ** 0.5 for values in left]
        return np.array([np.nanmean(values, axis=0) for values in left]), np.array(errors)


class Found:
    """What a search has trained so far: the places of the seeds used of each configuration that was tried, and the
    costs ``[seeds, 2]`` of each that is complete with all of them."""

    def __init__(self, costs: Costs, tried: Sequence[int], complete: Sequence[int], seed: int):
        self.costs, self.used = costs, {i: [seed] for i in tried}
        self.values = {i: costs.values[i, [seed]] for i in complete}

    def repeat(self, config: int, seed: int) -> None:
        """Train ``config`` once more. One that is not complete with a seed is not to be trusted with any."""
        self.used[config].append(seed)
        values = self.costs.values[config, self.used[config]]
        self.values.pop(config)
        if not np.isnan(values).any():
            self.values[config] = values

    def estimates(self) -> tuple[list[int], Estimates]:
        counts = [len(values) for values in self.values.values()]
        return list(self.values), estimate(
            np.concatenate([*self.values.values()]), np.repeat(np.arange(len(counts)), counts)
        )

    def chances(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Configurations, their shrunk costs, and how probably each is on the front."""
        configs, made = self.estimates()
        draws = seed_draws(made.mean, made.error, seed=sum(map(len, self.used.values())))
        return configs, made.mean, membership(draws)


# --- Which configuration is trained once more, of those that may be. ---


def likely(found: Found, able: set[int]) -> int:
    """The likeliest member of the front, per training that it has had."""
    configs, _, chance = found.chances()
    return max(able, key=lambda i: chance[configs.index(i)] / len(found.used[i]))


def unsure(found: Found, able: set[int]) -> int:
    """The one whose place is least sure, per training that it has had."""
    configs, _, chance = found.chances()
    doubt = dict(zip(configs, chance * (1 - chance)))
    return max(able, key=lambda i: doubt[i] / len(found.used[i]))


def fewest(found: Found, able: set[int]) -> int:
    """Of the front of the estimates one with the fewest trainings, the likeliest of these."""
    configs, costs, chance = found.chances()
    members = able.intersection(np.array(configs)[front(costs)].tolist()) or able
    return min(members, key=lambda i: (len(found.used[i]), -chance[configs.index(i)]))


RULES = {"likely": likely, "unsure": unsure, "fewest": fewest}


# --- What is claimed of what was found. ---


class Claim(NamedTuple):
    configs: list[int]
    costs: np.ndarray  # [len(configs), 2]
    half: np.ndarray | None = None  # of the 95 % interval


def means(found: Found) -> Claim:
    values = np.array([values.mean(axis=0) for values in found.values.values()])
    on = front(values)
    return Claim(np.array(list(found.values))[on].tolist(), values[on])


def estimates(found: Found, least: int = 1) -> Claim:
    configs, made = found.estimates()
    enough = np.array([len(found.used[i]) >= least for i in configs])
    rows = np.flatnonzero(enough if enough.any() else ~enough)
    rows = rows[front(made.mean[rows])]
    return Claim(np.array(configs)[rows].tolist(), made.mean[rows], made.half[rows])


CLAIMS = {"means": means, "estimates": estimates, "twice": partial(estimates, least=2)}


def score(costs: Costs, found: Found, claim: Claim) -> list[float]:
    """In the order of FORMS."""
    true, error = costs.true({i: found.used[i] for i in claim.configs})
    best = front(costs.true(found.used)[0])
    within = [np.nan, np.nan]
    if claim.half is not None:
        within = (np.abs(true - claim.costs) <= np.hypot(claim.half, 1.96 * error)).mean(axis=0)
    standing = [best[list(found.used).index(i)] for i in claim.configs]
    size = len(claim.configs)
    optimism = (true - claim.costs).mean(axis=0)
    return [*optimism, front(true).mean(), np.mean(standing), hypervolume(true, REFERENCE), size, *within]


@cache
def recorded(path: Path) -> tuple[np.ndarray, ...]:
    """Logits ``[runs, images, classes]`` of both splits, and labels, groups and subjects of the images."""
    store = Store(datasets.prepare("digits", None, 16))
    subject = np.concatenate([store.subject[store.rows(split)] for split in ("val", "test")])
    with np.load(path.with_name(f"{path.stem}_logits.npz")) as content:
        facts = [np.concatenate([content[f"{split}{name}"] for split in SPLITS], axis=axis) for name, axis in FACTS]
    return *facts, np.unique(subject, return_inverse=True)[1]


class Dealt:
    """The recorded images of both splits, dealt into two halves by subject, and what every run shows of each."""

    def __init__(self, table: Table, path: Path, rng: np.random.Generator):
        logits, label, group, subject = recorded(path)
        self.seeds, self.groups = len(table.seeds), int(group.max()) + 1
        first = np.isin(subject, rng.permutation(int(subject.max()) + 1)[::2])  # a subject is in one half alone
        self.halves = [(logits[:, rows], label[rows], group[rows], subject[rows]) for rows in (first, ~first)]

    def costs(self, half: int) -> np.ndarray:
        """``[configurations, seeds, 2]``, as ``Costs`` has them."""
        logits, label, group, _ = self.halves[half]
        classes = logits.shape[2]
        cells = (group * classes + label) * classes + logits.argmax(axis=2)
        counts = np.stack([np.bincount(each, minlength=self.groups * classes**2) for each in cells])
        shown = measure(counts.reshape(-1, self.groups, classes, classes), np.zeros((len(logits), classes))).metrics
        costs = np.stack([-shown["accuracy"], shown["delta_f1"]], axis=1)
        return costs.reshape(self.seeds, -1, 2).swapaxes(0, 1)  # runs are recorded seed after seed

    def shift(self, half: int, config: int, seeds: Sequence[int]) -> np.ndarray:
        """How far the mean over ``seeds`` moves with the images, ``[draws, 2]``."""
        logits, label, group, subject = self.halves[half]
        runs = [seed * (len(logits) // self.seeds) + config for seed in seeds]
        values = [logits[run].astype(np.float16) / 8 for run in runs]
        samples = [Predictions(each, label, group, self.groups, subject=subject) for each in values]
        moved = [shifts(sample) for sample in samples]
        return np.mean([[each[name] for name in OBJECTIVES] for each in moved], axis=0).T


def with_images(seed: int, path: Path) -> list[dict]:
    """One search by one half of the images, and how often its intervals hold what the other half shows."""
    table, rng = read(path), np.random.default_rng(seed)
    dealt, order = Dealt(table, path, rng), rng.permutation(len(table.seeds)).tolist()
    costs, other = (Costs(table, dealt.costs(half)) for half in (0, 1))
    tried = rng.choice(len(table), EXPLORED, replace=False).tolist()
    found = Found(costs, tried, [i for i in tried if not np.isnan(costs.values[i, order[0]]).any()], order[0])
    rows = []
    for again in (0, AGAIN):
        for _ in range(again):
            config = RULES[RULE](found, set(found.values))
            found.repeat(config, order[len(found.used[config])])
        configs, made = found.estimates()
        claim = CLAIMS["twice" if again else "estimates"](found)
        places = [configs.index(i) for i in claim.configs]
        moved = np.zeros((len(configs), 2))
        moved[places] = [dealt.shift(0, i, found.used[i]).var(axis=0) for i in claim.configs]
        half = interval(made, moved)[1][places]
        true, error = other.true({i: found.used[i] for i in claim.configs})
        error = np.hypot(error, [dealt.shift(1, i, order[-3:]).std(axis=0) for i in claim.configs])
        within = (np.abs(true - claim.costs) <= np.hypot(half, 1.96 * error)).mean(axis=0)
        seeds = (np.abs(true - claim.costs) <= np.hypot(claim.half, 1.96 * error)).mean(axis=0)
        labels = {"trained again": again, "points": len(places)}
        names = ("accuracy", "ΔF1")
        rows.append(
            labels
            | {f"seeds and images, {n}": v for n, v in zip(names, within)}
            | {f"seeds alone, {n}": v for n, v in zip(names, seeds)}
            | {f"half, {n}": v for n, v in zip(names, half.mean(axis=0))}
        )
    return rows


def summary_of_images(rows: pd.DataFrame) -> str:
    names = [name for name in rows if name != "trained again"]
    lines = [f"| trained again | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for again, group in rows.groupby("trained again"):
        cells = ["{:.3f} ± {:.3f}".format(*mean(group[name])) for name in names]
        lines.append(f"| {again} | {' | '.join(cells)} |")
    return "\n".join(lines)


read = cache(Table.read)  # once a process
costs_of = cache(lambda path: Costs(read(path)))


def run(job: tuple, path: Path, data: str, trials: int) -> list[dict]:
    """One search, and the score of each claim: (contender, share for candidates, rule, seed)."""
    name, share, rule, seed = job
    table, costs = read(path), costs_of(path)
    order = np.random.default_rng(seed).permutation(len(table.seeds)).tolist()
    epochs = trials * table.budget
    contender = CONTENDERS[name](table, seed, SPACE[data])
    trace = replay(table, *contender, table.seeds[order[0]], max_epochs=round(epochs * (1 - share)))
    complete = [step.config for step in trace.ended(COMPLETE)]
    found = Found(costs, sorted({step.config for step in trace.steps}), complete, order[0])
    for _ in range(round(epochs * share) // table.budget):
        able = {i for i in found.values if len(found.used[i]) < len(order) - 3}  # the truth needs some
        if able:
            config = RULES[rule](found, able)
            found.repeat(config, order[len(found.used[config])])
    labels = {"search": name, "for candidates": f"{share:.1%}", "rule": rule}
    claims = {claim: make for claim, make in CLAIMS.items() if found.values and (share or claim != "twice")}
    scores = {claim: score(costs, found, make(found)) for claim, make in claims.items()}
    return [labels | {"claimed": claim} | dict(zip(FORMS, values)) for claim, values in scores.items()]


def summary(rows: pd.DataFrame) -> str:
    """A Markdown table: means and half of their 95 % intervals."""
    keys = ["search", "for candidates", "rule", "claimed"]
    lines = [f"| {' | '.join([*keys, *FORMS])} |", "|---" * (len(keys) + len(FORMS)) + "|"]
    for labels, group in rows.groupby(keys, sort=False):
        cells = []
        for name, digits in FORMS.items():
            value, half = mean(group[name])
            cells.append("" if np.isnan(value) else f"{value:.{digits}f} ± {half:.{digits}f}")
        lines.append(f"| {' | '.join([*labels, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(SPACE), default="digits_seeds")
    p.add_argument("--path", type=Path, help="another table, or a folder of grid_curves.py's parts")
    p.add_argument("--repeats", type=int, default=200)
    p.add_argument("--trials", type=int, default=24, help="full trainings whose epochs a search has")
    p.add_argument("--rules", action="store_true")
    p.add_argument("--images", action="store_true", help="how often intervals over seeds and images hold")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    args = p.parse_args()
    path = args.path or Path(__file__).parent / "data" / f"{args.data}.parquet"
    settings = [*((name, 0.0, "") for name in CONTENDERS), ("ours", SHARE, RULE)]
    if args.rules:
        settings = [("ours", share, rule) for share in SHARES for rule in RULES]
    jobs = [(*setting, seed) for setting in settings for seed in range(args.repeats)]
    work = partial(run, path=path, data=args.data, trials=args.trials)
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        if args.images:
            found = pool.imap(partial(with_images, path=path), range(args.repeats), chunksize=5)
            print(summary_of_images(pd.DataFrame(itertools.chain.from_iterable(found))))
            return
        rows = itertools.chain.from_iterable(pool.imap(work, jobs, chunksize=5))
        print(summary(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
