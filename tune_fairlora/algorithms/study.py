"""The Optuna study of a search and its file: created, opened, mended.

The study follows the event log: what it lacks of the log is told to it again, and it never knows of an outcome that
the log lacks. Optuna's dashboard opens its file, a journal of Optuna's, as it is.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from search_spaces.space import Space
from trainables.config import ConfigError
from trainables.files import replace_atomically
from trainables.metrics import OBJECTIVES
from tune_fairlora.record.event_log import whole_lines
from tune_fairlora.record.state import Trial

STUDY_FILE = "optuna.journal"
STUDY_NAME = "search"


class Backend(JournalFileBackend):
    """Optuna's file. Half a line, which a full disk took, must not stay: the next line would be lost with it."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError:
            _cut_torn_line(Path(self._file_path))
            raise


class SearchStudy:
    """The study in ``folder``, created if there is no file of it yet.

    The caller must hold the search's lock: locks and a last line that a crash left behind are removed. Raises
    ConfigError where the file is damaged or its study has other objectives. In a file with one study a trial's id is
    its number.
    """

    def __init__(self, folder: Path, objectives: Sequence[str]) -> None:
        self.path = path = folder / STUDY_FILE
        for lock in folder.glob(f"{STUDY_FILE}.lock*"):
            lock.unlink()
        fresh, directions = not path.exists(), [StudyDirection[OBJECTIVES[name].upper()] for name in objectives]
        if not fresh:
            _cut_torn_line(path)
        try:
            self.storage = JournalStorage(Backend(str(path)))
            if fresh:
                study = optuna.create_study(study_name=STUDY_NAME, storage=self.storage, directions=directions)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(objectives))
            self.optuna = optuna.load_study(study_name=STUDY_NAME, storage=self.storage)
            # Writes attributes on trials: a Trial wakes its study's sampler when it is made, which must not notice.
            idle = RandomSampler(seed=0)
            self._for_notes = optuna.load_study(study_name=STUDY_NAME, storage=self.storage, sampler=idle)
        except OSError:
            raise
        except Exception as error:  # Optuna raises whatever its reading of a foreign line runs into
            raise ConfigError(f"{path} must be this search's Optuna journal, but cannot be read ({error})") from error
        if self.optuna.directions != directions:
            raise ConfigError(f"{path} must have this search's objectives, but has others")

    def check(self, space: Space, trials: Iterable[Trial]) -> None:
        """Raise ConfigError unless the study has the configuration of each of the log's ``trials``."""
        for trial in trials:
            number = trial.number
            if number >= len(self):
                raise ConfigError(f"{self.path} must know the log's trial {number}, but does not: it is not whole")
            try:
                config_id = space.suggest(FixedTrial(self[number].params), seed=trial.seed).config_id
            except (ValueError, KeyError):  # a parameter that is not drawn, or that the space does not have
                config_id = None
            if config_id != trial.config_id:
                raise ConfigError(f"{self.path} must be this search's, but its trial {number} is another")

    def __len__(self) -> int:
        return len(self.optuna.get_trials(deepcopy=False))

    def __getitem__(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(number)

    def note(self, number: int, notes: Mapping[str, object], violations: Mapping[str, float]) -> None:
        """Set ``notes`` as user attributes of a running trial, and its constraints: one above 0 is broken."""
        trial = optuna.Trial(self._for_notes, number)
        for name, note in notes.items():
            trial.set_user_attr(name, note)
        for name, violation in violations.items():
            trial.set_constraint(name, violation)


def distribution_data(entry: BaseDistribution | Mapping[str, Any]) -> dict[str, Any]:
    """As the record holds it: {"name": "IntDistribution", "attributes": {"low": 1, "high": 8, …}}; of a mapping, such
    as a space's ``search``, by its keys."""
    if isinstance(entry, Mapping):
        return {key: distribution_data(each) for key, each in entry.items()}
    data: dict[str, Any] = json.loads(distribution_to_json(entry))
    return data


def _cut_torn_line(path: Path) -> None:
    os.truncate(path, whole_lines(path))


def forget_outcomes(folder: Path, numbers: set[int], known: int) -> None:
    """Take back how the trials in ``numbers`` ended, so that they can be tried again under their numbers (Optuna itself
    has no way back), and how those from ``known`` on did, of which the log knows nothing."""
    path = folder / STUDY_FILE
    if not path.exists():
        return
    _cut_torn_line(path)
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not _is_outcome(line, numbers, known)]
    if len(kept) < len(lines):
        replace_atomically(path, lambda temporary: temporary.write_text("".join(f"{line}\n" for line in kept)))


def _is_outcome(line: str, numbers: set[int], known: int) -> bool:
    try:
        entry = json.loads(line)
        if entry["op_code"] != JournalOperation.SET_TRIAL_STATE_VALUES:
            return False
        number, state = entry["trial_id"], TrialState(entry["state"])
    except (ValueError, KeyError, TypeError):  # no journal of Optuna's, which whoever opens it will say
        return False
    return (number in numbers or number >= known) and state.is_finished()
