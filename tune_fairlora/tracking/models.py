"""Exported models as MLflow's logged models, with their metrics, and in its registry. Imports mlflow.

A logged model is an export (``export.py``) with an ``MLmodel`` file, so that ``mlflow.pyfunc.load_model`` runs it.
"""

import math
import re
import shutil
import sys
import tempfile
from pathlib import Path
from time import time as now

from trainables.config import ConfigError
from tune_fairlora.record.search_folder import Finished
from tune_fairlora.tracking.client import MlflowStore, answering, as_text
from tune_fairlora.tracking.tracking_uri import without_password

EXPORT, CODE, LOADER = "export", "code", "served_model"
NEEDS = ("torch", "timm", "safetensors", "numpy", "pandas", "pillow")
READY = "READY"
ABANDONED = 3600  # seconds after which a model that was begun will not be finished
FORBIDDEN = re.compile(r"[/:.%\"']")  # in a logged model's name


def log_trial(store: MlflowStore, done: Finished, number: int, run_id: str) -> str:
    """Log the model of a trial whose weights were kept, once; its id. Raises ConfigError where they are damaged."""
    from tune_fairlora.reporting import export_folder

    known = find(store, done.settings["id"], number)
    if known:
        return known
    trial = done.state.trials[number]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / EXPORT
        made.mkdir()
        export_folder.export_trial(made, done, number)
        tags = {"search_id": done.settings["id"], "search": done.settings["name"], "trial": number, "pareto": "true"}
        metrics = {k: v for k, v in trial.metrics.items() if k.startswith("val_")}
        return log(store, run_id, FORBIDDEN.sub("_", trial.label), made, tags, trial.values, metrics)


def register_trial(uri: str, experiment: str, done: Finished, number: int, name: str, alias: str | None) -> str:
    """Log the trial's model if that was not done, and make it a version of the registered model ``name``, which is
    made if there is none; the version. Raises ConfigError where MLflow does not take it."""
    with answering(uri):
        store = MlflowStore(uri, experiment)
        run_id = store.find(done.settings["id"], number)
        if run_id is None:
            raise ConfigError(f"MLflow at {without_password(uri)} has no run of trial {number}: --resync sends it")
        return register(store, log_trial(store, done, number, run_id), run_id, name, alias)


def mark(store: MlflowStore, search_id: str, front: list[int]) -> None:
    """Say of each logged model of the search whether its trial is on the front, which a resumed search may change."""
    for model in _models(store, f"tags.search_id = '{search_id}'"):
        pareto = "true" if int(model.tags["trial"]) in front else "false"
        if model.tags.get("pareto") != pareto:
            store.client.set_logged_model_tags(model.model_id, {"pareto": pareto})


def find(store: MlflowStore, search_id: str, number: int) -> str | None:
    """The id of the trial's logged model, if it was logged whole. What a broken attempt left is deleted."""
    found = None
    for model in _models(store, f"tags.search_id = '{search_id}' AND tags.trial = '{number}'"):
        if str(model.status) == READY:
            found = model.model_id
        elif now() - model.creation_timestamp / 1000 > ABANDONED:  # else another process may be at it
            store.client.delete_logged_model(model.model_id)
    return found


def _models(store: MlflowStore, wanted: str) -> list:
    found, token = [], None
    while token != "":
        page = store.client.search_logged_models([store.experiment_id], filter_string=wanted, page_token=token)
        found += list(page)
        token = page.token or ""
    return found


def log(store: MlflowStore, run_id: str, name: str, folder: Path, tags: dict, params: dict, metrics: dict) -> str:
    """Log the export in ``folder`` (which becomes a part of a new folder) as a model of the run; its id."""
    from mlflow.entities import LoggedModelOutput

    texts = [{key: as_text(value) for key, value in each.items()} for each in (tags, params)]
    model = store.client.create_logged_model(store.experiment_id, name, run_id, *texts, model_type="classifier")
    package = _package(folder, model.model_id, run_id)
    store.client.log_model_artifacts(model.model_id, str(package))
    store.client.log_batch(run_id, metrics=_points(store, run_id, model.model_id, metrics))
    store.client.finalize_logged_model(model.model_id, READY)
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])  # so that the run's page lists it
    return model.model_id


def _points(store: MlflowStore, run_id: str, model_id: str, metrics: dict[str, float]) -> list:
    """The metrics as points of the model. MLflow puts them on the run's curves as well, where these points are there
    already: equal in step and time, they are stored once."""
    from mlflow.entities import Metric

    finite = {k: v for k, v in metrics.items() if math.isfinite(v)}
    known = {name: store.client.get_metric_history(run_id, name) for name in list(finite)[:1]}
    last = max((point for points in known.values() for point in points), key=lambda point: point.step, default=None)
    step, time = (last.step, last.timestamp) if last else (0, int(1000 * now()))
    return [Metric(k, v, time, step, model_id=model_id, run_id=run_id) for k, v in finite.items()]


def _package(export: Path, model_id: str, run_id: str) -> Path:
    """MLflow's layout around the export: ``MLmodel``, the loader's code, requirements."""
    from importlib.metadata import version

    from mlflow import pyfunc
    from mlflow.models import Model

    from trainables.export.pyfunc import __file__

    package = export.parent / "package"
    (package / CODE).mkdir(parents=True)
    shutil.move(export, package / EXPORT)
    shutil.copy(__file__, package / CODE / f"{LOADER}.py")
    needs = [f"{name}=={version(name).partition('+')[0]}" for name in NEEDS]
    (package / "requirements.txt").write_text("\n".join(needs) + "\n")
    model = Model(run_id=run_id, model_id=model_id, artifact_path=None)
    pyfunc.add_to_model(model, loader_module=LOADER, data=EXPORT, code=CODE)
    model.flavors["python_function"]["python_version"] = ".".join(map(str, sys.version_info[:3]))
    model.save(package / "MLmodel")
    return package


def register(store: MlflowStore, model_id: str, run_id: str, name: str, alias: str | None) -> str:
    """A new version of the registered model ``name``, under ``alias`` if one is given; the version. A version of the
    same logged model is taken as it is."""
    client = store.client
    if not client.search_registered_models(filter_string=f"name = '{name}'", max_results=1):
        client.create_registered_model(name)
    known, source = client.search_model_versions(f"name = '{name}'"), f"models:/{model_id}"
    same = [version.version for version in known if version.source == source]
    made = same[0] if same else client.create_model_version(name, source, run_id, model_id=model_id).version
    if alias:
        client.set_registered_model_alias(name, alias, made)
    return str(made)
