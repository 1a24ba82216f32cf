"""What configurations are worth: means over training seeds, shrunk towards what such configurations have.

One training says little of its configuration, and a front is chosen from many: whoever stands on it had luck, too (the
winner's curse). Empirical Bayes takes the expected luck off again. Of each objective apart, training s of configuration
i measures y_is ~ N(θ_i, σ²), and configurations are spread as θ_i ~ N(μ, τ²). The estimate of θ_i is
μ + B_i (mean_s y_is - μ) with B_i = τ² / (τ² + σ² / n_i): with one seed it is drawn most.

σ² is what the search has seen: pooled over the configurations that were trained more than once, together with a guess,
``PRIOR_SHARE`` of the spread, that counts as much as ``PRIOR_FREEDOM`` of their differences. μ and τ² are robust (the
median, and the median absolute deviation less the noise), as a few bad configurations would else make every difference
look real. The interval keeps the whole σ / √n, unshrunk, and Student's t at few degrees of freedom: the prior is a
guess itself, and some configurations are noisier than others. On recorded curves it holds what it says
(``tests/benchmarks/front_truth.py``).

Source: Efron and Morris 1973, "Stein's estimation rule and its competitors: an empirical Bayes approach".
"""

from dataclasses import dataclass

import numpy as np

from analysis.pareto import front

PRIOR_SHARE = 0.5  # of the robust variance between trainings of different configurations: how much of it is noise
PRIOR_FREEDOM = 4  # degrees of freedom that this guess counts for, and σ² in the interval of a single training
LEAST_SPREAD = 0.3  # of the robust standard deviation is the configurations' own, whatever the noise
FEW = 4  # configurations, of which a spread means something: fewer are not drawn
LEVEL = 0.95


@dataclass(frozen=True)
class Estimates:
    """Of c configurations and m objectives, in the units and directions that ``estimate`` was given."""

    mean: np.ndarray  # float [c, m], shrunk
    error: np.ndarray  # float [c, m], the standard error of a mean over seeds: σ / √n
    noise: np.ndarray  # float [m], σ: how far one training is from its configuration's mean
    freedom: np.ndarray  # float [c], degrees of freedom of ``error``

    @property
    def half(self) -> np.ndarray:
        """Half of the interval of ``LEVEL`` around ``mean``, ``[c, m]``: of other seeds, on the same images."""
        from scipy.stats import t as student  # takes a second to import, and the search itself needs no interval

        return student.ppf((1 + LEVEL) / 2, self.freedom)[:, None] * self.error


def estimate(values: np.ndarray, configuration: np.ndarray) -> Estimates:
    """The worth of each configuration, from single trainings: finite ``values`` ``[n, m]``, and for each training which
    configuration it is of, an int ``[n]`` that takes every value of 0 … c - 1.

    Shrinkage keeps the order of configurations with equally many seeds. Fewer than ``FEW`` say too little of each
    other: they are worth their own means, and nothing is known of the noise (NaN) unless some were repeated.
    """
    counts = np.bincount(configuration).astype(float)
    means = _sums(values, configuration) / counts[:, None]
    squares = ((values - means[configuration]) ** 2).sum(axis=0)
    centre = np.median(means, axis=0)
    spread, plain = (1.4826 * np.median(np.abs(means - centre), axis=0)) ** 2, means.var(axis=0)
    spread = np.where(spread > 1e-9 * plain, spread, plain)  # where most are equal, their median deviation says nothing
    prior, seen = PRIOR_FREEDOM if len(means) >= FEW else 0, (counts - 1).sum()
    noise = (prior * PRIOR_SHARE * spread + squares) / (prior + seen) if prior + seen else np.full_like(spread, np.nan)
    own = np.maximum(spread - noise * np.mean(1 / counts), LEAST_SPREAD**2 * spread)
    error = noise / counts[:, None]
    share = np.divide(own, own + error, out=np.ones_like(means), where=own + error > 0)
    mean = centre + share * (means - centre) if len(means) >= FEW else means
    freedom = prior + counts - 1 if prior else np.full_like(counts, seen)
    return Estimates(mean, np.sqrt(error), np.sqrt(noise), freedom)


def _sums(values: np.ndarray, configuration: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(configuration, column) for column in values.T], axis=1)


def eligible(able: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """Which configurations may stand on the front, bool ``[c]``: those that are ``able``, and, once one of these was
    ``repeated``, only those that were. One lucky training must not stand beside the mean of several."""
    return able & repeated if (able & repeated).any() else able


def standing(costs: np.ndarray, able: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """The front of the ``eligible`` of the estimates ``costs`` ``[c, m]``, to be minimised: bool ``[c]``."""
    among = eligible(able, repeated)
    members = np.zeros(len(costs), bool)
    members[among] = front(costs[among])
    return members


def membership(draws: np.ndarray) -> np.ndarray:
    """How probably each configuration is non-dominated, float ``[c]``: in which share of ``draws`` ``[d, c, m]`` of
    their costs, to be minimised, it is on the front."""
    return np.mean([front(costs) for costs in draws], axis=0)


def seed_draws(costs: np.ndarray, error: np.ndarray, draws: int = 400, seed: int = 0) -> np.ndarray:
    """``draws`` of costs ``[c, m]`` with standard errors ``error``, all apart from each other: float ``[d, c, m]``."""
    return costs + np.random.default_rng(seed).standard_normal((draws, *costs.shape)) * error
