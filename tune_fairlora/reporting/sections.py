"""What a report says, section by section: ``sections`` of a search's tables and of its log."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
import pandas as pd

from analysis import configurations, labels
from analysis.figures import convergence, importance, intervals, loss_variance, penalty_effect, radar, rank_and_lambda
from analysis.html import front_page, show
from analysis.html.table import Table
from analysis.results import Search
from analysis.tables import front_share, methods, published
from tune_fairlora.record.state import COMPLETE, RUNNING, State
from tune_fairlora.reporting import html, settings

BY_CLASS = {"f1": "F1 ↑", "recall": "recall ↑", "loss": "loss (nats) ↓"}
BY_GROUP = {"accuracy": "accuracy ↑", "macro_f1": "macro F1 ↑", "eod": "equal opportunity difference to the rest ↓"}


@dataclass(frozen=True)
class ReportData:
    """What a report is made of: the tables, the state that the log adds up to, the order in which trials ended, and the
    metric by which a configuration is chosen for each method."""

    search: Search
    state: State
    order: pd.DataFrame
    by: str = configurations.CHOSEN_BY

    @cached_property
    def drawing(self) -> tuple[str, str]:
        """Markup and script of the interactive front."""
        return front_page.parts(self.search)

    @property
    def front(self) -> pd.DataFrame:
        """The front's trials, the seeds of a configuration together, best first objective first."""
        trials = self.search.trials
        first = self.search.objectives[0]
        members = trials[trials["on_front"].astype(bool)]
        means = members[first].groupby(members["number"] // self.search.seeds).transform("mean")
        order = means.mul(-labels.sign(first)).to_frame("cost").assign(number=members["number"])
        return members.loc[order.sort_values(["cost", "number"]).index]

    def tables_of(self, number: int) -> dict:
        """The by-class, by-group and confusion tables of a trial's end, as the log has them; empty where it has not."""
        return self.state.trials[number].tables if number in self.state.trials else {}


def material(search: Search, events: Iterable[dict], by: str) -> ReportData:
    """Fold a search's log."""
    state, spent, ended = State(), 0, {}
    for entry in events:
        if entry["event"] == "epoch" and entry["epoch"] == len(state.trials[entry["number"]].epochs) + 1:
            spent += 1
        state.apply(entry)
        if entry["event"] == "end":
            ended.pop(entry["number"], None)  # a trial that was interrupted ends twice: the last time counts
            ended[entry["number"]] = spent
    over = set(search.trials.loc[search.trials["status"] != RUNNING, "number"])  # the tables may be seconds behind
    order = [(number, epochs) for number, epochs in ended.items() if number in over]
    return ReportData(search, state, pd.DataFrame(order, columns=["number", "epochs"], dtype=int), by)


def lead(made: ReportData) -> str:
    """HTML: how the search stands, and of which split the numbers are."""
    search, counts = made.search, made.search.trials["status"].value_counts()
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none yet"
    status = made.state.status
    going = "The search is still running: this is what it had when this page was made. " if status == RUNNING else ""
    ended = "" if status in (RUNNING, COMPLETE) else f"The search ended early ({made.state.reason or status}). "
    split = "All numbers are of the validation split, by which trials were also chosen; no test image was looked at."
    if len(search.confirmed):
        split = "All numbers are of the validation split, but for the section that says test split."
    objectives = " and ".join(
        f"{labels.name(name)} {labels.ARROWS[labels.direction(name)]}" for name in search.objectives
    )
    text = f"{going}{ended}Searched for {objectives}. {len(search.trials)} trials: {told}."
    return html.paragraph(text) + html.paragraph(split, "split")


def sections(made: ReportData) -> list[tuple[str, str]]:
    """Heading and HTML of each section."""
    confirmed = [("Measured on the test split", _confirmed(made))] if len(made.search.confirmed) else []
    return [
        ("The Pareto front", _front(made)),
        *confirmed,
        ("Methods compared", _methods(made)),
        ("Rank and λ", _rank_and_lambda(made)),
        ("What mattered", _drawn(importance.summary, made.search)),
        ("Classes and groups", _served(made)),
        ("Course of the search", _course(made)),
        ("What was searched", settings.settings(made.search)),
        ("What these numbers do not say", settings.limits(made.search)),
    ]


def _drawn(make: Callable, *arguments, caption: str = "") -> str:
    """The figure that ``make`` returns, with a caption; where it refuses, the reason."""
    shown = show.show(make, *arguments).text + "\n"
    return shown.replace("</figure>", f"<figcaption>{escape(caption)}</figcaption></figure>") if caption else shown


def _front(made: ReportData) -> str:
    search = made.search
    if not len(made.front):
        return html.paragraph(_no_front(search), "missing")
    confusions = {n: made.tables_of(n)["confusion"] for n in made.front["number"] if "confusion" in made.tables_of(n)}
    caption = (
        "Crosses: where each of these models would land on other images like these (bootstrap over the validation "
        "images, basic interval). They may lie beside the point: gaps between small classes are large by chance. "
        "Objectives that need more than a confusion table have none, and other seeds vary more."
    )
    drawn = _drawn(intervals.figure, search, confusions, caption=caption)
    markup, script = made.drawing
    page = f"{markup}\n<script>{script}</script>\n"
    return page + html.table(front_table(made, confusions)) + drawn


def _no_front(search: Search) -> str:
    if (search.trials["status"] == COMPLETE).any() and search.settings.get("constraints"):
        return f"No complete trial keeps {', '.join(search.settings['constraints'])}, so there is no front."
    return "No trial is complete, so there is no front yet."


def front_table(made: ReportData, confusions: dict[int, list]) -> Table:
    """The front's trials: hyperparameters that were searched, objectives with intervals, accuracy in each group."""
    search, front = made.search, made.front
    ends = {number: intervals.bootstrap(table, search.objectives) for number, table in confusions.items()}
    searched = [name for name in importance.varied(search.trials) if name != "method" and front[name].notna().any()]
    metrics = [name for name in ("val_accuracy", "val_min_group_accuracy") if name not in search.objectives]
    groups = [name for name in front if name.startswith("val_group_accuracy[") and front[name].notna().any()]
    rows = [
        (
            str(row["number"]),
            labels.METHOD_NAMES[row["method"]],
            *(_plain(row[name]) for name in searched),
            *(_with_interval(row[name], ends.get(row["number"], {}).get(name)) for name in search.objectives),
            *(_number(row[name]) for name in [*metrics, *groups]),
        )
        for row in front.to_dict("records")
    ]
    header = (
        *("trial", "method", *(labels.hyperparameter(name) for name in searched)),
        *(labels.heading(name) for name in [*search.objectives, *metrics]),
        *(f"accuracy in {name.removeprefix('val_group_accuracy[').removesuffix(']')} ↑" for name in groups),
    )
    note = "In brackets: 95 % intervals over the validation images, one trained model each."
    return Table("The front's trials, validation split", header, tuple(rows), note=note)


def _plain(value) -> str:
    """A hyperparameter's value."""
    if isinstance(value, str):
        return value
    return "–" if pd.isna(value) else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.4f}"


def _with_interval(value: float, ends: tuple[float, float] | None) -> str:
    return _number(value) + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _confirmed(made: ReportData) -> str:
    """What was measured on the test split; below, in tables of their own, what the paper prints for this data set."""
    printed = [html.table(table) for table in published.of_dataset(made.search.settings.get("data", ""))]
    return html.table(methods.confirmed(made.search), sources=True) + "".join(printed)


def _methods(made: ReportData) -> str:
    search, by = made.search, made.by
    if not len(configurations.chosen(search, by)):
        text = f"No complete configuration has a validation {labels.name(by)}, so there is nothing to compare."
        return html.paragraph(text, "missing")
    chosen = f"Chosen: {configurations.rule(search, by)}."
    compared = penalty_effect.table(search, by)
    parts = [
        html.table(methods.by_method(search, by), sources=True),
        _drawn(radar.figure, search, by, caption=f"{chosen} Values: the table above."),
        _drawn(loss_variance.figure, search, by, caption=chosen),
        html.table(compared) if compared.rows else "",
        _drawn(penalty_effect.figure, search, by),
    ]
    return "".join(parts)


def _rank_and_lambda(made: ReportData) -> str:
    search, by = made.search, made.by
    parts = [
        html.table(front_share.table(search)),
        _drawn(rank_and_lambda.figure, search, "rank", by),
        _drawn(rank_and_lambda.figure, search, "lam", by),
    ]
    return "".join(parts)


def _served(made: ReportData) -> str:
    """How each class and group is served by each trial on the front."""
    known = [number for number in made.front["number"] if "by_class" in made.tables_of(number)]
    if not known:
        return html.paragraph("No trial on the front has tables by class and group.", "missing")
    settings = made.search.settings
    tables = [_served_table(made, known, "by_class", settings["classes"], *column) for column in BY_CLASS.items()]
    tables += [_served_table(made, known, "by_group", settings["groups"], *column) for column in BY_GROUP.items()]
    return "".join(html.table(table) for table in tables)


def _served_table(made: ReportData, numbers: list[int], kind: str, names: list[str], column: str, title: str) -> Table:
    """A row a class or group, a column a trial of the front; the worst of each column in bold."""
    what = "class" if kind == "by_class" else "group"
    counts = made.tables_of(numbers[0])[kind]["count"]
    values = np.array([made.tables_of(number)[kind][column] for number in numbers], float).T
    cost = values if title.endswith("↓") else -values
    known = np.where(np.isnan(cost), -np.inf, cost)
    worst = (known == known.max(axis=0)) & (known > known.min(axis=0))  # nobody, where all are served alike
    best = frozenset((int(i), 2 + int(j)) for i, j in zip(*np.nonzero(worst)))
    rows = tuple((name, str(count), *map(_number, row)) for name, count, row in zip(names, counts, values))
    header = (what, "images", *(f"trial {number}" for number in numbers))
    note = "Bold: served worst by that trial." if best else ""
    return Table(
        f"{title[0].upper()}{title[1:]} by {what}, the front's trials, validation split", header, rows, best, note
    )


def _course(made: ReportData) -> str:
    trials = made.search.trials
    curve = html.paragraph("No trial has ended yet.", "missing")
    if len(made.order):
        curve = _drawn(convergence.figure, made.search, made.order)
    other = trials[trials["status"] != COMPLETE].sort_values("number")
    if not len(other):
        return curve + html.paragraph("Every trial came to its end with a sound model.")
    names = ("number", "status", "epochs_trained", "failures", "reason")
    rows = tuple(
        (str(row["number"]), configurations.title(row), *(str(row[name] or "") for name in names[1:]))
        for _, row in other.iterrows()
    )
    header = ("trial", "configuration", "status", "epochs trained", "failures", "reason")
    note = "They are on no front, in no table above, and in the curves' epochs."
    return curve + html.table(Table("Trials that are not complete", header, rows, note=note), texts=True)
