"""FairLoRA's printed results (``published.csv``), to stand beside confirmed test results, never among measured ones.

Source: Sukumaran, Feizi, Romero-Sorian, Farnadi, "FairLoRA: Unpacking Bias Mitigation in Vision Models with
Fairness-Driven Low-Rank Adaptation", arXiv 2410.17358, tables 1, 2, 3 and 6; over 3 seeds, in percent. Its models were
chosen by the best evaluation accuracy, and for Aircraft and GeoDE it names no split but training images and those that
are reported; ours are chosen on validation images and confirmed on test images.

Metrics have our names; sensitive_accuracy, how well the sensitive attribute can be told from the model (less is
better), is none of ours.
"""

from pathlib import Path

import pandas as pd

from analysis import labels
from analysis.table import Table

CITATION = "Sukumaran et al. 2024, FairLoRA, arXiv 2410.17358"
SEEDS = 3


def numbers() -> pd.DataFrame:
    """A row a printed number: ``table``, ``dataset``, ``backbone``, ``method``, ``metric``, ``mean_percent``,
    ``std_percent``."""
    return pd.read_csv(Path(__file__).with_suffix(".csv"))


def of_dataset(name: str) -> list[Table]:
    """The paper's tables of a data set (our name of it); [] where it has none."""
    rows = numbers()
    return [printed(number) for number in rows.loc[rows["dataset"] == name, "table"].unique()]


def printed(number: int) -> Table:
    """Table ``number`` of the paper, to be read. Raises KeyError where the paper's table is not kept here."""
    rows = numbers().set_index("table").loc[[number]]
    cells = tuple(
        (backbone, labels.METHOD_STYLES[method].name, *(f"{mean:.2f} ± {spread:.2f}" for mean, spread in values))
        for (backbone, method), own in rows.groupby(["backbone", "method"], sort=False)
        for values in [own[["mean_percent", "std_percent"]].to_numpy()]
    )
    sensitive = {"sensitive_accuracy": "sensitive accuracy ↓"}
    header = ("backbone", "method", *(sensitive.get(name) or labels.heading(name) for name in rows["metric"].unique()))
    note = f"Percent, mean ± standard deviation over {SEEDS} seeds. {CITATION}, table {number}. Not measured here."
    return Table(f"Printed in the paper: {rows['dataset'].iloc[0]}", header, cells, note=note)
