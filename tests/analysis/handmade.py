"""A search made by hand, as ``analysis.results`` would read it."""

import pandas as pd

from analysis.results import REQUIRED, Search
from trainables.config import TrainConfig
from trainables.metrics import METRICS

OBJECTIVES = {"val_accuracy": "maximize", "val_delta_f1": "minimize"}
HOSTILE = ("<script>alert(1)</script>", "=cmd()")
NAME = "<img src=x onerror=alert(1)> $x_{$ & = 'run'"  # a folder may be called so


def trial(number: int, method: str = "lora", status: str = "complete", on_front: bool = False, **values) -> dict:
    """A row of trials.parquet: hyperparameters that the method has, every metric 0.5 but those given (``val_…``).

    With ``repeats``, the trial trains the configuration of the trial of that number again.
    """
    metrics = {f"val_{name}": 0.5 for name in METRICS} | {k: v for k, v in values.items() if k.startswith("val_")}
    own = ("epochs_trained", "feasible", "repeats")
    given = {k: v for k, v in values.items() if not k.startswith("val_") and k not in own}
    config = TrainConfig(method=method, **given)
    row = {"number": number, "config_id": config.config_id, "status": status, "on_front": on_front, "reason": ""}
    row |= {"epochs_trained": values.get("epochs_trained", config.epochs), "feasible": values.get("feasible", True)}
    row |= {"repeats": values["repeats"]} if "repeats" in values else {}
    return {**config.hyperparameters(), **row, **metrics}


def search(*rows: dict, seeds: int = 1, objectives=OBJECTIVES, confirmed=(), **settings) -> Search:
    """A search of ``rows`` with the classes "0" to "9"."""
    names = list(objectives)
    described = {"name": "s", "objectives": names, "classes": [str(i) for i in range(10)], "groups": ["a", "b"]}
    table = pd.DataFrame(rows)
    if len(table):  # the seeds of a configuration have consecutive numbers, whatever else it has in common with others
        again = table["repeats"] if "repeats" in table else pd.Series(index=table.index, dtype=float)
        first, own = again.fillna(table["number"]).astype(int), dict(zip(table["number"], table["config_id"]))
        table["config_id"] = [f"{own[n]}-{n // seeds}" for n in first]
        table["seed"] = (table["number"] % seeds).where(again.isna(), table["number"] + seeds)
    else:
        table = pd.DataFrame(columns=[*REQUIRED, *names])
    for name in ("rank", "lam"):  # the tables have every column, whatever the methods
        if name not in table:
            table[name] = float("nan")
    measured = pd.DataFrame(confirmed)
    if len(measured):
        measured["config_id"] = measured["number"].map(table.set_index("number")["config_id"])
    return Search(
        name="s",
        objectives=names,
        directions=list(objectives.values()),
        trials=table,
        epochs=pd.DataFrame(),
        seeds=seeds,
        settings=described | settings,
        confirmed=measured,
    )
