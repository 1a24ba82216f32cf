"""Subjects: whose image it is. A person, a source image, a patient, a site: images of one subject are not independent,
so that splits keep them together. Identical files are kept together likewise."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.files import file_hash
from trainables.seeds import seed_for


def codes_of_subjects(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Codes 0 … k-1 of the subjects in the order of their first rows, int64 ``[n]``, and their names. An empty value
    names nobody and is -1: an image of its own."""
    names = list(dict.fromkeys(value.strip() for value in values if value.strip()))
    code = {name: i for i, name in enumerate(names)}
    return np.array([code.get(value.strip(), -1) for value in values], np.int64), names


def first_with_content(files: Sequence[Path]) -> np.ndarray:
    """The first of ``files`` with the content of each, int64 ``[n]``: its own row where none is the same, or it cannot
    be read. Only files of equal size are read."""
    first, sizes = np.arange(len(files)), defaultdict(list)
    for row, file in enumerate(files):
        try:
            sizes[os.stat(file).st_size].append(row)
        except (OSError, ValueError):  # missing, forbidden, too long a name, a NUL in it
            continue
    sizes.pop(0, None)
    for rows in sizes.values():
        seen: dict[str, int] = {}
        for row in rows if len(rows) > 1 else []:
            try:
                first[row] = seen.setdefault(file_hash(files[row]), row)
            except OSError:  # a folder
                continue
    return first


def units(subject: np.ndarray, files: Sequence[Path]) -> np.ndarray:
    """Which images must stay in one split: codes 0 … k-1, int64 ``[n]``, equal for images of one ``subject`` (int64
    ``[n]``, below 0 nobody's) and for identical ``files``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(subject))
    _, index, inverse = np.unique(subject, return_index=True, return_inverse=True)
    sibling = np.where(subject < 0, rows, index[inverse])
    links = np.concatenate([rows, rows]), np.concatenate([sibling, first_with_content(files)])
    return connected_components(coo_array((np.ones(2 * len(rows)), links), (len(rows), len(rows))))[1].astype(np.int64)


def draw_splits_of_units(unit: np.ndarray, label: np.ndarray, group: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Train, val and test in about ``shares``, each of ``unit`` (codes int64 ``[n]``) in one of them; the same table
    always gives the same split (text ``[n]``). Raises ConfigError where no unit can be spared for val.

    Unit after unit, the largest first, goes where its images are missed most: in all, and of their classes, groups and
    classes x groups. The last unit of a class that has no training image goes to train.
    """
    order = np.random.default_rng(seed_for(0, "subjects", "split")).permutation(unit.max() + 1)
    order = order[np.argsort(-np.bincount(unit)[order], kind="stable")]
    classes, groups = label.max() + 1, group.max() + 1
    parts = (np.zeros_like(label), label, group, label * groups + group)  # the columns of a row's counts
    starts = np.cumsum([0, 1, classes, groups])
    columns = np.stack([part + start for part, start in zip(parts, starts)], axis=1)
    wanted = np.outer(shares, np.bincount(columns.ravel()))
    rows_of = np.split(np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))[:-1])
    to_come = Counter(k for rows in rows_of for k in set(label[rows].tolist()))
    trained: Counter[int] = Counter()  # training images of each class
    split = np.empty(len(unit), np.int64)
    for u in order:
        rows, own = rows_of[u], Counter(label[rows_of[u]].tolist())
        to_come.subtract(own.keys())
        last_chance = any(not trained[k] and not to_come[k] for k in own)
        chosen = 0 if last_chance else int(wanted[:, columns[rows].ravel()].sum(axis=1).argmax())
        np.subtract.at(wanted[chosen], columns[rows].ravel(), 1)
        split[rows] = chosen
        trained.update(own if chosen == 0 else {})
    if not (split == 1).any():
        spare = [u for u in order[::-1] if _can_be_spared(label[rows_of[u]], trained, split[rows_of[u][0]])]
        if not spare:
            raise ConfigError(
                f"the images of a subject stay in one split, but of {len(order)} subjects training can spare none for "
                "validation: give more subjects, or a column split"
            )
        split[rows_of[spare[0]]] = 1
    return np.array(SPLITS)[split]


def _can_be_spared(label: np.ndarray, trained: Counter[int], split: int) -> bool:
    return split != 0 or all(trained[k] > count for k, count in Counter(label.tolist()).items())


def in_two_splits(subject: np.ndarray, split: np.ndarray, names: Sequence[str]) -> str:
    """How many subjects have images in two splits, and the first of them; "" if none has."""
    known = np.flatnonzero(subject >= 0)
    places: dict[int, list[str]] = defaultdict(list)
    for code, place in zip(subject[known].tolist(), split[known].tolist()):
        if place not in places[code]:
            places[code].append(place)
    torn = [code for code, those in places.items() if len(those) > 1]
    if not torn:
        return ""
    where = " and ".join(places[torn[0]])
    return f"{len(torn)} subject(s) have images in two splits, such as {names[torn[0]]!r} in {where}"
