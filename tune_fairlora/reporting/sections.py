"""What a report says, section by section: ``sections`` of a search's tables, settings and log."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import configurations, labels
from analysis.figures import convergence, importance, intervals, loss_variance, penalty_effect, radar, rank_and_lambda
from analysis.html import front_page
from analysis.html.show import show
from analysis.predictions import Sample, of_trial
from analysis.results import Search
from analysis.table import Table, to_html
from analysis.tables import chance, confirmed, equal_effort, front, front_share, methods, published, test_split
from tune_fairlora.record.state import COMPLETE, RUNNING, State
from tune_fairlora.reporting import page

BY_CLASS = {"f1": "F1 ↑", "recall": "recall ↑", "loss": "loss (nats) ↓"}
BY_GROUP = {
    "accuracy": "accuracy ↑",
    "macro_f1": "macro F1 ↑",
    "eod": "equal opportunity difference to the rest ↓",
    "odds_gap": "equalized odds gap to the rest ↓",
}


@dataclass(frozen=True)
class ReportData:
    """What a report is made of: the tables, the state that the log adds up to, the order in which trials ended, and the
    metric by which a configuration is chosen for each method."""

    search: Search
    state: State
    order: pd.DataFrame
    by: str

    @cached_property
    def drawing(self) -> tuple[str, str]:
        """Markup and script of the interactive front."""
        return front_page.parts(self.search)

    @cached_property
    def front(self) -> list[int]:
        """Numbers of the front's trials, in the order of its table."""
        return list(front.members(self.search).get("number", ()))

    @cached_property
    def samples(self) -> dict[int, Sample]:
        """By number, what each trial on the front said of the validation images, as far as it was kept."""
        tables = self.tables_of_front("confusion")
        samples = {number: of_trial(self.search, number, tables.get(number)) for number in self.front}
        return {number: sample for number, sample in samples.items() if sample is not None}

    def tables_of_front(self, kind: str) -> dict[int, Any]:
        """By number, the ``kind`` of table ("by_class", "by_group", "confusion") that the log has of a front's trial
        when it ended; the log may lack some."""
        tables = {number: self.state.trials[number].tables for number in self.front if number in self.state.trials}
        return {number: table[kind] for number, table in tables.items() if kind in table}


def report_data(search: Search, events: Iterable[dict[str, Any]], by: str) -> ReportData:
    """Fold the log of ``search``."""
    state, spent = State(), 0
    spent_at_end: dict[int, int] = {}  # epochs trained by all trials when a trial ended, in the order of the ends
    for entry in events:
        if entry["event"] == "epoch" and entry["epoch"] == len(state.trials[entry["number"]].epochs) + 1:
            spent += 1
        state.apply(entry)
        if entry["event"] == "end":
            spent_at_end.pop(entry["number"], None)  # a trial that was interrupted ends twice: the last time counts
            spent_at_end[entry["number"]] = spent
    over = set(search.trials.loc[search.trials["status"] != RUNNING, "number"])  # the tables may be seconds behind
    order = [(number, epochs) for number, epochs in spent_at_end.items() if number in over]
    return ReportData(search, state, pd.DataFrame(order, columns=["number", "epochs"], dtype=int), by)


def lead(report: ReportData) -> str:
    """HTML: how the search stands, and of which split the numbers are."""
    search, counts = report.search, report.search.trials["status"].value_counts()
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none yet"
    status = report.state.status
    going = "The search is still running: this is what it had when this page was made. " if status == RUNNING else ""
    ended = "" if status in (RUNNING, COMPLETE) else f"The search ended early ({report.state.reason or status}). "
    split = "All numbers are of the validation split, by which trials were also chosen; no test image was looked at."
    if len(search.confirmed):
        split = "All numbers are of the validation split, but for the section that says test split."
    objectives = " and ".join(
        f"{labels.name(name)} {labels.ARROWS[labels.direction(name)]}" for name in search.objectives
    )
    text = f"{going}{ended}Searched for {objectives}. {len(search.trials)} trials: {by_status}."
    return page.paragraph(text) + page.paragraph(split, "split")


def sections(report: ReportData) -> list[tuple[str, str]]:
    """Heading and HTML of each section."""
    search, by = report.search, report.by
    ranks = [_shown(rank_and_lambda.figure, search, over, by=by) for over in ("rank", "lam")]
    # In tables of their own, what the paper prints for this data set.
    printed = [to_html(table) for table in published.of_dataset(search.settings.get("data", ""))]
    tested = _joined(_shown(test_split.table, search), _shown(confirmed.table, search, sources=True), *printed)
    mattered = [_shown(importance.table, search), _shown(importance.figure, search)]
    return [
        ("The Pareto front", _front(report)),
        *([("Measured on the test split", tested)] if len(search.confirmed) else []),
        ("Methods compared", _methods(search, by)),
        ("Rank and λ", _joined(_shown(front_share.table, search), *ranks)),
        ("What mattered", _joined(*mattered)),
        ("Classes and groups", _by_class_and_group(report)),
        ("Course of the search", _course(report)),
        ("What was searched", _settings(search)),
        ("What these numbers do not say", _limits(search)),
    ]


def _shown(make: Callable[..., Any], *arguments: Any, caption: str = "", **options: Any) -> str:
    """The figure or table that ``make`` returns, with a caption; where it refuses, the reason."""
    shown = show(make, *arguments, **options).text + "\n"
    return shown.replace("</figure>", f"<figcaption>{escape(caption)}</figcaption></figure>") if caption else shown


def _joined(*parts: str) -> str:
    """One below the other; the reason why several are not shown is given once."""
    return "".join(dict.fromkeys(parts))


def _front(report: ReportData) -> str:
    search, samples = report.search, report.samples
    table = _shown(front.table, search)
    if not report.front:
        return table
    caption = (
        "Crosses: where each of these models would land on other images like these (bootstrap over the validation "
        "images, or their subjects where these are known; basic interval). They may lie beside the point: gaps between "
        "small classes are large by chance. Other seeds vary more."
    )
    markup, script = report.drawing
    drawn = _shown(intervals.figure, search, samples, caption=caption)
    counts = {number: cells["count"] for number, cells in report.tables_of_front("by_cell").items()}
    luck = drawn, _shown(chance.table, search, counts)
    return f"{markup}\n<script>{script}</script>\n{table}{''.join(luck)}"


def _methods(search: Search, by: str) -> str:
    rule = f"Chosen: {configurations.rule(search, by)}."
    return _joined(
        _shown(methods.table, search, by=by, sources=True),
        _shown(equal_effort.table, search),
        _shown(radar.figure, search, by=by, caption=f"{rule} Values: the table above."),
        _shown(loss_variance.figure, search, by=by, caption=rule),
        _shown(penalty_effect.table, search, by=by),
        _shown(penalty_effect.figure, search, by=by),
    )


def _by_class_and_group(report: ReportData) -> str:
    """How each class and group is served by each trial on the front."""
    parts = (("class", "by_class", "classes", BY_CLASS), ("group", "by_group", "groups", BY_GROUP))
    shown = []
    for what, kind, names, columns in parts:
        tables = report.tables_of_front(kind)
        for column, title in columns.items():
            having = {number: table for number, table in tables.items() if column in table}  # older records lack some
            if having:
                shown.append(to_html(_served(having, what, report.search.settings[names], column, title)) + "\n")
    return "".join(shown) or page.paragraph("No trial on the front has tables by class and group.", "missing")


def _served(tables: dict[int, Any], what: str, names: list[str], column: str, title: str) -> Table:
    """A row a class or group, a column a trial of the front; the worst of each column in bold."""
    counts = next(iter(tables.values()))["count"]
    values = np.array([table[column] for table in tables.values()], float).T
    costs = np.nan_to_num(values if title.endswith("↓") else -values, nan=-np.inf)
    worst = (costs == costs.max(axis=0)) & (costs > costs.min(axis=0))  # nobody, where all are served alike
    bold = frozenset((int(i), 2 + int(j)) for i, j in zip(*np.nonzero(worst)))
    rows = tuple((name, str(n), *map(labels.number, row)) for name, n, row in zip(names, counts, values.tolist()))
    header = (what, "images", *(f"trial {number}" for number in tables))
    caption = f"{title[0].upper()}{title[1:]} by {what}, the front's trials, validation split"
    return Table(caption, header, rows, bold, "Bold: served worst by that trial." if bold else "")


def _course(report: ReportData) -> str:
    trials = report.search.trials
    curve = _shown(convergence.figure, report.search, report.order)
    other = trials[trials["status"] != COMPLETE].sort_values("number")
    if other.empty:
        return curve + page.paragraph("Every trial came to its end with a sound model.")
    names = ("status", "epochs_trained", "failures", "reason")
    rows = tuple(
        (str(row["number"]), configurations.title(row), *(str(row[name] or "") for name in names))
        for row in other.to_dict("records")
    )
    header = ("trial", "configuration", "status", "epochs trained", "failures", "reason")
    note = "They are on no front, in no table above, and in the curves' epochs."
    return curve + page.of_texts(to_html(Table("Trials that are not complete", header, rows, note=note)))


def _settings(search: Search) -> str:
    s = search.settings
    weights = Path(s.get("weights_file") or "the hub").name
    rows = {
        "search": s["name"],
        "space": s.get("space"),
        "methods": ", ".join(s.get("methods", ())),
        "fixed": ", ".join(f"{name} {value}" for name, value in s.get("fixed", {}).items()),
        "searched": "; ".join(f"{name}: {_searched(entry)}" for name, entry in s.get("searched", {}).items()),
        "objectives": ", ".join(s["objectives"]),
        "constraints": ", ".join(s.get("constraints", ())) or "none",
        "data": f"{s.get('data')}, content hash {s.get('data_fingerprint')}, {s.get('image_size')} px",
        f"classes ({len(s.get('classes', ()))})": ", ".join(s.get("classes", ())),
        f"groups ({len(s.get('groups', ()))})": ", ".join(s.get("groups", ())),
        "weights": f"{weights}, hash {s.get('weights')}",
        "sampler, scheduler": f"{s.get('sampler')}, {s.get('scheduler')}",
        "seed": f"{s.get('seed')}; {configurations.seeds_in_words(search)}",
        "trials planned": s.get("trials"),
        "code version": s.get("code_version"),
    }
    shown = tuple((name, str(value)) for name, value in rows.items() if value)
    return page.of_texts(to_html(Table("Settings", ("what", "value"), shown)))


def _searched(entry: dict[str, Any]) -> str:
    """A distribution as the record holds it (``study.distribution_data``), or one a method, in words: "4 | 8 | 16",
    "0.001 … 0.01 (log)"."""
    if "attributes" not in entry:
        return ", ".join(f"{method} {_searched(one)}" for method, one in entry.items())
    attributes = entry["attributes"]
    if "choices" in attributes:
        return " | ".join(map(str, attributes["choices"]))
    return f"{attributes['low']} … {attributes['high']}{' (log)' if attributes['log'] else ''}"


def _limits(search: Search) -> str:
    """What a reader must not take from the numbers, with the counts they rest on."""
    nouns = {"val_min_class_count": "class", "val_min_group_count": "group", "val_min_cell_count": "class in a group"}
    counts = search.trials.filter([*nouns, "val_empty_cells"]).max()
    texts = [
        "The front's trials were chosen by the validation split, so that their numbers there are better than they "
        "will be on other images; search --confirm trains them afresh and measures them on the test split.",
        *(
            f"The smallest {noun} has {counts[name]:.0f} validation images: one image moves its accuracy by "
            f"{100 / counts[name]:.1f} points."
            for name, noun in nouns.items()
            if counts.get(name, 0) > 0
        ),
    ]
    if (empty := counts.get("val_empty_cells", 0)) > 0:
        texts.append(f"{empty:.0f} combinations of class and group have no validation image: nothing is known of them.")
    texts.append(
        "The best- and the worst-served of many classes are extremes of noisy numbers: an even model has a ΔF1, too."
    )
    if (configurations.complete(search)["trainings"] == 1).any():
        texts.append("Configurations that were trained with one seed: a small difference may be the seed's.")
    if search.settings.get("weights_file") == "random":
        texts.append("The networks began untrained (weights random): nothing here speaks of pretrained models.")
    if (search.trials["status"] == "stopped").any():
        texts.append("Trials that were stopped early might have come on the front.")
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>\n"
