"""One trial of a finished search as an export: its folder with the model, whole or not at all, and what the folder says
of how the trial's images were made, what was measured, and its place on the front."""

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from analysis import chance, claims, confirmation
from analysis.results import NothingToShow
from trainables.config import ConfigError, TrainConfig
from trainables.metrics import METRICS, OBJECTIVES
from tune_fairlora.record.search_folder import Finished, model_of
from tune_fairlora.record.state import Settings, Trial
from tune_fairlora.reporting import model_card

COLUMNS = {
    "by_class": ("count", "recall", "precision", "f1", "loss"),
    "by_group": ("count", "accuracy", "macro_f1", "eod", "odds_gap"),
}


def preprocessing(settings: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """How the search's images came from files: rows cut off below, and the sides that they were resized to in turn."""
    from trainables.prepare import aircraft, prepared

    source, size = settings.get("options", {}).get("data"), config.image_size
    banner = aircraft.BANNER if config.data == "aircraft" else 0
    if Path(settings["store"]).name == prepared.STORE or len(settings["data_fingerprint"]) < 64:
        return {"banner": banner, "sizes": [size]}
    if not source or not prepared.is_prepared(source):  # the store is a smaller copy of one made by `prepare`
        raise ConfigError(f"the prepared images are gone from {source}, and with them their size: put them there again")
    return {"banner": banner, "sizes": [prepared.read_manifest(source)["size"], size]}


def results(finished: Finished, number: int, why: str) -> dict[str, Any]:
    """``metrics.json``: the validation numbers by class and group, the trial's place on the front, and what ``confirm``
    measured on the test split, if it did. A value that nothing supports is null."""
    trial, settings, state = finished.state.trials[number], finished.settings, finished.state
    claimed = claims.claims(finished.search)
    of_config = claimed.rows.set_index("config_id")
    front = {numbers[0]: numbers for numbers in state.front_points()}
    points = [
        {
            "trials": front.get(row["number"], [row["number"]]),
            **{name: row[f"{name}_claimed"] for name in state.objectives},
            **{f"{name}_half": row[f"{name}_half"] for name in state.objectives},
            "chance": row["chance"],
        }
        for row in claimed.front.to_dict("records")
    ]
    own = of_config.loc[trial.config_id].to_dict() if trial.config_id in of_config.index else {}
    content = {
        "trial": number,
        "chosen": why,
        "claimed": {
            "objectives": {
                name: {"value": own.get(f"{name}_claimed", math.nan), "half": own.get(f"{name}_half", math.nan)}
                for name in state.objectives
            },
            "trainings": own.get("trainings", 0),
            "chance": own.get("chance", math.nan),
            "with_images": bool(own.get("with_images", False)),
            "verdict": claimed.sentences(),
        },
        "validation": {
            "metrics": {name: trial.metrics.get(f"val_{name}", math.nan) for name in METRICS},
            "by_class": rows(trial.tables.get("by_class", {}), settings["classes"], COLUMNS["by_class"]),
            "by_group": rows(trial.tables.get("by_group", {}), settings["groups"], COLUMNS["by_group"]),
            "confusion": trial.tables.get("confusion", []),
        },
        "by_chance": _by_chance(trial, settings, state.objectives),
        "test": _confirmed(finished, number, "train"),
        "test_of_fresh_trainings": _fresh(finished, trial.config_id),
        "test_of_a_refit_on_train_and_val": _confirmed(finished, number, "trainval"),
        "front": {
            "member": number in state.front(),
            "trials": len(state.trials),
            "complete": state.count("complete"),
            "seeds": state.seeds,
            "objectives": {name: OBJECTIVES[name] for name in state.objectives},
            "points": points,
        },
    }
    return null_for_nan(content)


def rows(table: dict[str, list[Any]], names: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A by-class or by-group table (a list a column) as a row a name, with those of ``columns`` that it has."""
    present = [column for column in columns if column in table]
    return [{"name": name, **{c: table[c][i] for c in present}} for i, name in enumerate(names)] if present else []


def _confirmed(finished: Finished, number: int, trained_on: str) -> dict[str, Any] | None:
    for row in finished.search.confirmed.to_dict("records"):
        if (row["number"], row["trained_on"]) == (number, trained_on):
            groups = {name: row.get(f"test_group_accuracy[{name}]", math.nan) for name in finished.settings["groups"]}
            metrics = {name: row.get(f"test_{name}", math.nan) for name in METRICS}
            return {"metrics": metrics, "by_group": [{"name": k, "accuracy": v} for k, v in groups.items()]}
    return None


def _by_chance(trial: Trial, settings: Settings, objectives: Sequence[str]) -> dict[str, str]:
    """What an evenly right model as accurate as the trial shows of each objective that is a gap, in words."""
    gaps = chance.gaps(objectives)
    if not gaps or "by_cell" not in trial.tables or not math.isfinite(trial.metrics.get("val_accuracy", math.nan)):
        return {}
    images = np.array(trial.tables["by_cell"]["count"])
    found = chance.by_chance(images, trial.metrics["val_accuracy"], gaps, settings.get("positive"))
    return {f"val_{gap}": str(shown) for gap, shown in found.items()}


def _fresh(finished: Finished, config_id: str) -> dict[str, Any] | None:
    """What fresh trainings of the trial's configuration showed on the test split, if the search was confirmed so."""
    try:
        confirmed = confirmation.confirmation(finished.search)
    except NothingToShow:
        return None
    own = confirmed.rows[confirmed.rows["config_id"] == config_id].to_dict("records")
    if not own:
        return None
    (row,) = own
    objectives = {
        name: {"value": row[f"{name}_test"], "half": row[f"{name}_test_half"]} for name in finished.search.objectives
    }
    stands = {True: True, False: False}.get(row["stands"])  # or pandas' NA
    facts = {"trainings": row["fresh"], "failed": row["failed"], "stands": stands, "look": confirmed.look}
    return {"objectives": objectives, **facts, "verdict": confirmed.sentences()}


def null_for_nan(value: Any) -> Any:
    """Plain values with null where JSON has no number."""
    if isinstance(value, dict):
        return {k: null_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def all_or_nothing(out: Path, fill: Callable[[Path], float]) -> float:
    """What ``fill`` returns, called with a temporary folder that then becomes ``out``: all of it is there or nothing.

    Raises ConfigError where the disk is full or ``out`` was made meanwhile.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir()
        result = fill(temporary)
        os.replace(temporary, out)
    except ConfigError:
        raise
    except (OSError, ValueError, SafetensorError) as error:  # a full disk, or an export that could not be loaded again
        raise ConfigError(f"`out` {out} could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def export_trial(folder: Path, finished: Finished, number: int, why: str = "", merge: bool = False) -> float:
    """Write a trial's model with its card and metrics into ``folder``, which exists and is empty; the largest
    difference between the logits of the trial's model and of the one that is loaded from there. ``why`` says why it was
    chosen."""
    from trainables.export.write import write

    config, settings, trial = finished.config(number), finished.settings, finished.state.trials[number]
    model = model_of(finished, number, "choose another trial")
    origin = {
        "groups": settings["groups"],
        "search": {key: settings.get(key, "") for key in ("id", "name", "space", "code_version")},
        "trial": {"number": number, "seed": trial.seed, "config_id": trial.config_id},
    }
    weights, images = settings["weights_file"] or None, preprocessing(settings, config)
    difference = write(folder, model, config, settings["classes"], weights, images, origin, merge)
    measured = results(finished, number, why)
    (folder / "metrics.json").write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(model_card.text(facts, measured, settings), encoding="utf-8")
    return difference
