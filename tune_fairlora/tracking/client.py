"""One experiment of one MLflow store, as a search sees it: runs by number, and what is put on them; and the searches
that a store has. This file and ``models.py`` alone import mlflow.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables.config import ConfigError
from trainables.files import first_line
from tune_fairlora.record.state import COLLAPSED, COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, STOPPED
from tune_fairlora.tracking.tracking_uri import SQLITE, check_store, make_database, require_database, without_password
from tune_fairlora.tracking.ui_views import Table

SEARCH = -1  # stands for the search's run among the trials' numbers
RUN_STATUS = dict.fromkeys((COMPLETE, COLLAPSED, STOPPED), "FINISHED") | dict.fromkeys((FAILED, DIVERGED), "FAILED")
RUN_STATUS |= {INTERRUPTED: "KILLED", RUNNING: "RUNNING"}
SERVER_REFUSALS = (401, 403, 408, 429)  # HTTP statuses that say something of the server or its gate, not of the message
TEXT_LENGTH = 5000  # characters; MLflow takes 6000 in a parameter, 8000 in a tag
DIGEST_LENGTH = 36  # characters of a data set's hash that MLflow keeps
TABLES_TAG = "mlflow.loggedArtifacts"  # by which MLflow's page shows a json file as a table
NOTE_TAG = "mlflow.note.content"
RECORD_FOLDER = "record"  # among the artifacts, with the tables of a search


class MlflowStore:
    """A client of the store at ``uri``. Every call but ``create`` can be repeated as it is: a metric of equal time,
    step and value, a tag or an equal parameter is stored once, an artifact replaces its older self."""

    def __init__(self, uri: str, experiment: str) -> None:
        """MLflow takes seconds to import. Its own retries would block for minutes."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a request and two lines for every run
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient, entities

        path = Path(uri.removeprefix(SQLITE))
        if uri.startswith(SQLITE) and not path.exists():
            make_database(path, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
        self.uri, self.experiment = uri, experiment
        self.client, self.entities = MlflowClient(uri), entities

    @cached_property
    def experiment_id(self) -> str:
        """Of the experiment, which is created if there is none."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            location = None
            if self.uri.startswith(SQLITE):  # else MLflow would put artifacts below whatever folder is current
                location = (Path(self.uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
            try:
                return self.client.create_experiment(self.experiment, artifact_location=location)
            except Exception:  # another search may have created it in the meantime
                experiment = self.client.get_experiment_by_name(self.experiment)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            try:
                self.client.set_experiment_tag(self.experiment_id, key, value)
            except Exception as error:
                if "UNIQUE constraint" not in str(error):
                    raise  # else another search made the same tag at the same moment: now it is there
                self.client.set_experiment_tag(self.experiment_id, key, value)

    def find(self, search_id: str, number: int) -> str | None:
        """The run of a trial, or of the search, by its tags."""
        own = "tags.role = 'search'" if number == SEARCH else f"tags.trial = '{number}'"
        wanted = f"tags.search_id = '{search_id}' and {own}"
        runs = self.client.search_runs([self.experiment_id], filter_string=wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    def create(self, name: str, tags: Mapping[str, object], start: float) -> str:
        """A new run; its id."""
        run = self.client.create_run(self.experiment_id, int(start * 1000), as_texts(tags), as_text(name))
        return str(run.info.run_id)

    def remove_twins(self, search_id: str, runs: Mapping[int, str]) -> None:
        """Delete empty runs that stand beside one of ``runs``: a request that timed out may have created its run after
        all, later than it was looked for."""
        wanted = f"tags.search_id = '{search_id}'"
        for run in all_pages(self.client.search_runs, experiment_ids=[self.experiment_id], filter_string=wanted):
            own = runs.get(int(run.data.tags.get("trial", SEARCH)))
            if own not in (None, run.info.run_id) and not run.data.params and not run.data.metrics:
                self.client.delete_run(run.info.run_id)

    def reopen(self, run_id: str) -> None:
        self.client.update_run(run_id, status="RUNNING")

    def terminate(self, run_id: str, status: str, time: float) -> None:
        self.client.set_terminated(run_id, RUN_STATUS[status], end_time=int(time * 1000))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        finite = [self.entities.Metric(k, v, int(time * 1000), step) for k, v in metrics.items() if math.isfinite(v)]
        self.client.log_batch(run_id, metrics=finite)

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        self.client.log_batch(run_id, params=[self.entities.Param(k, text) for k, text in as_texts(params).items()])

    def tag(self, run_id: str, tags: Mapping[str, object]) -> None:
        self.client.log_batch(run_id, tags=[self.entities.RunTag(k, text) for k, text in as_texts(tags).items()])

    def log_data(self, run_id: str, name: str, fingerprint: str, path: str, profile: Mapping[str, int]) -> None:
        """The data set as an input of the run, which MLflow's page shows with its hash."""
        source = json.dumps({"uri": path})
        facts = (as_text(name), fingerprint[:DIGEST_LENGTH], "local", source)
        data = self.entities.Dataset(*facts, profile=json.dumps(profile))
        use = self.entities.InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, datasets=[self.entities.DatasetInput(data, [use])])

    def log_record(self, run_id: str, path: Path) -> None:
        self.client.log_artifact(run_id, str(path), RECORD_FOLDER)

    def log_tables(self, run_id: str, tables: Mapping[str, Table]) -> None:
        """Tables that page, by file name. MLflow's ``log_table`` would append to the table of an earlier call."""
        for name, table in tables.items():
            self.client.log_text(run_id, json.dumps(table), name)
        self.tag(run_id, {TABLES_TAG: json.dumps([{"path": name, "type": "table"} for name in tables])})


def all_pages(search: Callable[..., Any], **query: object) -> Iterator[Any]:
    """Everything that ``search``, a method of MLflow's client, finds, page by page."""
    token = None
    while token != "":
        page = search(**query, page_token=token)
        yield from page
        token = page.token or ""


def is_down(error: Exception) -> bool:
    """Whether nobody answered, so that the same message may be taken later."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in SERVER_REFUSALS or error.error_code == "ENDPOINT_NOT_FOUND"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in SERVER_REFUSALS
    return isinstance(error, (requests.RequestException, ConnectionError, TimeoutError, OperationalError))


def as_text(value: object) -> str:
    """What MLflow takes as a text: cut, and without the halves of characters that odd file names hold."""
    return str(value)[:TEXT_LENGTH].encode(errors="replace").decode()


def as_texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: as_text(value) for name, value in values.items()}


@dataclass(frozen=True)
class StoredSearch:
    """A search in a store."""

    experiment_id: str
    run_id: str
    search_id: str
    name: str


def newest_search(uri: str, name: str | None = None) -> StoredSearch:
    """The newest search in the store ``uri``, or the newest called ``name``.

    Raises ConfigError where the store does not answer or has no such search.
    """
    check_store(uri)
    require_database(uri)
    names = []
    with answering(uri):
        mlflow = MlflowStore(uri, "").client
        query = {"filter_string": "tags.role = 'search'", "order_by": ["attributes.start_time DESC"]}
        experiments = [each.experiment_id for each in mlflow.search_experiments()]
        for run in all_pages(mlflow.search_runs, experiment_ids=experiments, **query):
            info = run.info
            if "search_id" not in run.data.tags:  # somebody else's idea of a search
                continue
            names.append(info.run_name)
            if name in (None, info.run_name):
                return StoredSearch(info.experiment_id, info.run_id, run.data.tags["search_id"], info.run_name)
    if names:
        raise ConfigError(f"{uri} has no search {name}; it has {', '.join(names[:20])}")
    raise ConfigError(f"{uri} has no search yet: start one with `python -m tune_fairlora.search --space digits`")


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn what MLflow, its server or its database refuses into one line, a ConfigError."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError) as error:
        reason = first_line(error)
        raise ConfigError(f"MLflow at {without_password(uri)} refuses: {reason}") from error


def download_record(
    uri: str, search: StoredSearch, names: tuple[str, ...], target: Path, optional: tuple[str, ...] = ()
) -> dict[str, Path]:
    """Put the files ``names`` of a search's record into the folder ``target``, and those of ``optional`` that exist;
    returns where each lies then. Raises ConfigError where the store lacks one of ``names``."""
    with answering(uri):
        mlflow, run_id = MlflowStore(uri, "").client, search.run_id
        stored = {Path(item.path).name for item in mlflow.list_artifacts(run_id, RECORD_FOLDER)}
        missing = [name for name in names if name not in stored]
        if missing:
            raise ConfigError(
                f"search {search.name} in {uri} must have the artifact {RECORD_FOLDER}/{missing[0]}, but has not"
            )
        wanted = (*names, *(name for name in optional if name in stored))
        paths = {name: mlflow.download_artifacts(run_id, f"{RECORD_FOLDER}/{name}", str(target)) for name in wanted}
        return {name: Path(path) for name, path in paths.items()}
