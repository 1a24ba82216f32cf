"""One trial of a finished search as an export tells of it: how its images were made, what was measured, its place."""

import math
from collections.abc import Sequence
from pathlib import Path

from trainables.config import ConfigError, TrainConfig
from trainables.metrics import METRICS, OBJECTIVES
from tune_fairlora.record.search_folder import Finished

COLUMNS = {
    "by_class": ("count", "recall", "precision", "f1", "loss"),
    "by_group": ("count", "accuracy", "macro_f1", "eod"),
}


def preprocessing(settings: dict, config: TrainConfig) -> dict:
    """How the search's images came from files: rows cut off below, and the sides that they were resized to in turn."""
    from trainables.prepare import aircraft, prepared

    source, size = settings.get("options", {}).get("data"), config.image_size
    banner = aircraft.BANNER if config.data == "aircraft" else 0
    if Path(settings["store"]).name == prepared.STORE or len(settings["data_fingerprint"]) < 64:
        return {"banner": banner, "sizes": [size]}
    if not source or not prepared.is_prepared(source):  # the store is a smaller copy of one made by `prepare`
        raise ConfigError(f"the prepared images are gone from {source}, and with them their size: put them there again")
    return {"banner": banner, "sizes": [prepared.read_manifest(source)["size"], size]}


def results(done: Finished, number: int, why: str) -> dict:
    """``metrics.json``: the validation numbers by class and group, the trial's place on the front, and what ``confirm``
    measured on the test split, if it did. A value that nothing supports is null."""
    trial, settings = done.state.trials[number], done.settings
    metrics = {name: trial.metrics.get(f"val_{name}", math.nan) for name in METRICS}
    validation = {
        "metrics": metrics,
        "by_class": rows(trial.tables.get("by_class", {}), settings["classes"], COLUMNS["by_class"]),
        "by_group": rows(trial.tables.get("by_group", {}), settings["groups"], COLUMNS["by_group"]),
        "confusion": trial.tables.get("confusion", []),
    }
    made = {
        "trial": number,
        "chosen": why,
        "validation": validation,
        "test": _confirmed(done, number, "train"),
        "test_of_a_refit_on_train_and_val": _confirmed(done, number, "trainval"),
        "front": _front(done, number),
    }
    return without_nan(made)


def rows(table: dict[str, list], names: Sequence[str], columns: Sequence[str]) -> list[dict]:
    """A by-class or by-group table (a list a column) as a row a name, with those of ``columns`` that it has."""
    present = [column for column in columns if column in table]
    return [{"name": name, **{c: table[c][i] for c in present}} for i, name in enumerate(names)] if present else []


def _confirmed(done: Finished, number: int, trained_on: str) -> dict | None:
    path = done.folder / "confirmed.parquet"
    if not path.is_file():
        return None
    import pandas as pd

    table = pd.read_parquet(path)
    for row in table[(table["number"] == number) & (table["trained_on"] == trained_on)].to_dict("records"):
        groups = {name: row.get(f"test_group_accuracy[{name}]", math.nan) for name in done.settings["groups"]}
        metrics = {name: row.get(f"test_{name}", math.nan) for name in METRICS}
        return {"metrics": metrics, "by_group": [{"name": k, "accuracy": v} for k, v in groups.items()]}
    return None


def _front(done: Finished, number: int) -> dict:
    state = done.state
    points = [
        {"trials": numbers, **dict(zip(state.objectives, state.values(numbers).tolist()))}
        for numbers in state.front_points()
    ]
    return {
        "member": number in state.front(),
        "trials": len(state.trials),
        "complete": state.count("complete"),
        "seeds": state.seeds,
        "objectives": {name: OBJECTIVES[name] for name in state.objectives},
        "points": points,
    }


def without_nan(value):
    """Plain values with null where JSON has no number."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
