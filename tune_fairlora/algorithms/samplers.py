"""SAMPLERS: how the next point is chosen. Each entry makes an Optuna sampler from a seed; a grid is the space's.

The names stand in ``plan/options.py`` too (SAMPLER_NAMES), so that ``--help`` needs no Optuna. A sampler is
made anew for each point, so that a resumed search goes on as it would have: it keeps no state.
"""

from collections.abc import Callable
from warnings import catch_warnings, simplefilter

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler


def _tpe(seed: int) -> TPESampler:
    # `group` samples the parameters of each method jointly although the methods' sets differ; `constant_liar` keeps
    # trials that run side by side apart.
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int) -> GPSampler:
    # The Gaussian process models what all trials share; TPE draws what only some methods have.
    return GPSampler(seed=seed, independent_sampler=_tpe(seed), deterministic_objective=False)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "gp": _gp,
    "grid": lambda seed: RandomSampler(seed=seed),  # never asked: every point of a grid is enqueued
}


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The Optuna sampler called ``name``, whose randomness is ``seed`` alone."""
    with catch_warnings():
        simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed % 2**32)  # numpy's legacy generator takes 32 bits
