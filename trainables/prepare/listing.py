"""Listing: which images a data set has, with labels, groups and splits; what every reader of a distribution needs for
one; and the reader of the user's own ``metadata.csv``. Nothing is decoded here.

``metadata.csv`` has the columns file_path (inside the folder); label or label_name; optionally group or group_name,
subject (whose image it is) and split (train, val, test). Without a split column the rows are split 70/15/15, seeded and
stratified by label and group; images of one subject, and identical files, stay in one split.
"""

import contextlib
import csv
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.files import inside, plain
from trainables.prepare import subjects
from trainables.seeds import seed_for

SHARES = (0.70, 0.15, 0.15)
SHOWN = 100  # names that a note lists; the manifest is for reading


@dataclass(frozen=True)
class Listing:
    """A checked list of images: parallel files, labels and groups (int64 ``[n]``), splits (text ``[n]``); the names.

    ``subject`` says whose each image is (int64 ``[n]``, codes into ``subjects``, -1 for nobody's), None where nothing
    does. ``positive`` is the positive class of a binary task, else None. ``banner`` is how many rows of pixels are cut
    off at the lower edge of every image. ``notes`` says what was left out, and why: plain values, for the manifest.
    Raises ConfigError at construction unless there are two classes, training images of each, and validation images.
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
    subject: np.ndarray | None = None
    subjects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            names = ", ".join(map(repr, self.classes)) or "none"
            raise ConfigError(f"a classifier needs at least 2 classes, but the data have only {names}")
        untrained = sorted(set(range(len(self.classes))) - set(self.label[self.split == "train"]))
        if untrained:
            names = ", ".join(repr(self.classes[i]) for i in untrained)
            raise ConfigError(f"every label must have a training image, but {names} has none")
        if not (self.split == "val").any():
            raise ConfigError("the search needs validation images, but the data have none (split = val)")

    def only(self, rows: np.ndarray) -> "Listing":
        """The listing of ``rows`` (int64) alone."""
        columns = {"label": self.label[rows], "group": self.group[rows], "split": self.split[rows]}
        columns["subject"] = None if self.subject is None else self.subject[rows]
        return replace(self, files=[self.files[row] for row in rows], **columns)

    def torn_subjects(self) -> str:
        """How many subjects have images in two splits, and the first of them; "" if none has."""
        return "" if self.subject is None else subjects.in_two_splits(self.subject, self.split, self.subjects)


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
    subject: np.ndarray | None = None
    names: list[str] = []
    notes: dict[str, Any] = {}
    if "subject" in rows[0]:
        subject, names = subjects.codes_of_subjects([row["subject"] for row in rows])
    if "split" in rows[0]:
        split = np.array(SPLITS)[codes_of(rows, "split", table.name, SPLITS, key=str)]
    else:
        unit = subjects.units(np.full(len(rows), -1) if subject is None else subject, files)
        if unit.max() == len(rows) - 1:  # each image stands alone
            split = draw_splits(label, group, SHARES)
        else:
            split = subjects.draw_splits_of_units(unit, label, group, SHARES)
            notes["split"] = "70/15/15, seeded; images of one subject, and identical files, stay in one split"
    positive = 1 if len(classes) == 2 else None
    return Listing(files, label, group, split, classes, groups, positive, 0, notes, subject, names)


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


def check_unique(files: list[Path], source: Path, table: str = "metadata.csv") -> None:
    """An image that is listed twice could stand in train and in val, or under two labels."""
    seen: set[Path] = set()
    for line, path in enumerate(files, 2):
        if path in seen:
            raise ConfigError(f"{table}, line {line}: {plain(path.relative_to(source))} is listed a second time")
        seen.add(path)


def codes_of(
    rows: Sequence[dict[str, str]], column: str, table: str, names: Sequence[str], key: Callable[[str], str] = str.strip
) -> np.ndarray:
    """Codes 0 … k−1 of ``column`` (int64 ``[n]``), which must hold one of ``names``; ``key`` says what of them counts.
    Raises ConfigError naming the line."""
    codes = {key(name): code for code, name in enumerate(names)}
    for line, row in enumerate(rows, 2):
        if key(row[column]) not in codes:
            raise ConfigError(
                f"{table}, line {line}: `{column}` must be one of {', '.join(names)}, but is {row[column]!r}"
            )
    return np.array([codes[key(row[column])] for row in rows], np.int64)


def _codes(rows: list[dict[str, str]], column: str) -> tuple[np.ndarray, list[str]]:
    """Codes 0 … k−1 of ``column``, and their names; no such column at all is one code called "all".

    Codes sort by the number where every value is one, else by the text.
    """
    columns = [name for name in (column, f"{column}_name") if name in rows[0]]
    if not columns:
        return np.zeros(len(rows), np.int64), ["all"]
    values, names = ([row[c].strip() for row in rows] for c in (columns[0], columns[-1]))
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

    ``names`` are those of the random stream, for a data set that has its own. Cell after cell, each row goes where the
    share so far falls shortest: small cells take turns, where rounding inside each cell would leave all of them out of
    the test split.
    """
    order = np.random.default_rng(seed_for(0, *names, "split")).permutation(len(label))
    order = order[np.lexsort((group[order], label[order]))]  # stable, so at random inside a cell
    counts, split = np.zeros(len(SPLITS)), np.empty(len(label), dtype="<U5")
    for i, row in enumerate(order, 1):
        chosen = int(np.argmax(np.array(shares) * i - counts))
        counts[chosen] += 1
        split[row] = SPLITS[chosen]
    return split


def find_root(source: Path, marker: str, levels: int = 2) -> Path:
    """The folder that holds ``marker`` (a file's or folder's name): ``source``, or one up to ``levels`` below it.

    The level nearest to ``source`` counts. Linked and hidden folders are not entered. Raises ConfigError if no folder
    has it, or several of one level.
    """
    if not os.path.isdir(source):
        raise ConfigError(f"the source must be a folder, but {plain(source)} is not")
    level = [source]
    for _ in range(levels + 1):
        roots = [folder for folder in level if os.path.exists(folder / marker)]
        if len(roots) > 1:
            names = plain(", ".join(str(folder) for folder in roots[:3]))
            raise ConfigError(f"{plain(source)} must hold one {marker}, but has {len(roots)}: pass one of {names}")
        if roots:
            return roots[0]
        below: list[Path] = []
        for folder in level:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:  # it may not be ours to read
                below += sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
        level = below
    raise ConfigError(
        f"{plain(source)} must hold {marker}, itself or at most {levels} folders down, but does not: "
        f"pass the folder that the authors' archive unpacks into"
    )


def refuse_escapes(root: Path, files: Sequence[Path]) -> None:
    """Raise ConfigError if a link leads one of ``files``, each named below ``root``, out of it. They need not exist."""
    real = os.path.realpath(root)
    # Remembered, as the folders are few, the files many.
    below = functools.cache(lambda path: os.path.commonpath([real, os.path.realpath(path)]) == real)
    for file in files:
        if not below(os.path.dirname(file)) or (os.path.islink(file) and not below(file)):
            raise ConfigError(
                f"every image must lie inside {plain(root)}, but a link leads {plain(file.relative_to(root))} "
                f"out of it: copy the images there"
            )


def shown(names: Sequence[str]) -> list[str]:
    """``names`` for a note: printable, and the first ``SHOWN`` of them."""
    more = [f"… and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [plain(name) for name in names[:SHOWN]] + more
