"""A bar for each method's chosen configuration: the variance of the loss over classes, as in FairLoRA's figure 1."""

from matplotlib.figure import Figure

from analysis import configurations, labels
from analysis.results import Search


def figure(search: Search, metric: str = "val_loss_variance", by: str = configurations.CHOSEN_BY) -> Figure:
    """Bars from zero, with the value on top and a standard deviation over the seeds where there are several. Raises
    NothingToShow where no configuration is complete."""
    rows = configurations.chosen(search, by)
    page = Figure(figsize=(5.6, 3.6), layout="constrained")
    page.suptitle(f"{labels.name(metric)}, by method ({configurations.seeds_in_words(search)})", fontsize=10)
    ax = page.add_subplot()
    spread = rows[f"{metric}_sd"] if rows[f"{metric}_sd"].notna().any() else None
    bars = ax.bar(range(len(rows)), rows[metric], yerr=spread, width=0.62, capsize=3, edgecolor="white", linewidth=0)
    for bar, method in zip(bars, rows["method"]):
        bar.set(facecolor=labels.METHOD_STYLES[method].color, hatch=labels.METHOD_STYLES[method].hatch)
    ax.bar_label(bars, labels=[f"{value:.3g}" for value in rows[metric]], padding=2, fontsize=8)
    ax.set_xticks(range(len(rows)), [configurations.title(row) for row in rows.to_dict("records")], fontsize=8)
    ax.set_ylabel(labels.axis(metric))
    ax.margins(y=0.12)
    ax.spines[["top", "right"]].set_visible(False)
    return page
