"""``--resume NAME``: the plan of a search that was broken off, from its own record and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.record_format import FORMAT
from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.models.backbones import fingerprint
from trainables.trial import checkpoints
from tune_fairlora.algorithms import study
from tune_fairlora.plan import plan
from tune_fairlora.plan.search_options import DEFAULTS, OPTIONS, SearchOptions, checked
from tune_fairlora.record.event_log import EVENT_LOG, Record
from tune_fairlora.record.search_folder import find
from tune_fairlora.record.state import FAILED, INTERRUPTED, RUNNING, Trial
from tune_fairlora.tracking import outbox


def make_plan(
    name: str, given: Mapping[str, object], progress: plan.Progress, begin: plan.Begin = lambda *_: None
) -> plan.Plan:
    """The plan that goes on with the search ``name``, with the options ``given`` anew; ``begin``: see plan.make_plan.

    The record that it holds is locked until the process ends. Raises ConfigError where the folder is no search, was
    made by another version, is at work, or where space, data or weights are not those of the search.
    """
    given = checked(given)
    folder = find(name, given.get("storage", DEFAULTS["storage"]))
    if given.get("name") is not None:
        raise ConfigError(f"a search that is resumed has a name already, but got `name` {given['name']}: leave it out")
    record = Record(folder)
    try:
        return _plan(record, given, progress, begin)
    except BaseException:
        record.close()
        raise


def _plan(record: Record, given: dict[str, Any], progress: plan.Progress, begin: plan.Begin) -> plan.Plan:
    settings, folder = record.settings, record.folder
    made_with = settings.get("format", 1)
    if not settings:
        log = folder / EVENT_LOG
        raise ConfigError(f"{log} is empty: that search never began; delete the folder and start it anew")
    if made_with > FORMAT:
        raise ConfigError(f"{folder} was made by a newer version (format {made_with}, this one has {FORMAT}): upgrade")
    if made_with < FORMAT:
        raise ConfigError(f"{folder} was made before searches could be resumed (format {made_with}): start a new one")
    options = _options(settings["options"], given)
    space = plan.resolve_space(options)
    _compare("space", {name: settings[name] for name in plan.space_facts(space)}, plan.space_facts(space))
    plan.check_addresses(options)
    store = Path(settings["store"])
    if not store.is_file() or "data" in given:
        store = plan.prepare(space, options, progress)
    images = Store(store).manifest.fingerprint
    _compare("data", {"fingerprint": settings["data_fingerprint"]}, {"fingerprint": images})
    resumed = plan.assemble(options, space, folder, store, tuple(settings["enqueue"]), begin, record)
    _compare("weights", {"weights": settings["weights"]}, {"weights": fingerprint(resumed.weights) or "hub"})
    if resumed.trials < (begun := len(record.trials)):
        raise ConfigError(f"`trials` must be at least the {begun} that were begun, but is {resumed.trials}")
    outbox.read_position(folder)
    if record.trials:
        if not (folder / study.STUDY_FILE).is_file():
            raise ConfigError(f"{folder / study.STUDY_FILE} is missing, without which the search cannot go on")
        study.SearchStudy(folder, space.objectives).check(space, record.trials.values())
    for trial in to_go_on(record, options.max_failures):
        checkpoints.check_checkpoint(checkpoints.trial_folder(folder, trial.number), trial.config_id, trial.seed)
    return resumed


def _options(recorded: Mapping[str, object], given: dict[str, Any]) -> SearchOptions:
    """The options of the search with those ``given`` anew. Raises ConfigError on one that a search cannot change."""
    inherited = checked({name: recorded[name] for name in OPTIONS if name in recorded and not OPTIONS[name].once})
    for name, value in given.items():
        before = inherited.get(name, DEFAULTS[name])
        if OPTIONS[name].resumable or not OPTIONS[name].kept or value == before:
            continue
        if not (OPTIONS[name].path and before and value and str(Path(value).resolve()) == before):
            raise ConfigError(
                f"a resumed search keeps its `{name}` {_shown(before)}, but got {_shown(value)}: leave it out, "
                "or start a new search"
            )
    changes = {name: value for name, value in given.items() if OPTIONS[name].resumable}
    return SearchOptions(**inherited | changes)


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else "unset" if value is None else str(value)


def _compare(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError that names the first difference."""
    for name in before:
        if before[name] == now[name]:
            continue
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            old, new = old.get(name), new.get(name)
        raise ConfigError(f"the {what} must be that of the search, but {name} was {old} and is now {new}")


def to_go_on(record: Record, max_failures: int) -> list[Trial]:
    """The trials that a resumed search continues, by number: the interrupted ones, and those that failed no more often
    than allowed (a model that diverged would diverge again)."""

    def goes_on(trial: Trial) -> bool:
        return trial.status in (RUNNING, INTERRUPTED) or (trial.status == FAILED and 0 < trial.faults <= max_failures)

    return [trial for _, trial in sorted(record.trials.items()) if goes_on(trial)]
