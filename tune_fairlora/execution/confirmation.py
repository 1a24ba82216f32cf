"""Trials of a finished search measured on the test split, which no trial and no sampler has seen."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results import CONFIRMED
from trainables.config import ConfigError, TrainConfig
from trainables.files import replace_atomically
from trainables.metrics import Evaluation
from tune_fairlora.record import looks, search_folder
from tune_fairlora.record.search_folder import Finished
from tune_fairlora.record.state import Trial

Row = dict[str, Any]  # of ``confirmed.parquet``
REFITS = ("train", "trainval")


@dataclass(frozen=True)
class Confirmation:
    """One trial, its metrics on the validation split of the search and on the test split (without ``val_``), and what
    the model was trained on. ``error``: why a refit diverged; then ``test`` is empty."""

    number: int
    config: TrainConfig
    trained_on: str
    validation: dict[str, float]
    test: dict[str, float]
    error: str = ""


def confirmations(
    finished: Finished, trials: Sequence[int] | None, refit: str | None, device: str
) -> Iterator[Confirmation]:
    """Check the arguments, then measure one trial after the other and keep each in ``confirmed.parquet``."""
    if refit not in (None, *REFITS):
        raise ConfigError(f"`refit` must be one of {', '.join(REFITS)}, but got {refit!r}")
    search_folder.require_images(finished.settings)
    search_folder.require_weights(finished.settings)
    from trainables.training import gpu  # seconds of imports

    if gpu.claim(float(device == "cuda")) != device:
        raise ConfigError("`device` cuda needs a GPU that torch can use, but there is none: leave it out")
    numbers = _numbers(finished, trials)
    unsaved = [number for number in numbers if not search_folder.weights_of(finished.folder, number).is_file()]
    if trials is None and refit is None and len(unsaved) < len(numbers):
        # Of a configuration that came to the front late, the weights of its later trainings alone were kept.
        numbers, unsaved = [number for number in numbers if number not in unsaved], []
    if unsaved and refit is None:
        raise ConfigError(f"trial {unsaved[0]} has no saved weights (the front's trials have): set `refit` to train")
    looks.add(finished.settings["data_fingerprint"], finished.settings["name"], refit or "saved models")
    return (_confirm(finished, number, refit, device) for number in numbers)


def _numbers(finished: Finished, trials: Sequence[int] | None) -> list[int]:
    table = finished.search.trials
    if trials is None:
        front: list[int] = table.loc[table["on_front"], "number"].tolist()
        if not front:
            raise ConfigError("the search has no front, so `trials` must say which trials to measure")
        return front
    status = dict(zip(table["number"], table["status"]))
    for number in trials:
        if status.get(number) != "complete":
            state = f"is {status[number]}" if number in status else "does not exist"
            raise ConfigError(f"`trials` must be complete trials of the search, but trial {number} {state}")
    return sorted(set(trials))


def _confirm(finished: Finished, number: int, refit: str | None, device: str) -> Confirmation:
    from trainables.data import batches
    from trainables.training import fit
    from trainables.training.epoch import Diverged

    config, metrics = finished.config(number), finished.state.trials[number].metrics
    validation = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    trained_on = refit or "train"
    seen = batches.open_confirmation(finished.settings["store"], trainval=refit == "trainval")
    if not len(seen.val):
        raise ConfigError("the data set has no test split, so there is nothing to confirm on")
    if refit:
        try:
            epochs = fit.fit(config, seen, finished.settings["weights_file"] or None, device)
            evaluation = deque(epochs, maxlen=1).pop().evaluation
        except Diverged as error:
            return Confirmation(number, config, trained_on, validation, {}, str(error))
    else:
        model = search_folder.model_of(finished, number, "set `refit` to train", device)
        evaluation = fit.evaluate_split(model, seen, seen.val, config, device)
    _keep(finished, number, trained_on, evaluation)
    return Confirmation(number, config, trained_on, validation, evaluation.metrics)


def _keep(finished: Finished, number: int, trained_on: str, evaluation: Evaluation) -> None:
    """Put the trial's row into the table, in place of an earlier one of the same trial and training data."""
    folder, groups, trial = finished.folder, finished.settings["groups"], finished.state.trials[number]
    accuracy = dict(zip(groups, evaluation.by_group["accuracy"].tolist()))
    row = {"number": number, **measured(trial, trained_on, evaluation.metrics, accuracy)}
    keep(folder, [row], lambda old: (old["number"] == number) & (old["trained_on"] == trained_on))


def measured(trial: Trial, trained_on: str, metrics: Mapping[str, float], by_group: Mapping[str, float]) -> Row:
    """What ``confirmed.parquet`` holds of a model like ``trial``'s: ``metrics`` (without prefix) and the accuracy in
    each group on the test split."""
    row: Row = {"config_id": trial.config_id, "seed": trial.seed, "trained_on": trained_on}
    row |= {f"test_{name}": value for name, value in metrics.items()}
    return row | {f"test_group_accuracy[{name}]": value for name, value in by_group.items()}


def keep(folder: Path, rows: list[Row], replaced: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> None:
    """Put ``rows`` into the table of the search in ``folder``, in place of those that are ``replaced``."""
    table, path = pd.DataFrame(rows), folder / CONFIRMED
    if path.exists():
        old = pd.read_parquet(path)
        table = pd.concat([old[~replaced(old)], table])
    if len(table):
        table = table.sort_values(["number", "trained_on", "seed"], ignore_index=True)
        replace_atomically(path, table.to_parquet)
