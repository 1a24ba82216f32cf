"""FairLoRA's printed results, as data: to stand beside confirmed test results, never mixed with measured ones.

Source: Sukumaran, Feizi, Romero-Sorian, Farnadi, "FairLoRA: Unpacking Bias Mitigation in Vision Models with
Fairness-Driven Low-Rank Adaptation", arXiv 2410.17358, tables 1, 2, 3 and 6; over 3 seeds, in percent. Its models were
chosen by the best evaluation accuracy, and for Aircraft and GeoDE it names no split but training images and those that
are reported; ours are chosen on validation images and confirmed on test images.
"""

from dataclasses import dataclass

from analysis import labels
from analysis.table import Table

CITATION = "Sukumaran et al. 2024, FairLoRA, arXiv 2410.17358"
SEEDS = 3


@dataclass(frozen=True)
class PaperTable:
    """One printed table: ``values[backbone, method]`` holds (mean, standard deviation) in percent for each column."""

    number: int
    dataset: str
    columns: tuple[str, ...]
    values: dict[tuple[str, str], tuple[tuple[float, float], ...]]


# Columns have our metrics' names; sensitive_accuracy, how well the sensitive attribute can be told from the model (less
# is better), is none of ours.
PRINTED = (
    PaperTable(1, "geode", ("accuracy", "min_f1", "min_recall", "delta_f1"), {
        ("clip_b32", "lora"): ((97.35, 0.17), (87.24, 0.25), (83.74, 2.15), (12.29, 0.16)),
        ("clip_b32", "fairlora"): ((97.58, 0.06), (88.93, 0.48), (86.51, 0.17), (10.71, 0.48)),
        ("clip_b32", "fft"): ((97.49, 0.19), (88.26, 1.12), (85.91, 0.47), (11.24, 0.92)),
        ("clip_b32", "fairfft"): ((97.57, 0.03), (88.12, 0.42), (85.64, 0.47), (11.52, 0.42)),
        ("dino_b16", "lora"): ((94.38, 0.23), (86.96, 0.91), (82.54, 2.61), (12.93, 0.73)),
        ("dino_b16", "fairlora"): ((94.53, 0.07), (87.65, 0.83), (83.88, 0.83), (11.99, 0.83)),
        ("dino_b16", "fft"): ((91.05, 0.84), (83.08, 0.48), (77.65, 2.00), (14.77, 0.10)),
        ("dino_b16", "fairfft"): ((91.63, 0.98), (83.96, 1.00), (78.39, 4.36), (15.20, 0.59)),
        ("vit_b16", "lora"): ((94.29, 0.07), (86.76, 0.77), (83.46, 1.67), (12.84, 0.32)),
        ("vit_b16", "fairlora"): ((94.71, 0.08), (87.09, 1.45), (83.71, 2.14), (12.81, 1.26)),
        ("vit_b16", "fft"): ((94.39, 0.33), (87.03, 0.32), (83.45, 0.46), (12.61, 0.04)),
        ("vit_b16", "fairfft"): ((94.89, 0.27), (87.44, 0.73), (85.64, 0.94), (12.05, 0.40)),
    }),
    PaperTable(2, "waterbirds", ("accuracy", "min_f1", "min_recall", "delta_f1"), {
        ("clip_b32", "lora"): ((93.83, 0.81), (72.74, 2.94), (74.06, 1.36), (19.28, 1.84)),
        ("clip_b32", "fairlora"): ((93.87, 0.58), (73.45, 1.96), (76.32, 0.38), (18.58, 1.15)),
        ("clip_b32", "fft"): ((92.27, 1.50), (67.37, 5.80), (71.68, 4.76), (22.50, 3.78)),
        ("clip_b32", "fairfft"): ((92.24, 1.38), (67.23, 5.36), (71.55, 4.55), (22.60, 3.52)),
        ("dino_b16", "lora"): ((89.27, 1.12), (77.13, 2.00), (81.45, 0.95), (15.86, 1.24)),
        ("dino_b16", "fairlora"): ((89.21, 1.09), (77.01, 1.93), (81.33, 0.78), (15.94, 1.18)),
        ("dino_b16", "fft"): ((83.07, 1.86), (64.94, 2.91), (70.55, 3.02), (23.90, 1.56)),
        ("dino_b16", "fairfft"): ((82.90, 1.04), (64.36, 1.85), (69.55, 1.36), (24.39, 1.14)),
        ("vit_b16", "lora"): ((91.83, 0.08), (82.05, 0.21), (84.21, 0.99), (12.66, 0.15)),
        ("vit_b16", "fairlora"): ((90.91, 1.08), (80.50, 2.23), (84.59, 2.71), (13.57, 1.51)),
        ("vit_b16", "fft"): ((90.02, 0.67), (77.93, 1.48), (79.45, 1.70), (15.62, 1.04)),
        ("vit_b16", "fairfft"): ((88.96, 0.63), (76.05, 0.87), (78.95, 0.99), (16.78, 0.42)),
    }),
    PaperTable(3, "waterbirds", ("eod_max", "sensitive_accuracy"), {
        ("clip_b32", "lora"): ((43.86, 1.89), (61.27, 1.54)),
        ("clip_b32", "fairlora"): ((37.84, 0.43), (61.02, 1.11)),
        ("clip_b32", "fft"): ((46.62, 9.83), (64.16, 3.14)),
        ("clip_b32", "fairfft"): ((47.87, 7.68), (64.39, 2.61)),
        ("dino_b16", "lora"): ((31.58, 0.75), (60.11, 0.97)),
        ("dino_b16", "fairlora"): ((31.83, 0.43), (60.16, 0.93)),
        ("dino_b16", "fft"): ((52.88, 5.33), (66.19, 1.77)),
        ("dino_b16", "fairfft"): ((52.38, 4.41), (66.03, 1.36)),
        ("vit_b16", "lora"): ((28.07, 1.57), (57.71, 0.25)),
        ("vit_b16", "fairlora"): ((26.82, 5.69), (58.63, 1.18)),
        ("vit_b16", "fft"): ((37.59, 2.71), (59.58, 0.63)),
        ("vit_b16", "fairfft"): ((39.10, 1.99), (60.58, 0.77)),
    }),
    PaperTable(6, "aircraft", ("accuracy", "min_f1", "min_recall", "delta_f1"), {
        ("clip_b32", "lora"): ((81.98, 1.38), (17.60, 5.05), (14.97, 5.10), (80.92, 5.00)),
        ("clip_b32", "fairlora"): ((86.67, 2.56), (27.44, 15.30), (24.81, 14.07), (71.06, 13.78)),
        ("clip_b32", "fft"): ((81.92, 1.21), (21.28, 5.31), (18.78, 3.14), (77.21, 5.29)),
        ("clip_b32", "fairfft"): ((87.03, 2.81), (22.82, 12.47), (17.94, 10.30), (76.17, 10.72)),
        ("dino_b16", "lora"): ((69.39, 0.87), (21.43, 2.81), (19.99, 4.57), (77.59, 1.97)),
        ("dino_b16", "fairlora"): ((68.28, 0.32), (20.64, 4.67), (18.75, 5.92), (77.88, 4.65)),
        ("dino_b16", "fft"): ((71.26, 0.06), (20.37, 7.65), (16.67, 6.79), (79.15, 6.81)),
        ("dino_b16", "fairfft"): ((70.95, 0.95), (23.46, 0.11), (20.59, 2.94), (75.10, 1.32)),
        ("vit_b16", "lora"): ((70.06, 0.92), (25.99, 3.11), (24.24, 3.03), (72.03, 2.28)),
        ("vit_b16", "fairlora"): ((70.45, 0.48), (27.11, 2.11), (25.49, 3.40), (72.41, 1.27)),
        ("vit_b16", "fft"): ((74.17, 0.31), (32.18, 5.83), (27.75, 6.28), (66.34, 5.80)),
        ("vit_b16", "fairfft"): ((74.18, 0.64), (35.36, 5.04), (29.71, 2.99), (63.15, 4.99)),
    }),
)  # fmt: skip


def of_dataset(name: str) -> list[Table]:
    """The paper's tables of a data set (our name of it); [] where it has none."""
    return [printed(table.number) for table in PRINTED if table.dataset == name]


def printed(number: int) -> Table:
    """Table ``number`` of the paper, to be read. Raises KeyError where the paper's table is not kept here."""
    table = {table.number: table for table in PRINTED}[number]
    rows = tuple(
        (backbone, labels.METHOD_STYLES[method].name, *(f"{mean:.2f} ± {spread:.2f}" for mean, spread in cells))
        for (backbone, method), cells in table.values.items()
    )
    sensitive = {"sensitive_accuracy": "sensitive accuracy ↓"}
    header = ("backbone", "method", *(sensitive.get(name) or labels.heading(name) for name in table.columns))
    note = f"Percent, mean ± standard deviation over {SEEDS} seeds. {CITATION}, table {number}. Not measured here."
    return Table(f"Printed in the paper: {table.dataset}", header, rows, note=note)
