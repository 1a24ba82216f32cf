"""A folder of labelled images that a model is judged on: metadata.csv as for a search, with or without splits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.files import inside, plain
from trainables.prepare.listing import check_unique, read_table


@dataclass(frozen=True)
class Labelled:
    """Parallel ``files``, ``label`` and ``group`` (int64 ``[n]``; of the model's classes, and of ``groups``).

    ``training`` counts the rows of a split called train."""

    files: list[Path]
    label: np.ndarray
    group: np.ndarray
    groups: list[str]
    training: int


def read(folder: Path, split: str | None, classes: list[str], groups: list[str]) -> Labelled:
    """The rows of ``folder``'s metadata.csv, of one split or of all. Labels are told by their names, which must be the
    model's ``classes``; groups too, in the order of ``groups``, then new ones. Raises ConfigError."""
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ConfigError(f"{folder} must hold a metadata.csv (file_path, label, …), but has none: name its images")
    rows = _of_split(read_table(table, ["file_path"]), split, table)
    column = next((name for name in ("label_name", "label") if name in rows[0]), None)
    if column is None:
        raise ConfigError(f"{table} must have the column label or label_name, but has {plain(', '.join(rows[0]))}")
    unknown = sorted({row[column].strip() for row in rows} - set(classes))
    if unknown:
        raise ConfigError(f"every {column} must be one of the model's classes, but {plain(unknown[0])!r} is none")
    files = [inside(folder, row["file_path"]) for row in rows]
    check_unique(files, folder)
    names, groups = _groups(rows, groups)
    label = [classes.index(row[column].strip()) for row in rows]
    training = sum(row.get("split") == "train" for row in rows)
    return Labelled(files, np.array(label), np.array([groups.index(name) for name in names]), groups, training)


def _of_split(rows: list[dict[str, str]], split: str | None, table: Path) -> list[dict[str, str]]:
    if split is None:
        return rows
    there = sorted({row.get("split", "") for row in rows} - {""})
    if split not in there:
        known = plain(", ".join(there)) or "none"
        raise ConfigError(f"`split` must be one of those in {table} ({known}), but is {split}")
    return [row for row in rows if row["split"] == split]


def _groups(rows: list[dict[str, str]], first: list[str]) -> tuple[list[str], list[str]]:
    """Each row's group, and the groups that there are; "all" where the table names none."""
    column = next((name for name in ("group_name", "group") if name in rows[0]), None)
    names = [row[column].strip() if column else "all" for row in rows]
    there = set(names)
    return names, [name for name in first if name in there] + sorted(there - set(first))
