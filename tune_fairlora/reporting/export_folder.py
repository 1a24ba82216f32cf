"""The folder of an exported trial: the model, its results and its card, whole or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from trainables.config import ConfigError
from tune_fairlora.record import search_folder
from tune_fairlora.reporting import model_card, trial_results

METRICS_FILE, CARD_FILE = "metrics.json", "README.md"


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


def export_trial(
    folder: Path, finished: search_folder.Finished, number: int, why: str = "", merge: bool = False
) -> float:
    """Write a trial's model with its card and metrics into ``folder``, which exists and is empty; the largest
    difference between the logits of the trial's model and of the one that is loaded from there. ``why`` says why it was
    chosen."""
    from trainables.export.write import write

    config, settings, trial = finished.config(number), finished.settings, finished.state.trials[number]
    model = search_folder.model_of(finished, number, "choose another trial")
    origin = {
        "groups": settings["groups"],
        "search": {key: settings.get(key, "") for key in ("id", "name", "space", "code_version")},
        "trial": {"number": number, "seed": trial.seed, "config_id": trial.config_id},
    }
    weights, preprocessing = settings["weights_file"] or None, trial_results.preprocessing(settings, config)
    difference = write(folder, model, config, settings["classes"], weights, preprocessing, origin, merge)
    results = trial_results.results(finished, number, why)
    (folder / METRICS_FILE).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / CARD_FILE).write_text(model_card.text(facts, results, settings), encoding="utf-8")
    return difference
