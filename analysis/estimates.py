"""What configurations are worth: means over training seeds, shrunk towards what such configurations have.

One training says little of its configuration, and a front is chosen from many: whoever stands on it had luck, too (the
winner's curse). Empirical Bayes takes the expected luck off again. Of each objective apart, training s of configuration
i measures y_is ~ N(θ_i, σ²), and configurations are spread as θ_i ~ N(μ, τ²). The estimate of θ_i is
μ + B_i (mean_s y_is - μ) with B_i = τ² / (τ² + σ² / n_i): with one seed it is drawn most.

σ² is what the search has seen: pooled over the configurations that were trained more than once, together with a guess
of ``PRIOR_SHARE`` of the spread that counts as much as ``PRIOR_TRAININGS`` of them. μ and τ² are robust (median, and
median absolute deviation less the noise), as a few bad configurations would else make every difference look real.

Source: Efron and Morris 1973, "Stein's estimation rule and its competitors: an empirical Bayes approach".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRIOR_SHARE = 0.5  # of the robust variance between trainings of different configurations: how much of it is noise
PRIOR_TRAININGS = 4
LEAST_SPREAD = 0.3  # of the robust standard deviation is the configurations' own, whatever the noise


@dataclass(frozen=True)
class Estimates:
    """Of c configurations and m objectives, in the units and directions given.

    Attributes:
        mean: float ``[c, m]``, shrunk.
        sd: float ``[c, m]``, of the mean: how far the configuration's true mean over seeds may be from it.
        noise: float ``[m]``, the standard deviation of one training around its configuration's mean.
        freedom: The degrees of freedom of ``noise``.
    """

    mean: np.ndarray
    sd: np.ndarray
    noise: np.ndarray
    freedom: float


def estimate(trainings: Sequence[np.ndarray]) -> Estimates:
    """The worth of each configuration from ``trainings``, a finite float array ``[seeds, m]`` each; c and seeds >= 1.

    A lone configuration is worth its own mean.
    """
    counts = np.array([len(values) for values in trainings], float)[:, None]
    means = np.array([values.mean(axis=0) for values in trainings])
    centre = np.median(means, axis=0)
    spread = (1.4826 * np.median(np.abs(means - centre), axis=0)) ** 2
    within = sum((((values - values.mean(axis=0)) ** 2).sum(axis=0) for values in trainings), np.zeros(means.shape[1]))
    freedom = PRIOR_TRAININGS + float((counts - 1).sum())
    noise = (PRIOR_TRAININGS * PRIOR_SHARE * spread + within) / freedom
    own = np.maximum(spread - noise * np.mean(1 / counts), LEAST_SPREAD**2 * spread)
    total = own + noise / counts
    share = np.divide(own, total, out=np.ones_like(total), where=total > 0)
    return Estimates(centre + share * (means - centre), np.sqrt(share * noise / counts), np.sqrt(noise), freedom)


def membership(estimates: Estimates, signs: Sequence[float], draws: int = 400, seed: int = 0) -> np.ndarray:
    """How probably each configuration is non-dominated, float ``[c]``: its share of ``draws`` from the estimates.

    ``signs`` turn each objective into a cost.
    """
    from analysis.pareto import front

    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((draws, *estimates.mean.shape))
    points = (estimates.mean + noise * estimates.sd) * signs
    return np.mean([front(each) for each in points], axis=0)
