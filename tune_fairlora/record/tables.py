"""From the record's state to ``trials.parquet`` (a row a trial), ``epochs.parquet`` (a row an epoch), ``front.png``."""

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.config import FIELDS
from trainables.files import replace_atomically
from trainables.metrics import METRICS
from tune_fairlora.record.event_log import Record

if TYPE_CHECKING:
    from analysis.results import Search

log = logging.getLogger(__name__)

ARROW_TYPES: dict[Any, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
CONFIGURATIONS = "configurations.parquet"
TABLE_FILES = ("search.json", "trials.parquet", "epochs.parquet")  # what ``analysis`` reads of a search's folder
EPOCH_METRICS = ("train_loss", "train_cross_entropy", "train_penalty", *(f"val_{name}" for name in METRICS))
EPOCH_SCHEMA = pa.schema(
    [("number", pa.int64()), ("epoch", pa.int64())] + [(name, pa.float64()) for name in (*EPOCH_METRICS, "seconds")]
)


def render(record: Record) -> None:
    """Write both tables into the search's folder; a reader sees the old file or the new one, never half of it."""
    trials = _trials(record)
    epochs = [
        {"number": number, "epoch": entry["epoch"], "seconds": entry["seconds"], **entry["metrics"]}
        for number in trials["number"].to_pylist()
        for entry in list(record.trials[number].epochs)
    ]
    replace_atomically(record.folder / "trials.parquet", partial(pq.write_table, trials))
    table = pa.Table.from_pylist(epochs, schema=EPOCH_SCHEMA)
    replace_atomically(record.folder / "epochs.parquet", partial(pq.write_table, table))


def snapshot(record: Record) -> "Search":
    """The search as its files would show it now, but for the epochs, which are left out."""
    from analysis import results  # pandas takes a moment: not at every start

    settings, seeds = record.settings, record.seeds
    trials, epochs = _trials(record).to_pandas(), EPOCH_SCHEMA.empty_table().to_pandas()
    objectives, facts, folder = list(record.objectives), dict(settings), record.folder
    confirmed = results.confirmed(folder)
    return results.Search(
        settings["name"], objectives, record.directions, trials, epochs, seeds, facts, confirmed, folder
    )


class Renderer:
    """Renders in a thread of its own once ``due`` is set, at intervals: the larger the tables, the rarer."""

    SECONDS, SHARE = 5.0, 0.03  # between two renderings at least, and of the time at most

    def __init__(self, record: Record) -> None:
        self.record, self.due, self._over = record, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="render", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            self.due.wait()
            if self._over.is_set():
                return
            self.due.clear()
            start = time.monotonic()
            try:
                render(self.record)
            except OSError:  # a full disk: the log is what counts, and the next time may find room
                log.exception("the tables could not be written")
            pause = max(self.SECONDS, (time.monotonic() - start) / self.SHARE)

    def close(self) -> None:
        self._over.set()
        self.due.set()
        self._thread.join()


def render_front(record: Record) -> None:
    """Show the front in ``front.png``, ``front.svg`` and the interactive page ``front.html``, and what is claimed of
    each complete configuration in ``configurations.parquet``."""
    from analysis.claims import claims
    from analysis.figures import front
    from analysis.html import front_page

    search, folder = snapshot(record), record.folder
    replace_atomically(folder / CONFIGURATIONS, claims(search).rows.to_parquet)
    page = front_page.page(search)
    replace_atomically(folder / "front.html", lambda path: path.write_text(page, encoding="utf-8"))
    figure = front.figure(search)
    for kind in ("png", "svg"):
        replace_atomically(folder / f"front.{kind}", partial(figure.savefig, format=kind, dpi=150))


def _trials(record: Record) -> pa.Table:
    """A hyperparameter that the method lacks is null; a metric that has no support is NaN."""
    groups = [f"val_group_accuracy[{name}]" for name in record.settings["groups"]]  # by group code
    columns = (
        dict.fromkeys(("number", "seed", "repeats"), pa.int64())
        | dict.fromkeys(("config_id", "status", "reason"), pa.string())
        | {name: ARROW_TYPES[spec.type] for name, spec in FIELDS.items() if name != "seed"}
        | dict.fromkeys((*EPOCH_METRICS, *groups), pa.float64())
        | dict.fromkeys(("epochs_trained", "failures"), pa.int64())
        | {"decisions": pa.string(), "feasible": pa.bool_(), "on_front": pa.bool_(), "mlflow_run_id": pa.string()}
        | {"device": pa.string(), "seconds": pa.float64()}
    )
    with record.lock:  # for a moment only: trials that go on while their rows are made show a later state
        members, trials = set(record.front()), sorted(record.trials.items())
    rows = []
    for number, trial in trials:
        siblings = record.siblings(number)
        by_group = dict(zip(groups, trial.tables.get("by_group", {}).get("accuracy", ())))
        names = ("number", "seed", "repeats", "config_id", "status", "device", "seconds")
        own = {name: getattr(trial, name) for name in names}
        told = {
            "reason": trial.reason.encode(errors="replace").decode(),  # odd file names hold halves of characters
            "epochs_trained": len(trial.epochs),
            "failures": trial.faults,
            "decisions": "; ".join(trial.decisions.values()),
            "feasible": record.feasible(siblings) if record.decided(siblings) else None,  # null until it is complete
            "on_front": number in members,
            "mlflow_run_id": trial.run_id,
        }
        rows.append(trial.values | trial.metrics | by_group | own | told)
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))
