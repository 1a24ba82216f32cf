"""Listing: which images a data set has, with labels, groups and splits; and the reader of ``metadata.csv``.

``metadata.csv`` has the columns file_path (inside the folder); label or label_name; optionally group or group_name, and
split (train, val, test). Without a split column the rows are split 70/15/15, seeded and stratified by label and group.
Nothing is decoded here.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.files import inside, plain
from trainables.seeds import seed_for

SHARES = (0.70, 0.15, 0.15)


@dataclass(frozen=True)
class Listing:
    """A checked list of images: parallel files, labels and groups (int64 ``[n]``), splits (text ``[n]``); the names.

    ``positive`` is the positive class of a binary task, else None. ``banner`` is how many rows of pixels are cut off at
    the lower edge of every image. ``notes`` says what was left out, and why: plain values, for the manifest.
    """

    files: list[Path]
    label: np.ndarray
    group: np.ndarray
    split: np.ndarray
    classes: list[str]
    groups: list[str]
    positive: int | None = None
    banner: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


def read_listing(source: Path) -> Listing:
    """``source/metadata.csv``, checked. Raises ConfigError naming the rule that is broken."""
    table = source / "metadata.csv"
    if not source.is_dir():
        raise ConfigError(f"`data` must be a folder, but {source} is not")
    if not table.is_file():
        raise ConfigError(f"`data` {source} must hold a metadata.csv (file_path, label, ...), but has none")
    rows = read_table(table, ["file_path"])
    if not {"label", "label_name"} & set(rows[0]):
        raise ConfigError(
            f"{table} must have the columns file_path and label or label_name, but has {', '.join(rows[0])}"
        )
    files = [inside(source, row["file_path"]) for row in rows]
    check_unique(files, source)
    label, classes = _codes(rows, "label")
    group, groups = _codes(rows, "group")
    if "split" in rows[0]:
        for line, row in enumerate(rows, 2):
            if row["split"] not in SPLITS:
                raise ConfigError(
                    f"{table.name}, line {line}: `split` must be train, val or test, but is {row['split']!r}"
                )
        split = np.array([row["split"] for row in rows])
    else:
        split = draw_splits(label, group, SHARES)
    check_splits(label, split, classes)
    return Listing(files, label, group, split, classes, groups, 1 if len(classes) == 2 else None)


def read_table(table: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a comma-separated file in UTF-8 with a heading, at least one of them, each with every column.

    Raises ConfigError naming the rule, and the line, that is broken.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{table} must be a comma-separated table in UTF-8, but: {error}") from error
    wrong = [name for name in needed if columns.count(name) != 1]
    if wrong:
        rule = f"{wrong[0]} once" if wrong[0] in columns else wrong[0]
        raise ConfigError(f"{table} must have the column {rule}, but has {plain(', '.join(columns)) or 'none'}")
    if not rows:
        raise ConfigError(f"{table} must list images, but has no rows")
    ragged = [i for i, row in enumerate(rows, 2) if None in row or None in row.values()]
    if ragged:
        raise ConfigError(f"{table}, line {ragged[0]}: as many values as columns must stand in each row")
    return rows


def check_unique(files: list[Path], source: Path, table: str = "metadata.csv", first_line: int = 2) -> None:
    """An image that is listed twice could stand in train and in val, or under two labels."""
    seen: set[Path] = set()
    for line, path in enumerate(files, first_line):
        if path in seen:
            raise ConfigError(f"{table}, line {line}: {plain(path.relative_to(source))} is listed a second time")
        seen.add(path)


def _codes(rows: list[dict[str, str]], column: str) -> tuple[np.ndarray, list[str]]:
    """Codes 0 … k−1 of ``column``, and their names; no such column at all is one code called "all".

    Codes sort by the number where every value is one, else by the text.
    """
    if column not in rows[0] and f"{column}_name" not in rows[0]:
        return np.zeros(len(rows), np.int64), ["all"]
    name_column, code_column = f"{column}_name", column
    if name_column not in rows[0]:
        name_column = column
    elif column not in rows[0]:
        code_column = name_column
    names, values = ([row[c].strip() for row in rows] for c in (name_column, code_column))
    name_of: dict[str, str] = {}
    for line, (value, name) in enumerate(zip(values, names), 2):
        if not value:
            raise ConfigError(f"metadata.csv, line {line}: `{column}` must have a value")
        if name_of.setdefault(value, name) != name:
            raise ConfigError(
                f"each {column} must have one name, but {column} {value} is {name_of[value]!r} and {name!r}"
            )
    if len(set(name_of.values())) < len(name_of):
        raise ConfigError(f"each {column}_name must belong to one {column}, but {sorted(name_of.values())} repeats one")
    try:
        ordered = sorted(name_of, key=int)
    except ValueError:
        ordered = sorted(name_of)
    code = {value: i for i, value in enumerate(ordered)}
    return np.array([code[v] for v in values], np.int64), [name_of[v] for v in ordered]


def draw_splits(label: np.ndarray, group: np.ndarray, shares: Sequence[float], *names: object) -> np.ndarray:
    """Train, val and test in ``shares``, stratified by label × group; the same table always gives the same split.

    ``names`` are those of the random stream, for a data set that has its own.

    Cell after cell, each row goes where the share so far falls shortest: small cells take turns, where rounding inside
    each cell would leave all of them out of the test split.
    """
    order = np.random.default_rng(seed_for(0, *names, "split")).permutation(len(label))
    order = order[np.lexsort((group[order], label[order]))]  # stable, so at random inside a cell
    counts, split = np.zeros(len(SPLITS)), np.empty(len(label), dtype="<U5")
    for i, row in enumerate(order, 1):
        chosen = int(np.argmax(np.array(shares) * i - counts))
        counts[chosen] += 1
        split[row] = SPLITS[chosen]
    return split


def check_splits(label: np.ndarray, split: np.ndarray, classes: list[str]) -> None:
    """Raise ConfigError unless there are two classes, training images of each, and validation images."""
    if len(classes) < 2:
        raise ConfigError(
            f"a classifier needs at least 2 classes, but the data have only {', '.join(map(repr, classes)) or 'none'}"
        )
    untrained = sorted(set(range(len(classes))) - set(label[split == "train"]))
    if untrained:
        names = ", ".join(repr(classes[i]) for i in untrained)
        raise ConfigError(f"every label must have a training image, but {names} has none")
    if not (split == "val").any():
        raise ConfigError("the search needs validation images, but the data have none (split = val)")
