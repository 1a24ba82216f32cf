"""Exported models as MLflow's logged models, with their metrics, and in its registry. Imports mlflow.

A logged model is an export (``reporting/trial_results.py``) with an ``MLmodel`` file, so that
``mlflow.pyfunc.load_model`` runs it.
"""

import math
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import time as now
from typing import TYPE_CHECKING

from trainables.config import ConfigError
from tune_fairlora.record.search_folder import Finished
from tune_fairlora.tracking.client import MlflowStore, all_pages, answering, as_texts
from tune_fairlora.tracking.tracking_uri import without_password

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric

EXPORT, CODE, LOADER = "export", "code", "served_model"
REQUIREMENTS = ("torch", "timm", "safetensors", "numpy", "pandas", "pillow")
ABANDONED_SECONDS = 3600  # after which a model that was begun will not be finished
FORBIDDEN = re.compile(r"[/:.%\"']")  # in a logged model's name


def log_trial(store: MlflowStore, finished: Finished, number: int, run_id: str) -> str:
    """Log the model of a trial whose weights were kept, once; its id. Raises ConfigError where they are damaged."""
    from tune_fairlora.reporting.trial_results import export_trial

    trial, settings, client = finished.state.trials[number], finished.settings, store.client
    logged = None
    for earlier in _models(store, f"tags.search_id = '{settings['id']}' AND tags.trial = '{number}'"):
        if str(earlier.status) == "READY":
            logged = earlier.model_id
        # Broken off. Before that time another process may be at it.
        elif now() - earlier.creation_timestamp / 1000 > ABANDONED_SECONDS:
            client.delete_logged_model(earlier.model_id)
    if logged:
        return logged
    tags = {"search_id": settings["id"], "search": settings["name"], "trial": number, "pareto": "true"}
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / EXPORT
        export.mkdir()
        export_trial(export, finished, number)
        name, texts = FORBIDDEN.sub("_", trial.label), (as_texts(tags), as_texts(trial.values))
        model = client.create_logged_model(store.experiment_id, name, run_id, *texts, model_type="classifier")
        client.log_model_artifacts(model.model_id, str(_package(export, model.model_id, run_id)))
    metrics = {k: v for k, v in trial.metrics.items() if k.startswith("val_") and math.isfinite(v)}
    client.log_batch(run_id, metrics=_points(store, run_id, model.model_id, metrics))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [store.entities.LoggedModelOutput(model.model_id, 0)])  # so that the run's page lists it
    return str(model.model_id)


def register_trial(uri: str, experiment: str, finished: Finished, number: int, name: str, alias: str | None) -> str:
    """Log the trial's model if that was not done, and make it a version of the registered model ``name``, which is
    created if there is none; the version. A version of the same logged model is taken as it is. Raises ConfigError
    where MLflow does not take it."""
    with answering(uri):
        store = MlflowStore(uri, experiment)
        run_id = store.find(finished.settings["id"], number)
        if run_id is None:
            raise ConfigError(f"MLflow at {without_password(uri)} has no run of trial {number}: --resync sends it")
        model_id, client = log_trial(store, finished, number, run_id), store.client
        if not client.search_registered_models(filter_string=f"name = '{name}'", max_results=1):
            client.create_registered_model(name)
        versions, source = client.search_model_versions(f"name = '{name}'"), f"models:/{model_id}"
        same = [version.version for version in versions if version.source == source]
        version = same[0] if same else client.create_model_version(name, source, run_id, model_id=model_id).version
        if alias:
            client.set_registered_model_alias(name, alias, version)
        return str(version)


def mark(store: MlflowStore, search_id: str, front: list[int]) -> None:
    """Say of each logged model of the search whether its trial is on the front, which a resumed search may change."""
    for model in _models(store, f"tags.search_id = '{search_id}'"):
        pareto = "true" if int(model.tags["trial"]) in front else "false"
        if model.tags.get("pareto") != pareto:
            store.client.set_logged_model_tags(model.model_id, {"pareto": pareto})


def _models(store: MlflowStore, wanted: str) -> "list[LoggedModel]":
    query = {"experiment_ids": [store.experiment_id], "filter_string": wanted}
    return list(all_pages(store.client.search_logged_models, **query))


def _points(store: MlflowStore, run_id: str, model_id: str, metrics: Mapping[str, float]) -> "list[Metric]":
    """The metrics as points of the model. MLflow puts them on the run's curves as well, where these points are there
    already: equal in step and time, they are stored once."""
    curve = [point for name in list(metrics)[:1] for point in store.client.get_metric_history(run_id, name)]
    last = max(curve, key=lambda point: point.step, default=None)
    step, time = (last.step, last.timestamp) if last else (0, int(1000 * now()))
    return [store.entities.Metric(k, v, time, step, model_id=model_id, run_id=run_id) for k, v in metrics.items()]


def _package(export: Path, model_id: str, run_id: str) -> Path:
    """MLflow's layout around the export: ``MLmodel``, the loader's code, requirements."""
    from importlib.metadata import version

    from mlflow import pyfunc
    from mlflow.models import Model

    from trainables.export.pyfunc import __file__ as loader

    package = export.parent / "package"
    (package / CODE).mkdir(parents=True)
    shutil.move(export, package / EXPORT)
    shutil.copy(loader, package / CODE / f"{LOADER}.py")
    pinned = [f"{name}=={version(name).partition('+')[0]}\n" for name in REQUIREMENTS]
    (package / "requirements.txt").write_text("".join(pinned))
    model = Model(run_id=run_id, model_id=model_id, artifact_path=None)
    pyfunc.add_to_model(model, loader_module=LOADER, data=EXPORT, code=CODE)
    model.flavors["python_function"]["python_version"] = ".".join(map(str, sys.version_info[:3]))
    model.save(package / "MLmodel")
    return package
