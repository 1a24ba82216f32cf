"""What the terminal shows: a live view, or one line a finished trial where output goes elsewhere."""

import math
import statistics
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, TaskID, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from analysis import chance
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import (
    ALIVE,
    COLLAPSED,
    COMPLETE,
    DIVERGED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    Trial,
)

if TYPE_CHECKING:
    from analysis.claims import Claims
    from analysis.results import Search

HYPERPARAMETERS = {"rank": "rank", "lam": "λ", "lr": "lr"}  # shown, with their headings
WORST_GROUP = "val_worst_cell_accuracy"
HEADINGS = {"val_delta_f1": "ΔF1", WORST_GROUP: "worst group", "val_min_group_accuracy": "worst attribute"}


class Progress:
    """Draws ``record`` on ``console``; ``total`` trials are planned, ``slots`` run at once. ``test``: they confirm a
    front on the test split, and make none."""

    def __init__(self, record: Record, total: int, slots: int, console: Console, test: bool = False):
        self.record, self.total, self.slots, self.console, self.test = record, total, slots, console, test
        self._live = Live(
            get_renderable=self._view,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,  # what Ray prints stays in the log
            redirect_stderr=False,
        )

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def ended(self, number: int) -> None:
        """Print the line of a trial that has just ended; under the live view it scrolls by above it."""
        record, trial = self.record, self.record.trials[number]
        ended = len(record.trials) - record.count(RUNNING, INTERRUPTED) + (trial.status == INTERRUPTED)
        seconds = f"{trial.seconds:.1f} s"
        values = "  ".join(f"{heading(name)} {trial.metrics.get(name, math.nan):.4f}" for name in record.objectives)
        line = f"{ended:4d}/{self._total()}  {trial.label:<22} {values}  {seconds:>7}  {self._note(trial)}"
        self.console.print(Text(line), soft_wrap=True)

    def _total(self) -> int:
        """How many trials there will be: with ``--seeds``, a stopped configuration does not get its other seeds."""
        left_out = 0
        for numbers in self.record.configurations() if self.record.seeds > 1 else ():
            if any(self.record.trials[n].status not in ALIVE for n in numbers):
                left_out += max(0, self.record.seeds - len(numbers))
        return self.total - left_out

    def _note(self, trial: Trial) -> str:
        if trial.status != COMPLETE:
            return trial.reason if trial.reason.startswith(trial.status) else f"{trial.status}: {trial.reason}"
        if self.test:
            return f"trial {trial.repeats} confirmed"
        numbers = self.record.siblings(trial.number)
        again = "" if trial.repeats is None else f"trial {trial.repeats} again"
        if self.record.decided(numbers) and not self.record.feasible(numbers):
            return ", ".join(filter(None, [again, f"infeasible: {', '.join(map(str, self.record.constraints))}"]))
        return ", ".join(filter(None, [again, "front" if trial.number in self.record.front() else ""]))

    def tried_again(self, number: int, reason: str, most: int) -> None:
        trial = self.record.trials[number]
        line = f"{trial.label:<22} failed: {reason}; tried again from epoch {len(trial.epochs)}"
        self.console.print(Text(f"      {line} ({trial.faults} of {most})"), soft_wrap=True)

    def _view(self) -> Group:
        record, trials = self.record, list(self.record.trials.values())  # drawn in a thread of its own
        running = ", ".join(f"{t.label} (epoch {len(t.epochs)})" for t in trials if t.status == RUNNING) or "none"
        failed, off = record.count(FAILED, DIVERGED), record.count(STOPPED, COLLAPSED)
        seconds = [t.seconds for t in trials if t.status not in (RUNNING, INTERRUPTED)]
        time_left = "time left: not known yet"
        if seconds:
            left = (self._total() - len(seconds)) * statistics.fmean(seconds) / self.slots
            time_left = f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
        head = (
            f"{record.count(COMPLETE)} complete, {off} stopped or collapsed, {failed} failed of {self._total()}; "
            f"{time_left}"
        )
        lines = [Text(f"on the test split: {head}" if self.test else head, style="bold"), Text(f"running: {running}")]
        if self.test:
            return Group(*lines)
        front = front_table(record, "Front so far")
        return Group(*lines, Text(f"hypervolume {record.hypervolume():.4f}"), front)


class Bars:
    """Bars on stderr, if it is a terminal, each from its first step on: images decoded, bytes downloaded."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = "{task.description}", BarColumn(), TimeRemainingColumn(), "{task.fields[amount]}"
        self._bars = ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        if self._tasks:
            self._bars.stop()  # else an interrupt would leave the terminal without its cursor

    def images(self, done: int, total: int) -> None:
        self._show("decoding images", done, total, f"{done}/{total}")

    def bytes(self, done: int, total: int) -> None:
        """``total`` is 0 where the server does not say."""
        self._show("downloading", done, total or None, f"{decimal(done)}/{decimal(total) if total else '?'}")

    def _show(self, text: str, done: int, total: int | None, amount: str) -> None:
        if text not in self._tasks:
            self._bars.start()
            self._tasks[text] = self._bars.add_task(text, total=total, amount=amount)
        self._bars.update(self._tasks[text], completed=done, total=total, amount=amount)


def heading(name: str) -> str:
    return HEADINGS.get(name, name.removeprefix("val_"))


def front_table(record: Record, title: str, claimed: "Claims | None" = None) -> Table:
    """The front, best first objective first: trials, method, hyperparameters, objectives, worst group.

    Objectives are what is claimed of a configuration, with half of the 95 % interval and the chance to be on the front
    where they are ``claimed`` with; else the shrunk means so far. The worst group's accuracy is the mean over its
    trainings.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ["trials", "method", *HYPERPARAMETERS.values(), *map(heading, record.objectives)]
    more = [] if WORST_GROUP in record.objectives else [WORST_GROUP]
    for name in (*heads, *map(heading, more), *(["on\nfront"] if claimed else [])):
        text = name.replace("worst ", "worst\n")  # in 80 columns there is no room for it on one line
        table.add_column(text, justify="left" if name in ("trials", "method") else "right", no_wrap=True)
    with record.lock:  # the live view is drawn in a thread of its own
        points, worth = record.front_points(), record.worth()
        means = {numbers[0]: worth.mean(numbers[0]) for numbers in points}
    rows = claimed.front.set_index("number") if claimed else None
    for numbers in points:
        trials, values = [record.trials[number] for number in numbers], record.trials[numbers[0]].values
        texts = [f"{value:.4f}" for value in means[numbers[0]]]
        if rows is not None:
            row = rows.loc[numbers[0]]
            texts = [brief(row[f"{name}_claimed"], row[f"{name}_half"]) for name in record.objectives]
        worst = [statistics.fmean(trial.metrics.get(name, math.nan) for trial in trials) for name in more]
        table.add_row(
            _listed(numbers),
            values["method"],
            *(f"{values[name]:.2g}" if name in values else "–" for name in HYPERPARAMETERS),
            *(*texts, *(f"{value:.4f}" for value in worst)),
            *([] if rows is None else [f"{row['chance']:.2f}" if row["chance"] >= 0 else "–"]),
        )
    return table


def confirmation_lines(search: "Search") -> list[str]:
    """What fresh trainings of the front showed on the test split; nothing where there were none."""
    from analysis.confirmation import confirmation
    from analysis.results import NothingToShow

    try:
        confirmed = confirmation(search)
    except NothingToShow:
        return []
    times = f"looked at {confirmed.look} times so far" if confirmed.look > 1 else "looked at for the first time"
    lines = [f"test split  fresh trainings of the front, validation → test ({times})"]
    for row in confirmed.rows.to_dict("records"):
        parts = [f"{row['number']:4d} {row['method']:9}"]
        for name in search.objectives:
            claimed = brief(row[f"{name}_claimed"], row[f"{name}_half"])
            parts.append(f"{heading(name)} {claimed} → {brief(row[f'{name}_test'], row[f'{name}_test_half'])}")
        parts.append({True: "stands", False: "falls"}.get(row["stands"], "not measured"))
        lines.append("  ".join(parts))
    return lines + [f"            {line}" for line in confirmed.verdict()]


def brief(value: float, half: float) -> str:
    """ "0.784±.019", so that a row of three objectives fits on a line of 80 characters."""
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if math.isnan(half) else f"{value:.3f}±{half:.3f}".replace("±0.", "±.")


def _listed(numbers: list[int]) -> str:
    """The trials of a configuration: "2, 18", and of many "2, 18, +3"."""
    return ", ".join(map(str, numbers[:2])) + (f", +{len(numbers) - 2}" if len(numbers) > 2 else "")


def chance_lines(record: Record) -> list[str]:
    """For each objective that is a gap: what an evenly right model as accurate as the front's most even point shows by
    chance, and how many of the front's points show more than chance at their own accuracy."""
    gaps = chance.gaps(record.objectives)
    ranges = {}  # by trial
    for number in record.front() if gaps else ():
        trial = record.trials[number]
        if "by_cell" in trial.tables:
            images, positive = np.array(trial.tables["by_cell"]["count"]), record.settings.get("positive")
            ranges[number] = chance.by_chance(images, trial.metrics["val_accuracy"], gaps, positive)
    lines = []
    for gap in gaps:
        values = {n: record.trials[n].metrics[f"val_{gap}"] for n in ranges if gap in ranges[n]}
        if values:
            number = min(values, key=lambda n: (values[n], n))
            accuracy = record.trials[number].metrics["val_accuracy"]
            more = sum(value > ranges[n][gap].high for n, value in values.items())
            lines.append(
                f"by chance   an evenly right model as accurate as trial {number} ({accuracy:.3f}) shows "
                f"{heading(f'val_{gap}')} {ranges[number][gap]} on these images; "
                f"{more} of {len(values)} points of the front show more"
            )
    return lines
