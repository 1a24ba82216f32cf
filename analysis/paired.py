"""Differences of configurations that are equal in all but one thing: with intervals, and a test of their mean.

Best against best picks winners, and the method that was given more configurations has more luck. A pair is found by
hyperparameters alone, never by results: without an effect its difference is as likely positive as negative, whichever
configurations were stopped and whichever were trained again. Both of a pair are compared with the training seeds that
they have in common, on the same validation images.

The seeds' variance is what was seen of it in this search: between a pair's differences with one seed and another, and
between the pairs' differences beyond their mean. Where these are few, it is that between trainings of one
configuration, of all that were repeated: it is larger, as they do not share the seed. No prior stands in, as a guess
would decide the test where little was repeated. The images' variance is a bootstrap's, on which both of a pair see the
same images; part of it is the seeds' again, so that both together are rather too wide.
``tests/analysis/test_paired.py`` simulates searches without an effect: the 5 % hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import configurations
from analysis.claims import DRAWS, image_shifts
from analysis.estimates import LEVEL
from analysis.results import Search

ENOUGH = 4  # degrees of freedom of the pairs' own variance, from which on they are enough
LEAST = 2  # degrees of freedom, below which an interval says nothing

Pair = tuple[str, str]  # config_ids of a configuration and of the one that is subtracted


@dataclass(frozen=True)
class Difference:
    """``value`` ± ``half`` (95 %), and the two-sided ``p`` of no difference at all; both NaN where too little was
    trained to know. ``pairs`` counts those with a common seed; ``with_images``: other images are allowed for, too."""

    value: float
    half: float
    p: float
    pairs: int
    with_images: bool


class Paired:
    """All ``pairs`` of ``search``, compared in one ``metric``. Pairs that share their second configuration are one
    block: its difference is the mean of theirs, so that the shared training counts once."""

    def __init__(self, search: Search, metric: str, pairs: Sequence[Pair]):
        trials = configurations.trainings(search)
        trials = trials[np.isfinite(trials[metric].astype(float))]
        self.search, self.metric, self.values = search, metric, trials[metric].to_numpy(float)
        self.numbers = trials["number"].tolist()
        self.places: dict[str, dict[int, int]] = {}  # of each training: config_id -> seed -> index of its value
        for place, (config, seed) in enumerate(zip(trials["config_id"], trials["seed"])):
            self.places.setdefault(config, {})[seed] = place
        self.noise, self.freedom = self._noise(pairs)

    def difference(self, pairs: Sequence[Pair]) -> Difference:
        """The mean over the blocks of ``pairs``; NaN where none has a common seed."""
        from scipy.stats import t as student  # takes a second to import

        blocks = self._blocks(pairs)
        count = sum(map(len, blocks.values()))
        if not count:
            return Difference(np.nan, np.nan, np.nan, 0, False)
        weights = self._contrasts(blocks).mean(axis=0)
        value, seeds = float(weights @ self.values), self.noise * (weights**2).sum()
        moved = np.zeros(DRAWS)
        for place in np.flatnonzero(weights):
            shift = image_shifts(self.search, self.numbers[place]).get(self.metric)
            moved = moved + weights[place] * (np.nan if shift is None else shift)
        with_images = bool(np.isfinite(moved).all())
        images = moved.var() if with_images else 0.0
        if self.freedom < LEAST or seeds <= 1e-18:  # equal but for rounding: that is no noise
            return Difference(value, np.nan, np.nan, count, with_images)
        freedom = self.freedom * (1 + images / seeds) ** 2  # Welch and Satterthwaite: the images' is known well
        error = np.sqrt(seeds + images)
        half, p = student.ppf((1 + LEVEL) / 2, freedom) * error, 2 * student.sf(abs(value) / error, freedom)
        return Difference(value, float(half), float(p), count, with_images)

    def _noise(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """The variance of one training as far as a pair does not share it, and its degrees of freedom."""
        blocks = self._blocks(pairs)
        between, squares, freedom = 0.0, 0.0, 0
        if blocks:
            contrasts = self._contrasts(blocks)
            differences, scale = contrasts @ self.values, (contrasts**2).sum(axis=1)
            between = ((differences - np.average(differences, weights=1 / scale)) ** 2 / scale).sum()
        for plain, others in blocks.items():
            seeds = sorted(set.intersection(*(set(self.places[config]) for config in (plain, *others))))
            each = [np.mean([self._contrast(other, plain, [seed]) for other in others], axis=0) for seed in seeds]
            if each:
                squares += _squares(np.array(each) @ self.values) / (each[0] ** 2).sum()
                freedom += len(each) - 1
        independent = max(len(blocks) - 1, 0)
        if freedom + independent < ENOUGH:  # the same trainings count once: instead of the pairs' seeds, everyone's
            own = [self.values[list(places.values())] for places in self.places.values()]
            squares, freedom = sum(map(_squares, own)), len(self.values) - len(own)
        freedom += independent
        return ((squares + between) / freedom if freedom else np.nan), freedom

    def _blocks(self, pairs: Sequence[Pair]) -> dict[str, list[str]]:
        """Second configuration -> first ones, of the pairs that have a common seed."""
        blocks: dict[str, list[str]] = {}
        for first, second in pairs:
            if self._common(first, second):
                blocks.setdefault(second, []).append(first)
        return blocks

    def _common(self, first: str, second: str) -> list[int]:
        return sorted(self.places.get(first, {}).keys() & self.places.get(second, {}).keys())

    def _contrasts(self, blocks: dict[str, list[str]]) -> np.ndarray:
        """The weight of each training in the difference of each block, ``[blocks, trainings]``."""
        pairs = ([(first, second) for first in others] for second, others in blocks.items())
        return np.array([np.mean([self._contrast(*p, self._common(*p)) for p in each], axis=0) for each in pairs])

    def _contrast(self, first: str, second: str, seeds: Sequence[int]) -> np.ndarray:
        row = np.zeros(len(self.values))
        row[[self.places[first][seed] for seed in seeds]] = 1 / len(seeds)
        row[[self.places[second][seed] for seed in seeds]] = -1 / len(seeds)
        return row


def _squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())
