"""``python -m tune_fairlora.search --resync NAME``: send what MLflow has not got of a search, and nothing twice."""

from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.record.event_log import LOG, Record
from tune_fairlora.record.tables import render
from tune_fairlora.tracking.outbox import read_position
from tune_fairlora.tracking.tracker import Tracker
from tune_fairlora.tracking.tracking_uri import absolute_uri

EXPERIMENT = "tune-fairlora"  # where neither says


def resync(folder: Path, uri: str | None) -> int:
    """Send the rest of the search in ``folder`` to the store it went to, or to ``uri``; the exit status: 0 all sent,
    1 some events wait.

    Raises ConfigError where the folder is no search, where the search is at work, or where no store is known.
    """
    if not (folder / LOG).is_file():
        raise ConfigError(f"{folder} must be the folder of a search, but has no {LOG}")
    record = Record(folder)
    try:
        if not record.settings:
            raise ConfigError(f"{folder / LOG} must begin with a search's settings, but is empty")
        tracker = Tracker(*_store(record, uri), record)
        waiting_before = tracker.waiting
        waiting = tracker.close(None)
        render(record)  # the run ids that are new
    finally:
        record.close()
    return _report(tracker, waiting_before, waiting)


def _store(record: Record, uri: str | None) -> tuple[str, str]:
    """Address and experiment: those of ``mlflow.json``, and where it was deleted, those of the search's settings."""
    position, settings = read_position(record.folder), record.settings
    uri = absolute_uri(uri) if uri else position.uri if position else settings.get("tracking_uri")
    experiment = position.experiment if position else settings.get("experiment", EXPERIMENT)
    if not uri:
        raise ConfigError(f"{record.folder} does not say which MLflow it went to: give it with --tracking-uri")
    return uri, experiment


def _report(tracker: Tracker, before: int, waiting: int) -> int:
    name = tracker.record.settings["name"]
    refused = f" ({tracker.errors} messages were refused, see above)" if tracker.errors else ""
    if waiting:
        print(f"MLflow at {tracker.uri} does not answer; {waiting} events wait in {name}{refused}")
        return 1
    print(f"MLflow has all of {name}: {before} events sent{refused}")
    return 0
