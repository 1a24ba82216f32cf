"""The nouns of the public Python API, which the commands use too: a ``Search`` and one ``Trial`` of it.

What takes seconds to import (pandas, torch) is imported where it is used. Errors name arguments in backticks, which
the commands turn into their options (``cli.run``).
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config import ConfigError, TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from analysis import results
    from trainables.export.predict import Exported
    from tune_fairlora.execution.confirmation import Confirmation
    from tune_fairlora.execution.search_process import SearchProcess
    from tune_fairlora.record.search_folder import Finished
    from tune_fairlora.record.state import State

REPORT = "report.html"
NAME = re.compile(r"[\w .-]*\w[\w .-]*")  # of a registered model, and of its alias


def open(search: str | os.PathLike[str], storage: str | os.PathLike[str] = "runs") -> "Search":
    """The search of that name in the folder ``storage``, or in the folder ``search``; it may still run.

    Raises ConfigError if there is none.
    """
    from tune_fairlora.record.search_folder import find

    return Search(find(os.fspath(search), os.fspath(storage)))


def run(space: str | os.PathLike[str], *, wait: bool = True, **options: Any) -> "Search":
    """Search, and return when it has ended; with ``wait`` False, once it has begun.

    ``options`` are those of the command, by name (``plan.options.SearchOptions``): ``trials=24, methods=["lora",
    "fairlora"], set={"rank": [4, 8]}, time_budget="1h30m"``. The search runs in a process of its own and prints here.
    An interrupt (Ctrl-C, a notebook's stop) ends it in order, and so does the end of this process: ``resume`` goes on.
    Raises ConfigError before anything is written, and RuntimeError if the search broke off or no trial was complete.
    """
    from tune_fairlora.plan.search_options import SearchOptions, checked

    return _started(vars(SearchOptions(**checked({"space": space, **options}))), None, wait)


def resume(search: str | os.PathLike[str], *, wait: bool = True, **options: Any) -> "Search":
    """Go on with a search that was broken off, as ``run`` does; ``options`` are those to be changed."""
    from tune_fairlora.plan.search_options import checked

    return _started(checked(options), os.fspath(search), wait)


def _started(options: dict[str, Any], resumed: str | None, wait: bool) -> "Search":
    from tune_fairlora.execution.search_process import SearchProcess

    process = SearchProcess(options, resumed)
    search = Search(process.begin(), process)
    return search.wait() if wait else search


class Search:
    """A search, as its folder holds it. Every look reads the folder anew: while the search runs, ``trials`` and
    ``front`` are those of the last trial that ended, some seconds old at most. All metrics are of the validation split,
    except those of ``confirmed``."""

    def __init__(self, folder: Path, process: "SearchProcess | None" = None):
        self.folder = folder
        self.name = folder.name
        self._process = process

    def __repr__(self) -> str:
        return f"Search({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        from analysis.html import front_page

        try:
            return front_page.fragment(self.results)
        except ConfigError:
            return "<p>No trial has ended yet.</p>"

    @property
    def results(self) -> "results.Search":
        """The tables, as ``analysis`` reads them. Raises ConfigError if they are damaged or not there yet."""
        from analysis import results

        try:
            return results.read(self.folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the tables of {self.folder} must be whole, but: {error}") from error

    @property
    def trials(self) -> "pd.DataFrame":
        """A row a trial: hyperparameters, status, the metrics of its last epoch, whether it is on the front."""
        return self.results.trials

    @property
    def epochs(self) -> "pd.DataFrame":
        return self.results.epochs

    @property
    def front(self) -> "pd.DataFrame":
        """The trials on the Pareto front, the best in the first objective first."""
        from analysis.tables import front

        return front.members(self.results)

    @property
    def confirmed(self) -> "pd.DataFrame":
        """A row a trial that was measured on the test split; empty before ``confirm``."""
        return self.results.confirmed

    @property
    def status(self) -> str:
        """How the search ended: "complete", "failed", "interrupted" or "stopped" (time budget); else "running", also
        where its process was killed."""
        return self.state.status

    @property
    def state(self) -> "State":
        """What the events in the search's log add up to. Raises ConfigError if the log is damaged."""
        from tune_fairlora.record.event_log import read_events
        from tune_fairlora.record.state import State

        state = State()
        try:
            for event in read_events(self.folder):
                state.apply(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the log of {self.folder} must be whole, but an event is not ({error!r})") from error
        return state

    def wait(self) -> "Search":
        """Show what the search prints until it ends, if this process has started it; in a notebook also its front."""
        if self._process is not None:
            status = self._process.wait(_Shown(self).refresh)
            self._process = None
            if status:
                raise RuntimeError(f"the search is {self.status} (exit status {status}): {self.folder / 'log.txt'}")
        return self

    def trial(self, number: int) -> "Trial":
        return Trial(self, number)

    def best(self, rule: str = "knee") -> "Trial":
        """The trial that ``rule`` picks: "knee", "accuracy", "fairness", or like "val_accuracy>=0.9 then val_delta_f1"
        (``analysis.pick``). Raises ConfigError if there is none."""
        from analysis.pick import pick
        from tune_fairlora.record import search_folder
        from tune_fairlora.record.state import COMPLETE

        choice = pick(self.results, rule)
        table = self.results.trials.set_index("number")
        own = table[(table["config_id"] == table.at[choice.number, "config_id"]) & (table["status"] == COMPLETE)]
        # Weights are those of the front and its rivals: of a configuration that came there late, its later trainings'.
        saved = [n for n in sorted(own.index) if search_folder.weights_of(self.folder, n).is_file()]
        return Trial(self, (saved or [choice.number])[0], f"{rule.strip()}: {choice.why}")

    def report(self, out: str | os.PathLike[str] | None = None, by: str = "val_accuracy") -> Path:
        """Write one HTML file about the search, by default report.html in its folder, and return its path. ``by`` is
        the metric that chooses a configuration where methods are compared. Raises ConfigError if tables or log are
        damaged or not there yet."""
        from trainables.files import replace_atomically
        from trainables.metrics import objective
        from tune_fairlora.record.event_log import read_events
        from tune_fairlora.reporting import sections
        from tune_fairlora.reporting.page import document

        by = objective(by, "metric of `by`")
        path = self.folder / REPORT if out is None else Path(out)
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"`out` must be a file in a folder that exists, but got {path}")
        try:
            data = sections.report_data(self.results, read_events(self.folder), by)
        except (KeyError, TypeError, AttributeError) as error:
            rule = f"the log of {self.folder} must be whole"
            raise ConfigError(f"{rule}, but an event of it is not ({error!r})") from error
        scripts = [data.drawing[1]] if len(data.front) else []
        text = document(f"Search {self.name}", sections.lead(data), sections.sections(data), scripts)
        content = text.encode(errors="replace")  # paths may hold halves of characters
        try:
            replace_atomically(path, lambda temporary: temporary.write_bytes(content))
        except OSError as error:
            raise ConfigError(f"the report cannot be written to {path} ({error.strerror})") from error
        return path

    def confirm(
        self, trials: Sequence[int] | None = None, refit: str | None = None, device: str = "cpu"
    ) -> "pd.DataFrame":
        """Measure trials on the test split, by default those on the front, and return ``confirmed``.

        ``refit``: None measures the saved models, "train" and "trainval" train anew first, on that split. To choose
        among trials by these numbers would be a search on the test split.
        """
        for confirmation in self.confirmations(trials, refit, device):
            if confirmation.error:
                warnings.warn(f"trial {confirmation.number} diverged: {confirmation.error}", stacklevel=2)
        return self.confirmed

    def confirmations(self, trials: Sequence[int] | None, refit: str | None, device: str) -> "Iterator[Confirmation]":
        """``confirm`` trial by trial: each is measured when it is asked for, and kept."""
        from tune_fairlora.execution import confirmation

        return confirmation.confirmations(self._finished("it is confirmed"), trials, refit, device)

    def _finished(self, before: str) -> "Finished":
        from tune_fairlora.record import search_folder

        return search_folder.read(self.folder, before)


class _Shown:
    """The front of a search under a notebook's cell, drawn anew whenever its table has changed."""

    def __init__(self, search: Search):
        self._search, self._drawn = search, 0.0

    def refresh(self) -> None:
        if "ipykernel" not in sys.modules:
            return
        table = self._search.folder / "trials.parquet"
        changed = table.stat().st_mtime if table.exists() else 0.0
        if changed > self._drawn:
            from IPython.display import display, update_display

            (update_display if self._drawn else display)(self._search, display_id=f"search-{id(self)}")
            self._drawn = changed


class Trial:
    """Trial ``number`` of ``search``; ``why`` says by which rule it was picked. Raises ConfigError if there is none."""

    def __init__(self, search: Search, number: int, why: str = ""):
        trials = search.state.trials
        if number not in trials:
            raise ConfigError(f"`trial` must be one of the search's {len(trials)}, but {number} does not exist")
        self.search, self.number, self.why = search, number, why
        self.status, self.reason, self.label = trials[number].status, trials[number].reason, trials[number].label
        self.values: dict[str, Any] = trials[number].values
        self.metrics: dict[str, float] = trials[number].metrics  # of its last epoch

    def __repr__(self) -> str:
        values = {name: self.metrics[name] for name in self.search.state.objectives if name in self.metrics}
        objectives = "".join(f", {name} {value:.4f}" for name, value in values.items())
        return f"Trial({self.label}, {self.status}{objectives})"

    @property
    def config(self) -> TrainConfig:
        return TrainConfig(**self.values)

    def predict(self, images: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]") -> "pd.DataFrame":
        """What the saved model says of image files: a row a file with ``file``, ``class``, ``probability``, and
        ``probability[NAME]`` for each class; all of them are missing where a file cannot be read."""
        import pandas as pd

        files = [Path(images)] if isinstance(images, str | os.PathLike) else [Path(image) for image in images]
        for file in files:
            if not file.exists():
                raise ConfigError(f"every image must be a file, but {file} does not exist")
        predictions, classes = self._model.predict(files), self._model.classes
        probability = pd.DataFrame(predictions.probability, index=predictions.index, columns=range(len(classes)))
        probability = probability.reindex(range(len(files)))
        best = [None if pd.isna(row[0]) else classes[int(row.argmax())] for row in probability.to_numpy()]
        table = {"file": list(map(str, files)), "class": best, "probability": probability.max(axis=1)}
        return pd.DataFrame(table | {f"probability[{name}]": probability[i] for i, name in enumerate(classes)})

    @cached_property
    def _model(self) -> "Exported":
        """The saved model, as an export of it would be opened."""
        from trainables.export.predict import Exported
        from trainables.models.backbones import BACKBONES
        from tune_fairlora.record import search_folder
        from tune_fairlora.reporting import trial_results

        finished, row = self._saved("a trial predicts"), BACKBONES[self.config.backbone]
        how = trial_results.preprocessing(finished.settings, self.config)
        facts = {name: finished.settings[name] for name in ("classes", "groups")}
        facts |= {"config": self.config.hyperparameters()}
        facts |= {"preprocessing": {**how, "mean": list(row.mean), "std": list(row.std)}}
        return Exported(search_folder.model_of(finished, self.number, "choose another trial").eval(), facts)

    def export(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        merge: bool = False,
        register: str | None = None,
        alias: str | None = None,
    ) -> "Export":
        """Write the model into ``out``, a new folder that runs without this project: weights, loader, class names,
        metrics, model card. By default exports/NNNN in the search's folder.

        ``merge`` folds an adapter into the weights. ``register`` makes it a new version of that model in MLflow's
        registry too, under ``alias``. Raises ConfigError if the trial has no saved model; then nothing is written.
        """
        from tune_fairlora.reporting.trial_results import all_or_nothing, export_trial

        if alias and not register:
            raise ConfigError("`alias` names a version of a registered model: give `register` too")
        for argument, text in (("register", register), ("alias", alias)):
            if text is not None and not NAME.fullmatch(text):
                raise ConfigError(f"`{argument}` takes letters, digits, spaces, dots, - and _, but got {text!r}")
        finished = self._saved("a trial is exported")
        default = finished.folder / "exports" / f"{self.number:04d}{'-merged' * merge}"
        folder = default if out is None else Path(out)
        _require_new(folder)
        uri, experiment = self._registry(finished) if register else ("", "")
        difference = all_or_nothing(folder, lambda new: export_trial(new, finished, self.number, self.why, merge))
        if register is None:
            return Export(folder, difference)
        from tune_fairlora.tracking import models

        version = models.register_trial(uri, experiment, finished, self.number, register, alias)
        return Export(folder, difference, uri, f"models:/{register}" + (f"@{alias}" if alias else f"/{version}"))

    def _saved(self, before: str) -> "Finished":
        """The search, once it is over, with this trial's weights and those that it started from on disk."""
        from tune_fairlora.record import search_folder
        from tune_fairlora.record.state import COMPLETE

        finished = self.search._finished(before)
        if self.status != COMPLETE:
            raise ConfigError(f"`trial` must be a complete trial, but trial {self.number} is {self.status}")
        if not search_folder.weights_of(finished.folder, self.number).is_file():
            kept = [n for n in sorted(finished.state.trials) if search_folder.weights_of(finished.folder, n).is_file()]
            others = f"take one of {', '.join(map(str, kept[:20]))}" if kept else "no other trial has any either"
            raise ConfigError(
                f"trial {self.number} has no saved weights, as a search keeps those of its front and "
                f"its rivals: {others}, "
                "or train its configuration again in a search of its own (--enqueue)"
            )
        search_folder.require_weights(finished.settings)
        return finished

    def _registry(self, finished: "Finished") -> tuple[str, str]:
        """Address and experiment of the MLflow that has the trial. Raises ConfigError if it does not answer."""
        from tune_fairlora.tracking import tracking_uri
        from tune_fairlora.tracking.outbox import read_position

        position = read_position(finished.folder)
        if position is None or not finished.state.trials[self.number].run_id:
            resync = f"python -m tune_fairlora.search --resync {finished.folder}"
            raise ConfigError(f"`register` needs the search in MLflow: send it with: {resync}")
        tracking_uri.check_store(position.uri)
        tracking_uri.require_database(position.uri)
        return position.uri, position.experiment


@dataclass(frozen=True)
class Export:
    """The folder of an exported trial, to be used as a path. Loaded again from there, the model's logits differ by
    ``difference`` at most. ``reference`` is its address in the model registry at ``registry``, if it was registered."""

    folder: Path
    difference: float
    registry: str = ""
    reference: str = ""

    def __fspath__(self) -> str:
        return str(self.folder)


def _require_new(out: Path) -> None:
    if out.resolve() == Path.cwd():
        raise ConfigError("`out` must be a new folder, but is the current one: choose another")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"`out` must be a new or an empty folder, but {out} is not: choose another")
    nearest = next(path for path in out.resolve().parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"`out` must lie in a folder that can be written, but {nearest} is not")
