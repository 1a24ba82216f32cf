"""What the terminal shows: a live view, or one line a finished trial where output goes elsewhere."""

import math
import statistics

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
from tune_fairlora.record.state import COLLAPSED, COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, STOPPED, Trial
from tune_fairlora.record.tables import snapshot

HYPERPARAMETERS = {"rank": "rank", "lam": "λ", "lr": "lr"}  # shown, with their headings
WORST_GROUP = "val_worst_cell_accuracy"
HEADINGS = {"val_delta_f1": "ΔF1", WORST_GROUP: "worst group", "val_min_group_accuracy": "worst attribute"}


class Progress:
    """Draws ``record`` on ``console``; ``total`` trials are planned, ``slots`` run at once."""

    def __init__(self, record: Record, total: int, slots: int, console: Console):
        self.record, self.total, self.slots, self.console = record, total, slots, console
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
        line = f"{ended:4d}/{self.total}  {trial.label:<22} {values}  {seconds:>7}  {self._note(trial)}"
        self.console.print(Text(line), soft_wrap=True)

    def _note(self, trial: Trial) -> str:
        if trial.status != COMPLETE:
            return trial.reason if trial.reason.startswith(trial.status) else f"{trial.status}: {trial.reason}"
        numbers = self.record.siblings(trial.number)
        if self.record.decided(numbers) and not self.record.feasible(numbers):
            return f"infeasible: {', '.join(map(str, self.record.constraints))}"
        return "front" if trial.number in self.record.front() else ""

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
            left = (self.total - len(seconds)) * statistics.fmean(seconds) / self.slots
            time_left = f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
        head = (
            f"{record.count(COMPLETE)} complete, {off} stopped or collapsed, {failed} failed of {self.total}; "
            f"{time_left}; hypervolume {record.hypervolume():.4f}"
        )
        return Group(Text(head, style="bold"), Text(f"running: {running}"), front_table(record, "Front so far"))


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


def front_table(record: Record, title: str) -> Table:
    """The front, best first objective first: trial, method, hyperparameters, objectives, worst group.

    Over several seeds, a configuration's means and standard deviations."""
    lines = box.HEAVY_HEAD if record.seeds == 1 else box.SIMPLE_HEAD  # means with their spread need the room
    table = Table(title=title, title_justify="left", title_style="bold", box=lines)
    metrics = dict.fromkeys([*record.objectives, WORST_GROUP])
    for name in ("trial", "method", *HYPERPARAMETERS.values(), *map(heading, metrics)):
        text = name.replace("worst ", "worst\n")  # in 80 columns there is no room for it on one line
        table.add_column(text, justify="left" if name == "method" else "right", no_wrap=True)
    for numbers in record.front_points():
        trials, values = [record.trials[number] for number in numbers], record.trials[numbers[0]].values
        table.add_row(
            "–".join(map(str, dict.fromkeys([numbers[0], numbers[-1]]))),
            values["method"],
            *(f"{values[name]:.3g}" if name in values else "–" for name in HYPERPARAMETERS),
            *(_mean([trial.metrics[name] for trial in trials]) for name in metrics),
        )
    return table


def seed_lines(record: Record) -> list[str]:
    """What other seeds would show of each configuration on the front; nothing where too few are complete."""
    from analysis.results import NothingToShow
    from analysis.tables import expected  # pandas takes a moment: not at every start

    try:
        cells = expected.cells(snapshot(record))
    except NothingToShow:
        return []
    headings = [heading(name) for name in record.objectives]
    return [
        f"other seeds of trial {number}: {', '.join(f'{name} {value}' for name, value in zip(headings, values))}"
        for number, values in cells.items()
    ]


def chance_lines(record: Record) -> list[str]:
    """For each objective that is a gap: what an evenly right model as accurate as the front's most even point shows by
    chance, and how many of the front's points show more than chance at their own accuracy."""
    gaps = [gap for name in record.objectives if (gap := name.removeprefix("val_")) in chance.GAPS]
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


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.3f}±{statistics.stdev(values):.3f}"
