"""What MLflow's pages show of a search: curves, tables, prepared views of its runs, notes with pictures, colours.

Nothing here imports MLflow: views, notes and colours are texts in tags. The format of a prepared view is MLflow's own
and nowhere documented (read from the page's code, 3.17): that is why MLflow is pinned, and why a test opens the views
in a browser.
"""

import json
import math
from typing import TYPE_CHECKING, Any

from analysis.labels import claim
from analysis.table import markdown
from trainables.config import FAIR_HYPERPARAMETERS, FIELDS, LORA_HYPERPARAMETERS
from tune_fairlora.record.state import COMPLETE, Settings, State, Trial
from tune_fairlora.tracking.tracking_uri import without_password

if TYPE_CHECKING:
    import pandas as pd

    from analysis.claims import Claims
    from analysis.confirmation import Confirmed
    from analysis.results import Search

Table = dict[str, list[Any]]  # "columns": the names, "data": the rows
BY_CLASS = ("count", "f1", "recall", "precision", "loss")
BY_GROUP = ("count", "accuracy", "macro_f1", "eod", "odds_gap")
DIGITS, EMPTY = 5, "–"  # of a cell: the parquet files have all digits

FRONT_COLOR, COMPLETE_COLOR, OTHER_COLOR = "#d62728", "#8c959f", "#d8dee4"  # of a run's dot: `mlflow.runColor`
VIEW_TAG = "mlflow.sharedViewState."  # of the experiment, followed by the view's key
SHOWN_METRICS = (
    *("val_accuracy", "val_delta_f1", "val_min_f1"),
    *("val_worst_cell_accuracy", "val_min_group_accuracy", "val_loss_variance"),
)
SHOWN_PARAMS = ("rank", "lam", "lr")
LOADED = 100  # runs that MLflow's page loads at first; those of the front come first, so that none is missing
PAGE = "/artifacts/front.html"
NOTE_ROWS, NOTE_SEARCHES = 30, 12  # of a search's table, and lines of the experiment's note
NOTE_LENGTH = 6500  # characters of that table: MLflow cuts a note at 8000
EXPERIMENT_NOTE_LENGTH = 19_500  # MLflow refuses 20,000
OWN_LINE = "viewStateShareKey=front-"  # in each line of that note that is ours


def curves(state: State) -> dict[str, float]:
    """Hypervolume, size of the front, and the best value of each objective on it, of the shrunk means by then."""
    points = state.front_points()
    numbers = {"hypervolume": state.hypervolume(), "front_size": float(len(points))}
    if points:
        best = {"maximize": max, "minimize": min}
        values = [state.worth().mean(point[0]) for point in points]
        for i, (name, direction) in enumerate(zip(state.objectives, state.directions)):
            numbers[f"best_{name}"] = float(best[direction](value[i] for value in values))
    return numbers


def trial_tables(trial: Trial, settings: Settings) -> dict[str, Table]:
    """File name -> table of the trial's last epoch on the validation split, by class and by group. A class or group
    without images has count 0 and empty cells."""
    parts = (("by_class", "class", settings["classes"], BY_CLASS), ("by_group", "group", settings["groups"], BY_GROUP))
    tables: dict[str, Table] = {}
    for key, heading, names, columns in parts:
        values = trial.tables.get(key, {})
        present = [column for column in columns if column in values]
        if present:
            rows = [[name, *(_cell(values[column][i]) for column in present)] for i, name in enumerate(names)]
            tables[f"{key}.json"] = {"columns": [heading, *present], "data": rows}
    return tables


def front_table(search: "Search") -> Table:
    """The front's trials as a table."""
    from analysis.tables import front  # pandas takes a second to import

    rows = front.members(search).astype(object).to_dict("split")
    return {"columns": rows["columns"], "data": [[_cell(value) for value in row] for row in rows["data"]]}


def claimed_metrics(claimed: "Claims") -> dict[int, dict[str, float]]:
    """By trial of the front: what is claimed of its configuration, as metrics of its run."""
    names = claimed.search.objectives
    columns = {f"claimed_{name}": f"{name}_claimed" for name in names}
    columns |= {f"claimed_{name}_half": f"{name}_half" for name in names} | {"front_chance": "chance"}
    return _of_runs(claimed.search, claimed.front, columns)


def confirmed_metrics(confirmed: "Confirmed") -> dict[int, dict[str, float]]:
    """By trial of the front: what fresh trainings of its configuration showed on the test split."""
    columns = {f"test_{name.removeprefix('val_')}": f"{name}_test" for name in confirmed.search.objectives}
    return _of_runs(confirmed.search, confirmed.rows, columns)


def _of_runs(search: "Search", rows: "pd.DataFrame", columns: dict[str, str]) -> dict[int, dict[str, float]]:
    """By trial of the front: the finite ones of ``columns`` (by the metric's name) in its configuration's row."""
    trials, metrics = search.trials[search.trials["on_front"].astype(bool)], dict[int, dict[str, float]]()
    for row in rows.to_dict("records"):
        values = {metric: float(row[column]) for metric, column in columns.items() if math.isfinite(row[column])}
        metrics |= dict.fromkeys(trials.loc[trials["config_id"] == row["config_id"], "number"].tolist(), values)
    return metrics


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return EMPTY if value is None else value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else EMPTY


def color(trial: Trial, on_front: bool) -> str:
    """The front red, other complete trials grey, what never came to its end light grey."""
    return FRONT_COLOR if on_front else COMPLETE_COLOR if trial.status == COMPLETE else OTHER_COLOR


def keys(search_id: str) -> tuple[str, str]:
    """The keys of a search's two views: charts of all trials, and the front as a table."""
    return f"front-{search_id[:12]}", f"table-{search_id[:12]}"


def prepared(state: State) -> dict[str, str]:
    """The experiment's tags that make the two views of the search."""
    name, own = state.settings["name"], f"tags.search_id = '{state.settings['id']}'"
    charts, table = keys(state.settings["id"])
    return {
        VIEW_TAG + charts: _view(
            f"Pareto front: {name}",
            state,
            searchFilter=f"{own} and tags.role = 'trial'",
            orderByKey="tags.`pareto`",  # "true" before "false"
            orderByAsc=False,
            compareRunsMode="CHART",
            compareRunSections=[_section("front", "Pareto front", True), _section("metrics", "Model metrics", False)],
            compareRunCharts=_charts(state),
        ),
        VIEW_TAG + table: _view(
            f"Front as a table: {name}",
            state,
            searchFilter=f"{own} and tags.pareto = 'true'",
            orderByKey=f"metrics.`{state.objectives[0]}`",
            orderByAsc=state.directions[0] == "minimize",
        ),
    }


def _view(title: str, state: State, **facets: object) -> str:
    """The page's state is a text inside the view's text. Its times must not differ from call to call, so that a view
    that did not change is not written again."""
    began = int(1000 * min((trial.started for trial in state.trials.values()), default=0))
    metrics = [f"metrics.`{name}`" for name in dict.fromkeys((*state.objectives, *SHOWN_METRICS))]
    columns = [*metrics, "tags.`method`", "tags.`status`", *(f"params.`{p}`" for p in _params(state))]
    page: dict[str, object] = (
        {"startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "selectedColumns": columns}
        | {key: [] for key in ("datasetsFilter", "columnOrder", "runsPinned", "runsHidden")}
        | {key: {} for key in ("columnWidths", "runsExpanded", "runsVisibilityMap", "groupsExpanded")}
        | dict.fromkeys(("viewMaximized", "runListHidden", "isAccordionReordered"), False)
        | dict.fromkeys(("useGroupedValuesInCharts", "hideEmptyCharts", "autoRefreshEnabled"), True)
        | {"runsHiddenMode": "SHOW_ALL", "groupBy": None}
        | {"globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""}}
    )
    return json.dumps({"name": title, "createdAt": began, "updatedAt": began, "state": json.dumps(page | facets)})


def _params(state: State) -> list[str]:
    """The hyperparameters that differ between the trials so far; the usual ones before there are any."""
    seen: dict[str, set[object]] = {}
    for trial in state.trials.values():
        for name, value in trial.values.items():
            seen.setdefault(name, set()).add(value)
    differ = [name for name in FIELDS if len(seen.get(name, ())) > 1 and name not in ("method", "seed")]
    return differ or list(SHOWN_PARAMS)


def _section(uuid: str, title: str, shown: bool) -> dict[str, Any]:
    row = {"uuid": uuid, "name": title, "display": shown, "isReordered": False, "deleted": False}
    size = {"columns": 1, "cardHeight": 400}  # one below the other: MLflow's assistant takes a third of a new window
    return row | (size | {"isGenerated": False} if shown else {"isGenerated": True})


def _charts(state: State) -> list[dict[str, Any]]:
    """Scatter plots of the objectives, then parallel coordinates. These leave out runs that lack one of their
    hyperparameters, so that there is one for all methods, one for those with adapters, one for those with a penalty."""
    pairs = [(0, 1)] if len(state.objectives) == 2 else [(0, 1), (0, 2), (1, 2)]
    axes = [{"key": name, "type": "METRIC"} for name in state.objectives]
    scatters = [_chart(f"scatter-{i}-{j}", "SCATTER", xaxis=axes[i], yaxis=axes[j]) for i, j in pairs]
    params = _params(state)
    common = [name for name in params if name not in (*LORA_HYPERPARAMETERS, *FAIR_HYPERPARAMETERS)]
    chosen = {
        "all": ["method", *common],
        "adapters": [name for name in params if name in LORA_HYPERPARAMETERS] + common,
        "penalty": [name for name in params if name in FAIR_HYPERPARAMETERS] + common,
    }
    parallels = [
        _chart(f"parallel-{which}", "PARALLEL", selectedParams=names, selectedMetrics=list(state.objectives))
        for which, names in chosen.items()
        if names != common
    ]
    return scatters + parallels


def _chart(uuid: str, kind: str, **content: object) -> dict[str, Any]:
    common = {"metricSectionId": "front", "deleted": False, "isGenerated": False, "runsCountToCompare": LOADED}
    return common | {"uuid": uuid, "type": kind} | content


def address(experiment_id: str, key: str, charts: bool = True) -> str:
    """Where a prepared view is, behind the server's own address."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}{mode}"


def front_address(server: str, experiment_id: str, search_id: str) -> str:
    """The whole address of a search's charts on ``server``, without the password that it may hold."""
    return f"{without_password(server).rstrip('/')}/{address(experiment_id, keys(search_id)[0])}"


def run_address(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Where a run's page is; ``tab`` is a part of it, like "/artifacts/front.html"."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}?workflowType=machine_learning"


def experiment_note(state: State, experiment_id: str, parent: str, earlier: str = "") -> str:
    """The experiment's note: a line for each of its latest searches, this one first, then what people wrote there.

    ``earlier`` is the note as it is.
    """
    charts, table = keys(state.settings["id"])
    links = [
        ("Pareto front", address(experiment_id, charts)),
        ("front as a table", address(experiment_id, table, charts=False)),
        ("interactive page", run_address(experiment_id, parent, PAGE)),
        ("the search", run_address(experiment_id, parent)),
    ]
    line = f"**{markdown(state.settings['name'])}**: " + " · ".join(f"[{text}]({where})" for text, where in links)
    rest = [each for each in earlier.splitlines() if charts not in each]
    ours = [line, *(each for each in rest if OWN_LINE in each)][:NOTE_SEARCHES]
    people = "\n".join(each for each in rest if OWN_LINE not in each).strip()
    while ours:  # what people wrote is never cut
        note = "\n\n".join(filter(None, [*ours, people]))
        if len(note) <= EXPERIMENT_NOTE_LENGTH:
            return note
        ours.pop()
    return earlier


def search_note(
    state: State,
    claimed: "Claims",
    confirmed: "Confirmed | None",
    experiment_id: str,
    runs: dict[int, str],
    parent: str,
) -> str:
    """The note of the search's run: what it is, how sure it is, the front's picture, and its members with links to
    their runs."""
    charts, table = keys(state.settings["id"])
    members = claimed.front.to_dict("records")
    lines = [
        f"**Pareto front of {markdown(state.settings['name'])}** (validation split): {len(members)} of "
        f"{len(claimed.rows)} complete configurations. "
        f"[Charts]({address(experiment_id, charts)}) · [table]({address(experiment_id, table, charts=False)}) · "
        f"[interactive page]({run_address(experiment_id, parent, PAGE)})",
        " ".join([*claimed.sentences(), *(confirmed.sentences() if confirmed else ())]),
        f"![Pareto front](get-artifact?path=front.png&run_uuid={parent})",
    ]
    if members:
        params = _params(state)
        heads = ["trial", *(name.removeprefix("val_") for name in state.objectives), "on the front", *params]
        tests = {} if confirmed is None else confirmed.rows.set_index("number").to_dict("index")
        rows = []
        for row in members[:NOTE_ROWS]:
            number = row["number"]
            trial = state.trials[number]
            name = markdown(trial.label)
            link = f"[{name}]({run_address(experiment_id, runs[number])})" if number in runs else name
            values = [claim(row[f"{name}_claimed"], row[f"{name}_half"]) for name in state.objectives]
            if number in tests:
                test = [tests[number][f"{name}_test"] for name in state.objectives]
                values = [f"{value} → {claim(mean, math.nan)}" for value, mean in zip(values, test)]
            values.append(f"{row['chance']:.2f}" if math.isfinite(row["chance"]) else EMPTY)
            shown = [trial.values.get(name, EMPTY) for name in params]
            texts = [markdown(f"{value:.4g}" if isinstance(value, float) else value) for value in shown]
            rows.append([link, *values, *texts])
        while sum(len(" | ".join(row)) for row in rows) > NOTE_LENGTH:
            rows.pop()
        grid = [_cells(heads), "|" + " --- |" * len(heads), *map(_cells, rows)]
        lines.append("\n".join(grid))
        arrows = " → means of fresh trainings on the test split" if tests else ""
        lines.append(f"(claimed means over training seeds, with 95 % intervals of other seeds and images{arrows})")
        if len(members) > len(rows):
            lines.append(f"… and {len(members) - len(rows)} more in the table")
    return "\n\n".join(lines)


def _cells(texts: list[str]) -> str:
    return "| " + " &nbsp; | ".join(texts) + " |"  # MLflow sets columns without any space between
