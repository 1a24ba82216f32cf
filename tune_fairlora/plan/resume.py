"""``--resume NAME``: the plan of a search that was broken off, from its own record and nothing else."""

import argparse
from pathlib import Path

from analysis.record_format import FORMAT
from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.models.backbones import fingerprint
from trainables.trial import checkpoints
from tune_fairlora.algorithms import study
from tune_fairlora.plan import plan
from tune_fairlora.plan.checks import ModelCheckCache
from tune_fairlora.record.event_log import EVENT_LOG, Record
from tune_fairlora.record.search_folder import find
from tune_fairlora.record.state import FAILED, INTERRUPTED, RUNNING, Trial
from tune_fairlora.tracking import outbox

# What may be given anew with --resume; all else is the search's own.
CHANGEABLE = (
    *("trials", "max_failures", "time_budget", "trial_timeout"),
    *("cpus_per_trial", "gpus_per_trial", "max_concurrent", "address", "tracking_uri", "experiment", "data", "weights"),
)
NOT_KEPT = ("time_budget", "address")  # they were that run's own


def make_plan(
    args: argparse.Namespace, given: dict, defaults: dict, progress, begin: plan.Begin = plan.nothing
) -> plan.Plan:
    """The plan that goes on with a search. ``given`` holds the options that the command line has, by name; ``begin`` is
    called as `plan.make_plan` calls it.

    The record that it holds is locked until the process ends. Raises ConfigError where the folder is no search, was
    made by another version, is at work, or where space, data or weights are not those of the search.
    """
    folder = find(args.resume, args.storage)
    if args.name is not None:
        raise ConfigError(f"a search that is resumed has a name already, but got --name {args.name}: leave it out")
    record = Record(folder)
    try:
        return _plan(record, args, given, defaults, progress, begin)
    except BaseException:
        record.close()
        raise


def _plan(record: Record, args: argparse.Namespace, given: dict, defaults: dict, progress, begin) -> plan.Plan:
    settings = record.settings
    _check_format(settings, record.folder)
    recorded = {name: value for name, value in settings["options"].items() if name not in NOT_KEPT}
    _check_given(recorded, {name: value for name, value in given.items() if name not in plan.NOT_KEPT})
    changes = {name: given[name] for name in CHANGEABLE if name in given}
    merged = argparse.Namespace(**{**defaults, **recorded, **changes})
    space = plan.resolve_space(merged)
    _compare("space", {name: settings[name] for name in plan.space_facts(space)}, plan.space_facts(space))
    plan.check_options(merged)
    store = _store(settings, space, merged, given, progress)
    proof = ModelCheckCache(space, merged.weights, Store(store).manifest)
    begin(merged, plan.most_trials(merged, space), not proof.known)
    made = plan.assemble(merged, space, record.folder, store, tuple(settings["enqueue"]), proof, record)
    weights = fingerprint(made.weights) or "hub"
    _compare("weights", {"weights": settings["weights"]}, {"weights": weights})
    if made.trials < len(record.trials):
        raise ConfigError(f"--trials must be at least the {len(record.trials)} that were begun, but is {made.trials}")
    outbox.read_position(record.folder)
    if record.trials:
        if not (record.folder / study.STUDY_FILE).is_file():
            raise ConfigError(f"{record.folder / study.STUDY_FILE} is missing, without which the search cannot go on")
        study.SearchStudy(record.folder, space.objectives, ()).check(space, record.trials.values())
    for trial in to_go_on(record, made.max_failures):
        checkpoints.check_checkpoint(checkpoints.trial_folder(record.folder, trial.number), trial.config_id, trial.seed)
    return made


def _check_format(settings: dict, folder: Path) -> None:
    made_with = settings.get("format", 1)
    if not settings:
        raise ConfigError(
            f"{folder / EVENT_LOG} is empty: that search never began; delete the folder and start it anew"
        )
    if made_with > FORMAT:
        raise ConfigError(f"{folder} was made by a newer version (format {made_with}, this one has {FORMAT}): upgrade")
    if made_with < FORMAT:
        raise ConfigError(f"{folder} was made before searches could be resumed (format {made_with}): start a new one")


def _check_given(recorded: dict, given: dict) -> None:
    for name, value in given.items():
        if name not in CHANGEABLE and value != recorded.get(name) and not _same_file(value, recorded.get(name)):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"a resumed search keeps its {option} {recorded.get(name)}, but got {value}: leave it out, "
                "or start a new search"
            )


def _same_file(given, recorded) -> bool:
    return isinstance(given, str) and isinstance(recorded, str) and str(Path(given).resolve()) == recorded


def _compare(what: str, before: dict, now: dict) -> None:
    """Raise ConfigError on the first difference, saying what it is."""
    for name in before:
        if before[name] == now[name]:
            continue
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            old, new = old.get(name), new.get(name)
        raise ConfigError(f"the {what} must be that of the search, but {name} was {old} and is now {new}")


def _store(settings: dict, space, merged: argparse.Namespace, given: dict, progress) -> Path:
    """The images of the search: the store that it used if that is still there, else made anew from the data."""
    store = Path(settings["store"])
    if not store.is_file() or "data" in given:
        store = plan.prepare(space, merged, progress)
    _compare("data", {"fingerprint": settings["data_fingerprint"]}, {"fingerprint": Store(store).manifest.fingerprint})
    return store


def to_go_on(record: Record, max_failures: int) -> list[Trial]:
    """The trials that a resumed search takes up, by number: those broken off, and those that failed no more often than
    they may (a model that diverged would diverge again)."""
    return [trial for _, trial in sorted(record.trials.items()) if _goes_on(trial, max_failures)]


def _goes_on(trial: Trial, max_failures: int) -> bool:
    return trial.status in (RUNNING, INTERRUPTED) or (trial.status == FAILED and 0 < trial.faults <= max_failures)
