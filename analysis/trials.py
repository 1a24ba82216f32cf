"""``trials.parquet`` of a search as one checked DataFrame."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

REQUIRED = ("number", "config_id", "seed", "status", "method", "on_front")


@dataclass(frozen=True)
class Search:
    """A finished or running search: ``trials`` has a row a trial, ``epochs`` a row an epoch of a trial.

    ``objectives`` and ``directions`` ("maximize" or "minimize") stand in the search's order. Trial n is one of
    ``seeds`` repetitions of configuration n // ``seeds``. All metrics are of the validation split.
    """

    name: str
    objectives: list[str]
    directions: list[str]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    seeds: int = 1


def read(folder: str | Path) -> Search:
    """Read the search in ``folder``. Raises ValueError naming the file or the column that is missing."""
    folder = Path(folder)
    for name in ("search.json", "trials.parquet", "epochs.parquet"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} must be the folder of a search, but has no {name}")
    settings = json.loads((folder / "search.json").read_text())
    trials = pd.read_parquet(folder / "trials.parquet")
    missing = [column for column in (*REQUIRED, *settings["objectives"]) if column not in trials]
    if missing:
        raise ValueError(f"{folder / 'trials.parquet'} must have the column {missing[0]}, but has not")
    epochs = pd.read_parquet(folder / "epochs.parquet")
    return Search(
        settings["name"], settings["objectives"], settings["directions"], trials, epochs, settings.get("seeds", 1)
    )
