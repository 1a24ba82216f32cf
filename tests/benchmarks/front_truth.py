"""How true is the front that a search claims? Searches replayed on recorded curves of many seeds, at equal epochs.

    python -m tests.benchmarks.front_truth --data digits_seeds
    python -m tests.benchmarks.front_truth --data digits_seeds --rules     # which trainings are repeated, and how many

Each of ``--repeats`` searches has the epochs of ``--trials`` full trainings, explores with one training seed, and may
spend a share of its epochs on candidates with fresh seeds. What a configuration is truly worth is its mean over the
seeds that this search has not used of it: its own luck is not in there. Reported of the front that is claimed, as means
over the searches with 95 % intervals:

- optimism: how much better its points are said to be than they are (accuracy, ΔF1).
- among themselves: the share of its points that no other of its points truly dominates.
- of all: the share that no configuration truly dominates which the search has trained to the end.
- hypervolume: of its points' true worth, from accuracy 0 and ΔF1 1.
- within: how often the 95 % interval over seeds holds the true worth (of ours, which has one).
"""

import argparse
import itertools
import multiprocessing
import os
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis import estimates
from analysis.pareto import front, hypervolume
from search_spaces import SPACES
from tests.benchmarks.replay import COMPLETE, NeverStop, Table, replay
from tests.benchmarks.searchers import GridSpace, Ours, RayAsha, RayOptuna, study

REFERENCE = np.array([0.0, 1.0])
SPACE = {"digits_seeds": SPACES["digits"], "signdigits_seeds": SPACES["folder_vit_tiny"]}
COLUMNS = (
    "optimism acc",
    "optimism ΔF1",
    "among themselves",
    "of all",
    "hypervolume",
    "points",
    "within acc",
    "within ΔF1",
)


@dataclass
class Found:
    """What a search has trained to the end: by configuration the costs ``[seeds, 2]``, and which seeds they are of."""

    values: dict[int, np.ndarray]
    seeds: dict[int, list[int]]


class Costs:
    """Final costs ``[configurations, seeds, 2]`` of a table, NaN where a run is not complete."""

    def __init__(self, table: Table):
        self.values = np.full((len(table), len(table.seeds), 2), np.nan)
        for i, (j, seed) in itertools.product(range(len(table)), enumerate(table.seeds)):
            if table.status(i, seed) == COMPLETE:
                self.values[i, j] = table._last(i, seed)

    def true(self, configs, used: dict[int, list[int]]) -> np.ndarray:
        """``[len(configs), 2]``: means over the seeds that are not ``used``."""
        rows = []
        for i in configs:
            fresh = [j for j in range(self.values.shape[1]) if j not in used[i]]
            rows.append(np.nanmean(self.values[i, fresh], axis=0))
        return np.array(rows)


def explore(table, costs, searcher, scheduler, order, epochs) -> Found:
    """Spend ``epochs`` on new configurations, all with the first seed of ``order``."""
    trace = replay(table, searcher, scheduler, table.seeds[order[0]], max_epochs=epochs)
    whole = [step.config for step in trace.ended(COMPLETE)]
    return Found({i: costs.values[i, order[:1]] for i in whole}, {i: [order[0]] for i in whole})


def repeat(table, costs, found: Found, order, epochs: int, rule, rng) -> int:
    """Spend ``epochs`` on candidates, one full training after the other; returns the epochs that were spent."""
    spent, unstable = 0, set()
    while spent + table.budget <= epochs:
        able = [i for i in found.values if len(found.seeds[i]) < len(order) - 3 and i not in unstable]
        if not able:
            break
        i = rule(found, able, rng)
        seed = order[len(found.seeds[i])]
        found.seeds[i].append(seed)
        spent += table.budget
        if np.isnan(costs.values[i, seed]).any():
            unstable.add(i)
            del found.values[i]
            continue
        found.values[i] = np.concatenate([found.values[i], costs.values[i, [seed]]])
    return spent


# --- which configuration is trained again ---


def fewest(found, able, rng):
    """Of the front by estimates those with the fewest seeds, then the likeliest member."""
    keys = list(found.values)
    made = estimates.estimate([found.values[i] for i in keys])
    chance = dict(zip(keys, estimates.membership(made, (1, 1), seed=int(rng.integers(2**31)))))
    members = {i for i, on in zip(keys, front(made.mean)) if on} & set(able) or set(able)
    return min(members, key=lambda i: (len(found.seeds[i]), -chance[i]))


def unsure(found, able, rng):
    """Where membership is least sure, per training that is there already."""
    keys = list(found.values)
    made = estimates.estimate([found.values[i] for i in keys])
    chance = dict(zip(keys, estimates.membership(made, (1, 1), seed=int(rng.integers(2**31)))))
    return max(able, key=lambda i: (chance[i] * (1 - chance[i]) / len(found.seeds[i]), chance[i]))


def likely(found, able, rng):
    """The likeliest member, per training that is there already."""
    keys = list(found.values)
    made = estimates.estimate([found.values[i] for i in keys])
    chance = dict(zip(keys, estimates.membership(made, (1, 1), seed=int(rng.integers(2**31)))))
    return max(able, key=lambda i: chance[i] / len(found.seeds[i]))


def raw_front(found, able, rng):
    """Of the front by means those with the fewest seeds."""
    keys = list(found.values)
    members = {i for i, on in zip(keys, front([found.values[i].mean(axis=0) for i in keys])) if on} & set(able) or set(
        able
    )
    return min(members, key=lambda i: (len(found.seeds[i]), rng.random()))


RULES = {"fewest": fewest, "unsure": unsure, "likely": likely, "raw front": raw_front}


# --- what is claimed ---


def raw(found):
    """The front of the means: what every other search says."""
    keys = list(found.values)
    claimed = np.array([found.values[i].mean(axis=0) for i in keys])
    on = front(claimed)
    return [i for i, member in zip(keys, on) if member], claimed[on], None


def shrunk(found, least=1):
    """The front of the estimates among those with at least ``least`` seeds (where there are any)."""
    keys = list(found.values)
    made = estimates.estimate([found.values[i] for i in keys])
    enough = np.array([len(found.values[i]) >= least for i in keys])
    if not enough.any():
        enough[:] = True
    on = np.zeros(len(keys), bool)
    on[np.flatnonzero(enough)[front(made.mean[enough])]] = True
    half = student.ppf(0.975, made.freedom) * made.sd
    return [i for i, member in zip(keys, on) if member], made.mean[on], half[on]


CLAIMS = {"raw": raw, "shrunk": shrunk, "shrunk, 2 seeds": partial(shrunk, least=2)}


def score(costs, found, claim) -> list[float]:
    """In the order of COLUMNS."""
    members, claimed, half = claim(found)
    true, everyone = costs.true(members, found.seeds), list(found.values)
    whole = front(costs.true(everyone, found.seeds))
    best = {i for i, member in zip(everyone, whole) if member}
    within = [np.nan] * 2 if half is None else (np.abs(true - claimed) <= half).mean(axis=0)
    return [
        *(true - claimed).mean(axis=0),
        front(true).mean(),
        np.mean([i in best for i in members]),
        hypervolume(true, REFERENCE),
        len(members),
        *within,
    ]


CONTENDERS = {
    "Ray OptunaSearch": lambda t, s, _: (RayOptuna(GridSpace(t.points), s), NeverStop()),
    "TPE, none stopped": lambda t, s, _: (study(t, s), NeverStop()),
    "TPE + ASHA on accuracy": lambda t, s, _: (study(t, s), RayAsha("val_accuracy", t.budget)),
    "ours": lambda t, s, space: (study(t, s, space=space), Ours(t.guess)),
}
read = cache(Table.read)
costs_of = cache(lambda path: Costs(read(path)))


def run(job, path: Path, data: str) -> dict:
    """One search of one contender with a share of its epochs for candidates by one rule, and each claim's score."""
    name, share, rule, trials, seed = job
    table, costs = read(path), costs_of(path)
    rng = np.random.default_rng(seed)
    order = list(rng.permutation(len(table.seeds)))
    total = trials * table.budget
    found = explore(table, costs, *CONTENDERS[name](table, seed, SPACE[data]), order, round(total * (1 - share)))
    if share and found.values:
        repeat(table, costs, found, order, round(total * share), RULES[rule], rng)
    result = {"name": name, "share": share, "rule": rule}
    return [
        result | {"claim": claim} | dict(zip(COLUMNS, score(costs, found, CLAIMS[claim])))
        for claim in CLAIMS
        if found.values
    ]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(SPACE), default="digits_seeds")
    p.add_argument("--path", type=Path, help="another table, or a folder of parts")
    p.add_argument("--repeats", type=int, default=200)
    p.add_argument("--trials", type=int, default=24)
    p.add_argument("--rules", action="store_true")
    p.add_argument("--workers", type=int, default=os.cpu_count())
    args = p.parse_args()
    path = args.path or Path(__file__).parent / "data" / f"{args.data}.parquet"
    if args.rules:
        settings = [("ours", share, rule) for share in (0.125, 0.25, 0.375, 0.5) for rule in RULES]
    else:
        settings = [*((name, 0.0, "") for name in CONTENDERS), ("ours", 0.25, "fewest")]
    jobs = [(*setting, args.trials, seed) for setting in settings for seed in range(args.repeats)]
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        rows = list(itertools.chain(*pool.imap_unordered(partial(run, path=path, data=args.data), jobs, chunksize=5)))
    frame = pd.DataFrame(rows)
    grouped = frame.groupby(["name", "share", "rule", "claim"], sort=False)[list(COLUMNS)]
    print(grouped.mean().round(4).to_string())
    print((1.96 * grouped.sem()).round(4).to_string())


if __name__ == "__main__":
    main()
