"""One experiment of one MLflow store, as a search sees it: runs by number, and what is put on them. The one file that
imports mlflow."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.tracking.tracking_uri import SQLITE, check_store, make_database, require_database, without_password

SEARCH = -1  # stands for the search's run among the trials' numbers
OURS_TO_WAIT = (401, 403, 408, 429)  # refusals that say something of the server or its gate, not of the message
TEXT = 5000  # characters; MLflow takes 6000 in a parameter, 8000 in a tag
DIGEST = 36  # characters of a data set's hash that MLflow keeps
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's page shows a json file as a table
NOTE = "mlflow.note.content"
RECORD = "record"  # the artifacts' folder with the tables of a search


class MlflowStore:
    """A client of the store at ``uri``. Every call but ``create`` can be repeated as it is: a metric of equal time,
    step and value, a tag or an equal parameter is stored once, an artifact replaces its older self."""

    def __init__(self, uri: str, experiment: str):
        """MLflow takes seconds to import. Its own retries would block for minutes."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a request and two lines for every run
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        path = Path(uri.removeprefix(SQLITE))
        if uri.startswith(SQLITE) and not path.exists():
            make_database(path, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
        self.uri, self.experiment = uri, experiment
        self.client = MlflowClient(uri)
        self._experiment_id = ""
        self._tables: dict[str, set[str]] = {}  # of each run, in this process

    @property
    def experiment_id(self) -> str:
        if not self._experiment_id:
            known = self.client.get_experiment_by_name(self.experiment)
            self._experiment_id = known.experiment_id if known else self._make_experiment()
        return self._experiment_id

    def _make_experiment(self) -> str:
        location = None
        if self.uri.startswith(SQLITE):  # else MLflow would put artifacts below whatever folder is current
            location = (Path(self.uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
        try:
            return self.client.create_experiment(self.experiment, artifact_location=location)
        except Exception:  # another search may have made it in the meantime
            known = self.client.get_experiment_by_name(self.experiment)
            if known is None:
                raise
            return known.experiment_id

    def experiment_tags(self) -> dict[str, str]:
        return dict(self.client.get_experiment(self.experiment_id).tags)

    def tag_experiment(self, tags: dict[str, str]) -> None:
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

    def create(self, name: str, tags: dict, start: float) -> str:
        texts = {key: as_text(value) for key, value in tags.items()}
        start_time = int(start * 1000)
        return self.client.create_run(
            self.experiment_id, start_time=start_time, tags=texts, run_name=as_text(name)
        ).info.run_id

    def remove_twins(self, search_id: str, runs: dict[int, str]) -> None:
        """A request that timed out may have made its run after all, later than it was looked for: an empty one."""
        wanted, token = f"tags.search_id = '{search_id}'", None
        while token != "":
            page = self.client.search_runs([self.experiment_id], filter_string=wanted, page_token=token)
            for run in page:
                own = runs.get(int(run.data.tags.get("trial", SEARCH)))
                if own not in (None, run.info.run_id) and not run.data.params and not run.data.metrics:
                    self.client.delete_run(run.info.run_id)
            token = page.token or ""

    def reopen(self, run_id: str) -> None:
        self.client.update_run(run_id, status="RUNNING")

    def terminate(self, run_id: str, status: str, time: float) -> None:
        self.client.set_terminated(run_id, status, end_time=int(time * 1000))

    def log_metrics(self, run_id: str, metrics: dict[str, float], step: int, time: float) -> None:
        from mlflow.entities import Metric

        finite = [Metric(k, v, int(time * 1000), step) for k, v in metrics.items() if math.isfinite(v)]
        self.client.log_batch(run_id, metrics=finite)

    def log_params(self, run_id: str, params: dict) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(k, as_text(v)) for k, v in params.items()])

    def tag(self, run_id: str, tags: dict) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(k, as_text(v)) for k, v in tags.items()])

    def note(self, run_id: str, text: str) -> None:
        self.client.set_tag(run_id, NOTE, text)

    def log_data(self, run_id: str, name: str, fingerprint: str, path: str, profile: dict) -> None:
        """The data set as an input of the run, which MLflow's page shows with its hash."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": path})
        data = Dataset(as_text(name), fingerprint[:DIGEST], "local", source, profile=json.dumps(profile))
        self.client.log_inputs(run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.client.log_text(run_id, text, name)

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        self.client.log_artifact(run_id, str(path), folder)

    def log_figure(self, run_id: str, figure, name: str) -> None:
        self.client.log_figure(run_id, figure, name, save_kwargs={"dpi": 110})

    def log_tables(self, run_id: str, tables: dict[str, dict]) -> None:
        """Tables that page: file name -> {"columns": […], "data": [[…]]}. MLflow's ``log_table`` would append to the
        table of an earlier call."""
        for name, table in tables.items():
            self.client.log_text(run_id, json.dumps(table), name)
        self.tag(run_id, {TABLES: json.dumps([{"path": name, "type": "table"} for name in tables])})


def is_down(error: Exception) -> bool:
    """Whether nobody answered, so that the same message may be taken later."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in OURS_TO_WAIT or error.error_code == "ENDPOINT_NOT_FOUND"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in OURS_TO_WAIT
    return isinstance(error, (requests.RequestException, ConnectionError, TimeoutError, OperationalError))


def as_text(value) -> str:
    """What MLflow takes as a text: cut, and without the halves of characters that odd file names hold."""
    return str(value)[:TEXT].encode(errors="replace").decode()


@dataclass(frozen=True)
class Found:
    """A search in a store."""

    experiment_id: str
    run_id: str
    search_id: str
    name: str


def newest_search(uri: str, name: str | None = None) -> Found:
    """The newest search in the store ``uri``, or the newest called ``name``.

    Raises ConfigError where the store does not answer or has no such search.
    """
    check_store(uri)
    require_database(uri)
    with answering(uri):
        return _newest(MlflowStore(uri, "").client, uri, name)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """What MLflow, its server or its database refuses becomes one line, a ConfigError."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"MLflow at {without_password(uri)} refuses: {reason}") from error


def _newest(client, uri: str, name: str | None) -> Found:
    experiments = [each.experiment_id for each in client.search_experiments()]
    token, names = None, []
    while token != "":
        order = ["attributes.start_time DESC"]
        page = client.search_runs(experiments, "tags.role = 'search'", order_by=order, page_token=token)
        for run in page:
            info = run.info
            if "search_id" not in run.data.tags:  # somebody else's idea of a search
                continue
            names.append(info.run_name)
            if name in (None, info.run_name):
                return Found(info.experiment_id, info.run_id, run.data.tags["search_id"], info.run_name)
        token = page.token or ""
    if names:
        raise ConfigError(f"{uri} has no search {name}; it has {', '.join(names[:20])}")
    raise ConfigError(f"{uri} has no search yet: start one with `python -m tune_fairlora.search --space digits`")


def download_record(
    uri: str, found: Found, names: tuple[str, ...], target: Path, others: tuple[str, ...] = ()
) -> dict[str, Path]:
    """Put the files ``names`` of a search's record into the folder ``target``, and ``others`` where they exist; where
    each lies then. Raises ConfigError where the store does not have them."""
    with answering(uri):
        return _downloaded(MlflowStore(uri, "").client, uri, found, names, target, others)


def _downloaded(client, uri: str, found: Found, names, target: Path, others) -> dict[str, Path]:
    has = {Path(item.path).name for item in client.list_artifacts(found.run_id, RECORD)}
    missing = [name for name in names if name not in has]
    if missing:
        raise ConfigError(f"search {found.name} in {uri} must have the artifact {RECORD}/{missing[0]}, but has not")
    wanted = (*names, *(name for name in others if name in has))
    return {name: Path(client.download_artifacts(found.run_id, f"{RECORD}/{name}", str(target))) for name in wanted}
