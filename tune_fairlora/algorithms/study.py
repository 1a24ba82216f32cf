"""The Optuna study of a search and its journal file: made, opened, mended.

The journal follows the event log: what it lacks of the log is told to it again, and it never knows of an outcome that
the log lacks. Optuna's dashboard opens it as it is.
"""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from search_spaces.space import Space
from trainables.config import ConfigError
from trainables.files import replace_atomically
from trainables.metrics import OBJECTIVES
from tune_fairlora.record.event_log import whole_lines
from tune_fairlora.record.state import Trial

JOURNAL = "optuna.journal"
STUDY = "search"


class Backend(JournalFileBackend):
    """Optuna's file. Half a line, which a full disk took, must not stay: the next line would be lost with it."""

    def append_logs(self, logs: list[dict]) -> None:
        try:
            super().append_logs(logs)
        except OSError:
            _cut_torn_line(Path(self._file_path))
            raise


class Journal:
    """The study in ``folder``, made with ``points`` to be tried first if there is no journal yet.

    The caller must hold the search's lock: locks and a last line that a crash left behind are taken away. Raises
    ConfigError where the journal is damaged or its study has other objectives. In a journal of one study a trial's id
    is its number.
    """

    def __init__(self, folder: Path, objectives: Sequence[str], points: Iterable[dict]):
        self.path = path = folder / JOURNAL
        for left in folder.glob(f"{JOURNAL}.lock*"):
            left.unlink()
        fresh, directions = not path.exists(), [OBJECTIVES[name] for name in objectives]
        if not fresh:
            _cut_torn_line(path)
        try:
            self.storage = JournalStorage(Backend(str(path)))
            self.study = self._create(objectives, directions, points) if fresh else self._load()
            own = [direction.name.lower() for direction in self.study.directions] == directions
            # Writes attributes on trials: a Trial wakes its study's sampler when it is made, which must not notice.
            self._plain = optuna.load_study(study_name=STUDY, storage=self.storage, sampler=RandomSampler(seed=0))
        except OSError:
            raise
        except Exception as error:  # Optuna raises whatever its reading of a foreign line runs into
            raise ConfigError(f"{path} must be this search's Optuna journal, but cannot be read ({error})") from error
        if not own:
            raise ConfigError(f"{path} must have this search's objectives, but has others")

    def _create(self, objectives: Sequence[str], directions: list[str], points: Iterable[dict]) -> optuna.Study:
        study = optuna.create_study(study_name=STUDY, storage=self.storage, directions=directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(objectives))
        for point in points:
            study.enqueue_trial(point)
        return study

    def _load(self) -> optuna.Study:
        return optuna.load_study(study_name=STUDY, storage=self.storage)

    def check(self, space: Space, trials: Iterable[Trial]) -> None:
        """Raise ConfigError unless the journal has the configuration of each of the log's ``trials``."""
        for trial in trials:
            if trial.number >= len(self):
                raise ConfigError(
                    f"{self.path} must know trial {trial.number} of the log, but does not: it is not whole"
                )
            if self._configuration(space, trial) != trial.config_id:
                raise ConfigError(f"{self.path} must be this search's, but its trial {trial.number} is another")

    def _configuration(self, space: Space, trial: Trial) -> str | None:
        try:
            return space.suggest(FixedTrial(self[trial.number].params), seed=trial.seed).config_id
        except (ValueError, KeyError):  # a parameter that is not drawn, or that the space does not have
            return None

    def __len__(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def __getitem__(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(number)

    def reopen(self, number: int) -> optuna.Trial:
        """A trial that is still running, to draw what it has not drawn yet with the study's sampler."""
        return optuna.Trial(self.study, number)

    def tell(
        self, number: int, state: TrialState, values: list[float] | None, notes: dict, constraints: dict[str, float]
    ) -> None:
        """Finish a running trial, once: ``notes`` become user attributes, a constraint above 0 is broken."""
        if self[number].state.is_finished():
            return
        trial = optuna.Trial(self._plain, number)
        for name, value in notes.items():
            trial.set_user_attr(name, value)
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        self.study.tell(number, values, state=state)


def _cut_torn_line(path: Path) -> None:
    os.truncate(path, whole_lines(path))


def remove(folder: Path) -> None:
    (folder / JOURNAL).unlink(missing_ok=True)


def forget_outcomes(folder: Path, numbers: set[int], known: int) -> None:
    """Take back how the trials in ``numbers`` ended, so that they can be tried again under their numbers (Optuna itself
    has no way back), and how those from ``known`` on did, of which the log knows nothing."""
    path = folder / JOURNAL
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
