"""The second half of a search: its front measured on the test split, with fresh trainings side by side.

They are trials of a record of their own, ``confirm/`` in the search's folder, carried out like the search's: retried,
resumed, recorded. Nothing of them goes back into the search: what they measure never chooses.
"""

import dataclasses
import json
from typing import Any

from analysis.results import CONFIRMATION, FRESH
from trainables import logits
from trainables.config import TrainConfig
from trainables.data.store import Store
from trainables.files import replace_atomically
from tune_fairlora.algorithms.searcher import FreshSearcher, Run
from tune_fairlora.execution.confirmation import keep, measured
from tune_fairlora.execution.controller import SearchController
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.resume import to_go_on
from tune_fairlora.record import looks
from tune_fairlora.record.event_log import Record, collapse_floor
from tune_fairlora.record.state import COMPLETE, FAILED, State
from tune_fairlora.record.tables import render


class FreshController(SearchController):
    """Carries out ``runs`` beside the record of the search; keeps logits, but no weights."""

    def __init__(self, runs: list[Run], *arguments: Any) -> None:
        self.runs = runs
        super().__init__(*arguments)

    def make_searcher(self, again: list[int]) -> "FreshSearcher":  # type: ignore[override]
        return FreshSearcher(self.record, self, self.runs, again)

    def kept(self) -> set[int]:
        return set()


class Confirmation:
    """The fresh trainings of the closed search ``record`` of ``plan``: their own plan and record, which is opened here,
    and which ``runs`` are left to be made. ``look``: how often the test split has been looked at, with this time."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self.folder = plan.folder / CONFIRMATION
        self.folder.mkdir(exist_ok=True)
        self.search, self.record = record, Record(self.folder)
        options = dataclasses.replace(plan.options, scheduler="none", seeds=1, reseed=0.0)
        front = [numbers[0] for numbers in record.front_points()]
        self.runs = fresh_runs(record, self.record, front, plan.options.confirm_seeds)
        again = len(to_go_on(self.record, options.max_failures))
        trials = len(self.record.trials) + len(self.runs)
        self.plan = dataclasses.replace(plan, options=options, folder=self.folder, trials=trials, points=(), test=True)
        store = Store(plan.store)
        rows = store.rows("test")
        if not self.record.settings:
            floor = collapse_floor(store.label[rows], len(plan.manifest.classes))
            seen = looks.add(plan.manifest.fingerprint, record.settings["name"], "fresh trainings")
            changes = {"name": f"{record.settings['name']} on test", "scheduler": "none", "seeds": 1, "reseed": 0.0}
            changes |= {"constraints": [], "collapse_floor": floor, "trials": trials, "look": seen, "split": "test"}
            self.record.add("search", settings=record.settings | changes)
        elif self.runs or again:
            self.record.add("resume", changes={"trials": trials})
        logits.keep_images(self.folder, **store.facts("test"))
        text = json.dumps(self.record.settings, indent=1)
        replace_atomically(self.folder / "search.json", lambda path: path.write_text(text))
        self.left = len(self.runs) + again
        self.controller: FreshController | None = None

    def about(self) -> str:
        """What is about to be done, for the terminal."""
        points, seeds = len(self.search.front_points()), self.plan.options.confirm_seeds
        each = f"{seeds} fresh training{'s' if seeds > 1 else ''} each"
        time = f"it is looked at for the {_ordinal(self.look)} time"
        return f"{points} points of the front on the test split, {each}; {time}"

    @property
    def look(self) -> int:
        return int(self.record.settings["look"])

    def begin(self, *parts: Any) -> FreshController:
        """Its controller; ``parts`` are those of ``SearchController`` behind plan and record."""
        self.controller = FreshController(self.runs, self.plan, self.record, *parts)
        return self.controller

    def complete(self) -> bool:
        return self.controller is not None and self.controller.complete()

    def close(self, outcome: str) -> None:
        """Close open trainings and the record, and put what was measured into the search's ``confirmed.parquet``."""
        if self.controller is not None:
            self.controller.end_open_trials(outcome)
            self.controller.renderer.close()
            self.controller.sweep()
        render(self.record)
        if self.left:
            self.record.add("close", status=outcome)
        keep_fresh(self.search, self.record)
        self.record.close()


def seconds_to_confirm(search: State, seeds: int, slots: int) -> float:
    """How long fresh trainings of the front will take, ``slots`` at once, by what its members took, and half as long
    again."""
    longest = [max(search.trials[n].seconds for n in numbers) for numbers in search.front_points()]
    return 1.5 * seeds * max(sum(longest) / slots, max(longest, default=0.0))


def fresh_runs(search: State, confirmed: State, front: list[int], seeds: int) -> list[Run]:
    """What ``confirmed`` lacks of ``seeds`` fresh trainings of the configuration of each trial in ``front``, with seeds
    that the search has used for none of its own: first the first of each, so that an early end has something of all."""
    used = max(trial.seed for trial in search.trials.values())
    runs: list[tuple[int, int, Run]] = []
    for place, number in enumerate(front):
        first = search.trials[number]
        own = [trial for trial in confirmed.trials.values() if trial.config_id == first.config_id]
        last = max([used, *(trial.seed for trial in own)])
        have = sum(trial.status != FAILED for trial in own)
        for i in range(seeds - have):
            config = dataclasses.replace(TrainConfig(**first.values), seed=last + 1 + i)
            runs.append((have + i, place, (config, number)))
    return [run for *_, run in sorted(runs, key=lambda each: each[:2])]


def keep_fresh(search: Record, confirmed: Record) -> None:
    """A row for each fresh training that came to its end, in place of those that were kept before."""
    rows, groups = [], confirmed.settings["groups"]
    for trial in confirmed.trials.values():
        if trial.status == COMPLETE:
            metrics = {k.removeprefix("val_"): v for k, v in trial.metrics.items() if k.startswith("val_")}
            accuracy = dict(zip(groups, trial.tables.get("by_group", {}).get("accuracy", ())))
            rows.append({"number": trial.repeats, **measured(trial, FRESH, metrics, accuracy)})
    keep(search.folder, rows, lambda old: old["trained_on"] == FRESH)


def _ordinal(n: int) -> str:
    """ "1st", "2nd", "3rd", "4th", "11th"."""
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
