"""What a search claims of its configurations, and how sure that is: values, intervals, chances to be on the front.

Two kinds of luck are in what one training measures. Other seeds would give other models: ``estimates`` says by how
much. Other images like these would give other numbers: the validation images are drawn anew with replacement (Efron
1979), the same for all configurations, so that what they share cancels where they are compared. Both together make
the intervals and, in draws of the whole search, the chance of each configuration to be non-dominated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import configurations, labels, predictions
from analysis.estimates import LEVEL, Estimates, eligible, estimate, membership, seed_draws
from analysis.pareto import SIGNS
from analysis.results import Search

DRAWS = 400
HOPELESS = 0.01  # a chance over seeds, below which images are not drawn: a large search has many configurations
STANDS = 0.5


@dataclass(frozen=True, eq=False)
class Claims:
    """``rows``: those of ``configurations.complete`` that have finite objectives, indexed from 0, with

    - ``<objective>_claimed``: the shrunk mean, and ``<objective>_half``, half of its 95 % interval;
    - ``eligible``: whether it may stand on a front or be picked: it keeps the constraints, and was trained again if any
      that keeps them was by the search (``estimates.standing``);
    - ``chance``: of being non-dominated among those that keep the constraints; 0 for one that does not;
    - ``with_images``: whether both speak of other images, too (a search before format 4 kept no predictions).

    Fewer than ``FEW`` configurations that were trained once each say too little of each other: halves and chances are
    NaN.
    """

    search: Search
    rows: pd.DataFrame
    draws: np.ndarray  # [d, c, m], in the user's directions
    freedom: np.ndarray  # [c, m], of the intervals

    @property
    def known(self) -> bool:
        return len(self.rows) > 0 and bool(self.rows["chance"].notna().all())

    @property
    def front(self) -> pd.DataFrame:
        """The rows on the front, best first objective first."""
        members, first = self.rows[self.rows["on_front"].astype(bool)], self.search.objectives[0]
        cost = members[f"{first}_claimed"] * SIGNS[self.search.directions[0]]
        return members.loc[cost.to_frame("cost").assign(n=members["number"]).sort_values(["cost", "n"]).index]

    @property
    def luck(self) -> str:
        """What the front's intervals and chances are of, in words."""
        return "other seeds and images" if self.front["with_images"].all() else "other seeds"

    def told_apart(self, i: int, j: int) -> bool:
        """Whether rows ``i`` and ``j`` differ in any objective by more than luck explains."""
        difference = self.draws[:, i] - self.draws[:, j]
        freedom = np.minimum(self.freedom[i], self.freedom[j])
        return bool((np.abs(difference.mean(axis=0)) > _quantile(freedom) * difference.std(axis=0)).any())

    def bands(self) -> list[list[int]]:
        """Indices of the front's rows in its order: neighbours that cannot be told apart share a list."""
        bands: list[list[int]] = []
        for index in self.front.index:
            if bands and not self.told_apart(bands[-1][-1], index):
                bands[-1].append(index)
            else:
                bands.append([index])
        return bands

    def verdict(self) -> list[str]:
        """In words: how many points of the front stand, and which cannot be told apart. Empty where too little is
        known."""
        rows = self.front
        if not self.known or rows.empty:
            return []
        standing = int((rows["chance"] >= STANDS).sum())
        lines = [
            f"{standing} of {len(rows)} points of the front stand: with {self.luck} they would be on it more often "
            "than not"
        ]
        bands = [_listed(rows.loc[band, "number"]) for band in self.bands() if len(band) > 1]
        if bands and not any(self.told_apart(i, j) for i, j in combinations(rows.index, 2)):
            lines.append("no two of its points can be told apart: choose by what else matters")
        elif bands:
            lines.append(f"neighbours that cannot be told apart: trials {'; trials '.join(bands)}")
        return lines

    def sentences(self) -> list[str]:
        """``verdict`` as sentences."""
        return [labels.sentence(line) for line in self.verdict()]


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _quantile(freedom: np.ndarray) -> np.ndarray:
    from scipy.stats import t as student  # takes a second to import, and the search itself needs no interval

    return np.asarray(student.ppf((1 + LEVEL) / 2, freedom))


def interval(found: Estimates, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom and half of the interval around each estimate, ``[c, m]``, where other images alone move it
    with the variance ``images``."""
    seeds = found.error**2
    # Welch and Satterthwaite: degrees of freedom of a sum of variances, of which the images' is known well.
    freedom = np.divide((seeds + images) ** 2 * found.freedom[:, None], seeds**2, where=seeds > 0, out=seeds * 0 + 1e6)
    return freedom, _quantile(freedom) * np.sqrt(seeds + images)


@lru_cache(maxsize=8)  # several tables and figures of a report need them
def claims(search: Search) -> Claims:
    """What is claimed of each complete configuration of ``search``."""
    names = search.objectives
    rows = configurations.complete(search)
    rows = rows[np.isfinite(rows[names].astype(float)).all(axis="columns")].reset_index(drop=True)
    trials = configurations.trainings(search)
    trials = trials[trials["config_id"].isin(rows["config_id"])]
    of = pd.Index(rows["config_id"]).get_indexer(trials["config_id"])
    if rows.empty:
        empty = np.empty((0, len(names)))
        found = Estimates(empty, empty, empty, np.empty(0))
    else:
        found = estimate(trials[names].to_numpy(float), of)
    signs = [SIGNS[direction] for direction in search.directions]
    able, repeated = rows["feasible"].to_numpy(bool), np.zeros(len(rows), bool)
    if search.settings.get("reseed", 0) > 0 and "repeats" in trials:
        repeated = rows["config_id"].isin(trials.loc[trials["repeats"].notna(), "config_id"]).to_numpy(bool)
    draws = seed_draws(found.mean, found.error, DRAWS)
    chance = np.zeros(len(rows))
    if able.any():
        chance[able] = membership(draws[:, able] * signs)
    moved, with_images = np.zeros_like(draws), np.zeros(len(rows), bool)
    hopeful = able & ((chance >= HOPELESS) | rows["on_front"].to_numpy(bool))
    for row in np.flatnonzero(hopeful):
        shift = image_shift(search, trials.loc[of == row, "number"].tolist())
        if shift is not None:
            moved[:, row], with_images[row] = shift, True
    draws = draws + moved
    if with_images.any():  # the hopeless stay where they are, and would win where images make all others worse
        chance[hopeful] = membership(draws[:, hopeful] * signs)
    freedom, half = interval(found, moved.var(axis=0))
    few = len(rows) > 0 and bool(np.isnan(found.error).any())
    for i, name in enumerate(names):
        rows[f"{name}_claimed"], rows[f"{name}_half"] = found.mean[:, i], np.nan if few else half[:, i]
    rows["eligible"] = eligible(able, repeated)
    rows["chance"], rows["with_images"] = np.nan if few else chance, with_images
    return Claims(search, rows, draws, freedom)


def image_shift(search: Search, trials: Sequence[int]) -> np.ndarray | None:
    """How far the mean of ``trials`` moves in each objective with the images, ``[DRAWS, m]``; None where the search has
    not kept what any of them said of each image."""
    each = [image_shifts(search, number) for number in trials]
    if not all(each):
        return None
    return np.mean([np.stack([moved[name] for name in search.objectives], axis=1) for moved in each], axis=0)


@lru_cache(maxsize=512)  # a trial is claimed, and is in several pairs
def image_shifts(search: Search, number: int) -> dict[str, np.ndarray]:
    """``shifts`` of a trial; {} where the search has not kept what it said of the images."""
    sample = predictions.of_trial(search, number)
    return shifts(sample) if sample else {}


def shifts(sample: predictions.Sample) -> dict[str, np.ndarray]:
    """How far each metric moves with the images, ``[DRAWS]``, the same draws for all samples of the same images."""
    moved = {}
    for name, values in sample.draws(DRAWS).items():
        present = values[np.isfinite(values)]  # a class may be missing in some draws
        moved[name] = np.nan_to_num(values - present.mean()) if len(present) else np.zeros(DRAWS)
    return moved
