"""``trials.parquet`` of a search as one checked DataFrame."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.record_format import upgraded

REQUIRED = ("number", "config_id", "seed", "status", "method", "on_front")
CONFIRMED, CONFIRMATION = "confirmed.parquet", "confirm"  # a table, and the folder with the fresh trainings' record
FRESH = "train, fresh seed"  # ``trained_on`` of these
SEARCH_VARIABLE = "TUNE_FAIRLORA_SEARCH"  # of the environment: the folder that the notebooks look at
RUNS = (Path("runs"), Path(__file__).resolve().parent.parent / "runs")  # from the current folder, from the project's


class NothingToShow(ValueError):
    """A search lacks what a figure or a table shows: too few trials, no such method. The message says what."""


@dataclass(frozen=True, eq=False)
class Search:
    """A finished or running search: ``trials`` has a row a trial, ``epochs`` a row an epoch of a trial.

    ``objectives`` and ``directions`` ("maximize" or "minimize") stand in the search's order. Trials of one
    ``config_id`` are one configuration, which is complete with at least ``seeds`` of them. All metrics are of the
    validation split, but for those of ``confirmed``: a row a trial measured on the test split, empty where none was.
    ``settings`` are ``search.json``'s.
    """

    name: str
    objectives: list[str]
    directions: list[str]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    seeds: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    confirmed: pd.DataFrame = field(default_factory=pd.DataFrame)
    folder: Path | None = None  # where it was read from

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by index."""
        return list(self.settings.get("classes", ()))


def read(folder: str | Path) -> Search:
    """Read the search in ``folder``. Raises ValueError naming the file or the column that is missing."""
    folder = Path(folder)
    for name in ("search.json", "trials.parquet", "epochs.parquet"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} must be the folder of a search, but has no {name}")
    settings = upgraded(json.loads((folder / "search.json").read_text()))
    trials = pd.read_parquet(folder / "trials.parquet")
    missing = [column for column in (*REQUIRED, *settings["objectives"]) if column not in trials]
    if missing:
        raise ValueError(f"{folder / 'trials.parquet'} must have the column {missing[0]}, but has not")
    name, objectives, directions = (settings[key] for key in ("name", "objectives", "directions"))
    epochs, seeds = pd.read_parquet(folder / "epochs.parquet"), settings.get("seeds", 1)
    return Search(name, objectives, directions, trials, epochs, seeds, settings, confirmed(folder), folder)


def confirmed(folder: Path) -> pd.DataFrame:
    """What was measured on the test split for the search in ``folder``; empty where nothing was."""
    return pd.read_parquet(folder / CONFIRMED) if (folder / CONFIRMED).is_file() else pd.DataFrame()


def newest() -> Path:
    """The search to look at: the folder that ``TUNE_FAIRLORA_SEARCH`` names, else the newest in ``runs/`` of the
    current folder or of the project. Raises ValueError where there is none."""
    if os.environ.get(SEARCH_VARIABLE):
        return Path(os.environ[SEARCH_VARIABLE])
    tables = [path for runs in RUNS for path in runs.glob("*/trials.parquet")]
    if not tables:
        raise ValueError(f"there is no search in runs/: set {SEARCH_VARIABLE} to the folder of one")
    return max(tables, key=lambda path: path.stat().st_mtime).parent
