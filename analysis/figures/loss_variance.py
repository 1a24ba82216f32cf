"""A bar for each method's chosen configuration: the variance of the loss over classes, as in FairLoRA's figure 1."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import configurations, labels
from analysis.figures.front import STYLES
from analysis.results import Search

HATCHES = {"lora": "", "fairlora": "///", "fft": "..", "fairfft": "xx"}  # told apart in grey print, too


def draw(ax: Axes, search: Search, metric: str, by: str = configurations.CHOSEN_BY) -> None:
    """Bars from zero, with the value on top and a standard deviation over the seeds where there are several."""
    rows = configurations.chosen(search, by)
    spread = rows[f"{metric}_sd"] if search.seeds > 1 else None
    bars = ax.bar(range(len(rows)), rows[metric], yerr=spread, width=0.62, capsize=3, edgecolor="white", linewidth=0)
    for bar, method in zip(bars, rows["method"]):
        bar.set(facecolor=STYLES[method][0], hatch=HATCHES[method])
    ax.bar_label(bars, labels=[f"{value:.3g}" for value in rows[metric]], padding=2, fontsize=8)
    ax.set_xticks(range(len(rows)), [configurations.title(row) for _, row in rows.iterrows()], fontsize=8)
    ax.set_ylabel(labels.axis(metric))
    ax.margins(y=0.12)
    ax.spines[["top", "right"]].set_visible(False)


def figure(search: Search, by: str = configurations.CHOSEN_BY, metric: str = "val_loss_variance") -> Figure:
    """One metric of each method's chosen configuration. Raises ValueError where none is complete."""
    if not len(configurations.chosen(search, by)):
        raise ValueError("no configuration is complete, so there is no bar to draw")
    page = Figure(figsize=(5.6, 3.6), layout="constrained")
    draw(page.add_subplot(), search, metric, by)
    page.suptitle(f"{labels.name(metric)}, by method ({configurations.seeds_in_words(search)})", fontsize=10)
    return page
