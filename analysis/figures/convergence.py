"""How far a search had come when: the hypervolume of its front over the trials that ended, and over epochs trained."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import configurations
from analysis.estimates import estimate, standing
from analysis.labels import METHOD_STYLES
from analysis.pareto import as_minimization, hypervolume, reference_point
from analysis.results import NothingToShow, Search


def growth(search: Search, order: pd.DataFrame | None = None) -> pd.DataFrame:
    """The hypervolume of the front after each trial's end, from the search's own reference point.

    A configuration counts once it is complete with as many seeds as the search asks for, and not where it breaks a
    constraint. The front at each end is that of the shrunk means by then (``analysis.estimates``), as the search itself
    had it: a lucky first training, trained again, makes it smaller.

    Args:
        order: ``number`` and ``epochs`` (trained by then, those of stopped and failed trials too) of the ended trials,
            as they ended. By default in the order of their numbers: the tables keep no times.

    Returns: ``number``, ``trials`` (ended by then), ``epochs`` (trained by then), ``hypervolume``, ``method`` (of that
        trial), ``grew`` (whether its end enlarged the hypervolume).
    """
    if order is None:
        order = search.trials[search.trials["status"] != "running"].sort_values("number")
        order = pd.DataFrame({"number": order["number"], "epochs": order["epochs_trained"].cumsum()}, dtype=int)
    rows = configurations.complete(search)
    feasible = set(rows.loc[rows["feasible"], "config_id"])
    trials = configurations.trainings(search).dropna(subset=search.objectives).set_index("number")
    costs = dict(zip(trials.index, as_minimization(trials[search.objectives].to_numpy(float), search.directions)))
    again = "repeats" in trials and search.settings.get("reseed", 0) > 0
    repeats = set(trials.index[trials["repeats"].notna()]) if again else set()
    reference = as_minimization([reference_of(search)], search.directions)[0]
    values, had, repeated = np.zeros(len(order)), dict[str, list[np.ndarray]](), set[str]()
    for place, number in enumerate(order["number"]):
        values[place] = values[place - 1] if place else 0.0
        if number in costs:
            config_id = trials.at[number, "config_id"]
            had.setdefault(config_id, []).append(costs[number])
            repeated |= {config_id} if number in repeats else set()
            ready = [each for each in had if len(had[each]) >= search.seeds]
            if ready:
                counts = [len(had[each]) for each in ready]
                flat = np.concatenate([np.array(had[each]) for each in ready])
                means = estimate(flat, np.repeat(np.arange(len(ready)), counts)).mean
                able = np.array([each in feasible for each in ready])
                members = standing(means, able, np.array([each in repeated for each in ready]))
                values[place] = hypervolume(means[members], reference)
    methods = search.trials.set_index("number")["method"]
    return pd.DataFrame(
        {
            "number": order["number"].to_numpy(),
            "trials": np.arange(1, len(order) + 1),
            "epochs": order["epochs"].to_numpy(),
            "hypervolume": values,
            "method": methods.loc[order["number"]].to_numpy(),
            "grew": np.diff(values, prepend=0.0) > 0,
        }
    )


def reference_of(search: Search) -> list[float]:
    """The reference point of the search, in the user's directions."""
    return reference_point(search.objectives, max(len(search.classes), 1))


def figure(search: Search, order: pd.DataFrame | None = None) -> Figure:
    """Hypervolume over trials and over epochs, side by side. ``order`` as in ``growth``."""
    rows = growth(search, order)
    if rows.empty:
        raise NothingToShow("no trial has ended yet")
    page = Figure(figsize=(7.6, 3.2), layout="constrained")
    left, right = page.subplots(1, 2, sharey=True)
    draw(left, rows, "trials")
    draw(right, rows, "epochs")
    left.set_xlabel(f"trials ended, {'in the order of their start' if order is None else 'as they ended'}")
    right.set_xlabel("epochs trained, stopped trials included")
    left.set_ylabel("validation hypervolume (more is better)")
    if rows["grew"].any():
        left.legend(frameon=False, fontsize=8, loc="lower right", title="the front grew by", title_fontsize=8)
    reference = ", ".join(f"{value:g}" for value in reference_of(search))
    page.suptitle(f"hypervolume of the front, from the reference point ({reference})", fontsize=10)
    return page


def draw(ax: Axes, rows: pd.DataFrame, over: str) -> None:
    """``rows`` of ``growth`` as steps over ``over`` ("trials" or "epochs"); a mark, in its method's style, where the
    front grew. The axis begins a little below the first front: the way from 0 to the first trial says little."""
    ax.step([0, *rows[over]], [0, *rows["hypervolume"]], where="post", color="0.35", linewidth=1.2, zorder=1)
    for method, style in METHOD_STYLES.items():
        own = rows[rows["grew"] & (rows["method"] == method)]
        if len(own):
            ax.scatter(
                own[over], own["hypervolume"], s=26, c=style.color, marker=style.marker, linewidths=0, label=style.name
            )
    ax.spines[["top", "right"]].set_visible(False)
    reached = rows.loc[rows["hypervolume"] > 0, "hypervolume"]
    margin = max(0.06 * np.ptp(reached), 0.002) if len(reached) else 0.0
    ax.set_ylim(*((reached.min() - 3 * margin, reached.max() + margin) if len(reached) else (0.0, 1.0)))
