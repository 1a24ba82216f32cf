"""A record as a search writes it, and a host for the searcher that runs no trials: outcomes are given by the test."""

import math
from pathlib import Path

from analysis.record_format import FORMAT
from trainables.config import TrainConfig
from trainables.metrics import METRICS
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, FAILED

SETTINGS = {
    "id": "0123456789abcdef",
    "format": FORMAT,
    "name": "s",
    "groups": ["day", "night"],
    "classes": [str(i) for i in range(10)],
    "objectives": ["val_accuracy", "val_delta_f1"],
    "collapse_floor": 0.12,
}


def begun(folder: Path, **settings) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder)
    record.add("search", settings=SETTINGS | settings)
    return record


def metrics(accuracy: float = 0.5, delta: float = 0.2, recall: float = 0.5, **others) -> dict[str, float]:
    made = {f"val_{name}": 0.5 for name in METRICS} | {"val_accuracy": accuracy, "val_delta_f1": delta}
    return made | {"val_mean_recall": recall} | others


def start(record: Record, number: int, **config) -> None:
    config.setdefault("lr", 1e-3 + 1e-6 * (number // record.seeds))  # another configuration, but for its seeds
    made = TrainConfig(**config)
    values = made.hyperparameters()
    record.add("start", number=number, values=values, config_id=made.config_id, seed=made.seed)


def report(record: Record, number: int, epoch: int, seconds: float = 0.1, **values) -> None:
    record.add("epoch", number=number, epoch=epoch, metrics=metrics(**values), seconds=seconds, device="cpu")


def run(record: Record, number, accuracies, delta=0.2, epochs=2, error=None, recall=0.5, **config) -> str:
    """A whole trial, with one epoch for each of ``accuracies``; its status."""
    start(record, number, epochs=epochs, **config)
    for i, accuracy in enumerate(accuracies, 1):
        report(record, number, i, accuracy=accuracy, delta=delta, recall=recall)
    status, reason = (FAILED, error) if error else record.outcome(number)
    tables = {"by_group": {"accuracy": [0.9, math.nan]}}
    record.add("end", number=number, status=status, reason=reason, tables=tables)
    return status


class TrialLauncher:
    """The searcher's host over a real record."""

    def __init__(self, record: Record):
        self.record, self.open = record, set()

    def launch(self, number: int, config: TrainConfig, repeats: int | None = None) -> dict:
        if number in self.record.trials:
            self.record.add("launch", number=number)
        else:
            told = {"values": config.hyperparameters(), "config_id": config.config_id, "seed": config.seed}
            self.record.add("start", number=number, **told, repeats=repeats)
        self.open.add(number)
        return {"number": number, "values": config.hyperparameters()}

    def may_start(self, whole: bool = False) -> bool:
        return True

    def time_spent(self) -> float:
        return 0.0

    def busy(self) -> bool:
        return bool(self.open)

    def end(self, searcher, number: int, status: str = COMPLETE, reason: str = "", **values) -> None:
        """End trial ``number`` after one epoch with the metrics ``values``."""
        report(self.record, number, 1, **values)
        self.record.add("end", number=number, status=status, reason=reason, tables={})
        self.open.discard(number)
        searcher.tell(self.record.trials[number])
