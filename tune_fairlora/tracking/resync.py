"""``python -m tune_fairlora.search --resync NAME``: send what MLflow has not got of a search, and nothing twice."""

from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.record.event_log import EVENT_LOG, Record
from tune_fairlora.record.tables import render
from tune_fairlora.tracking.outbox import read_position
from tune_fairlora.tracking.tracker import Tracker
from tune_fairlora.tracking.tracking_uri import absolute_uri

EXPERIMENT = "tune-fairlora"  # where neither ``mlflow.json`` nor the settings say


def resync(folder: Path, uri: str | None) -> int:
    """Send the rest of the search in ``folder`` to the store it went to, or to ``uri``; the exit status: 0 all sent,
    1 some events wait.

    Address and experiment are those of ``mlflow.json``, and where it was deleted, those of the search's settings.
    Raises ConfigError where the folder is no search, where the search is at work, or where no store is known.
    """
    log = folder / EVENT_LOG
    if not log.is_file():
        raise ConfigError(f"{folder} must be the folder of a search, but has no {EVENT_LOG}")
    record = Record(folder)
    try:
        position, settings = read_position(folder), record.settings
        if not settings:
            raise ConfigError(f"{log} must begin with a search's settings, but is empty")
        uri = absolute_uri(uri) if uri else position.uri if position else settings.get("tracking_uri")
        experiment = position.experiment if position else settings.get("experiment", EXPERIMENT)
        if not uri:
            raise ConfigError(f"{folder} does not say which MLflow it went to: give it with --tracking-uri")
        tracker = Tracker(uri, experiment, record)
        events = tracker.waiting
        waiting = tracker.close(None)
        render(record)  # the run ids that are new
    finally:
        record.close()
    refused = f" ({tracker.errors} messages were refused, see above)" if tracker.errors else ""
    if waiting:
        print(f"MLflow at {tracker.uri} does not answer; {waiting} events wait in {settings['name']}{refused}")
        return 1
    print(f"MLflow has all of {settings['name']}: {events} events sent{refused}")
    return 0
