"""UTKFace, aligned and cropped, as its authors distribute it: 23,708 files in one folder ``UTKFace``.

A file is called ``[age]_[gender]_[race]_[date].jpg.chip.jpg`` (a plain ``.jpg`` is accepted): age in years, gender 0
male or 1 female, race 0 to 4. Source: https://susanqq.github.io/UTKFace. Known oddities: three names have no race; they
are left out, as copies on the web disagree about it. One has a space before ".jpg", one lacks a dot: those are kept.
Tasks and shares are those of Ding et al.: gender, or age in 9 bins, race as the sensitive group, 80:20. They select on
the 20 that they report; we keep a tenth of the 80 to search on.
"""

import os
import re
from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.prepare.listing import Listing, find_root, refuse_escapes, shown
from trainables.seeds import seed_for

FOLDER = "UTKFace"
GENDERS = ["male", "female"]
GROUPS = ["White", "Black", "Asian", "Indian", "Others"]
EDGES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 200)  # years; a bin holds its upper edge, the first bin its lower one too
AGES = ["0-10", "11-20", "21-30", "31-40", "41-50", "51-60", "61-70", "71-80", "81+"]
CLASSES = {"gender": GENDERS, "age": AGES}
NAME = re.compile(r"([0-9]{1,3})_([01])_([0-4])_([0-9]+)(.*)\.jpg", re.ASCII | re.DOTALL)
REGULAR = ("", ".jpg.chip")  # what stands between the date and the last ".jpg"
SPLIT = "80:20, seeded, over the sorted names, and a tenth of the 80 as val; no split ships"


def read(source: Path, task: str) -> Listing:
    """The listing of the folder ``UTKFace``, which is ``source`` or up to two folders below it, sorted by name.

    ``task`` is "gender" or "age"; both have the same split. Names that cannot be read are left out and noted. Raises
    ConfigError if more than 1 % of them (and more than 10) cannot: then it is no UTKFace.
    """
    if task not in CLASSES:
        raise ConfigError(f"task must be one of {', '.join(CLASSES)}, but got {task!r}")
    root = _root(source)
    try:
        with os.scandir(root) as entries:
            is_image = {e.name: e.name.endswith(".jpg") and (e.is_symlink() or e.is_file()) for e in entries}
    except OSError as error:
        raise ConfigError(f"{root} must be a folder that can be read, but: {error}") from error
    names = sorted(name for name, image in is_image.items() if image)  # directories list in any order
    if not names:
        raise ConfigError(f"{root} must hold the .jpg files of UTKFace, but holds none: pass the folder that does")
    people, left_out = _people(names)
    if len(left_out) > max(10, 0.01 * len(names)):
        raise ConfigError(
            f"images in {root} must be called [age]_[gender]_[race]_[date].jpg.chip.jpg, but {len(left_out)} of "
            f"{len(names)} are not, such as {next(iter(left_out))!r}: is it UTKFace, aligned and cropped?"
        )
    files = [root / name for name in people]
    refuse_escapes(root, files)
    age, gender, group = np.array(list(people.values()), np.int64).reshape(-1, 3).T
    label = gender if task == "gender" else age_bin(age)
    odd = [name for name in people if (match := NAME.fullmatch(name)) and match[5] not in REGULAR]
    notes = {
        "layout": "aligned and cropped, one folder",
        "split": SPLIT,
        "left_out": shown([f"{name}: {reason}" for name, reason in left_out.items()]),
        "odd_names_kept": shown(odd),
        "other_files": shown(sorted(is_image.keys() - set(names))),
    }
    classes, positive = (GENDERS, 1) if task == "gender" else (AGES, None)
    return Listing(files, label, group, _splits(len(files)), list(classes), list(GROUPS), positive, notes=notes)


def age_bin(age: np.ndarray) -> np.ndarray:
    """The bins of ages in years (int64 ``[n]``, 0 to 200): 10 is in the first, 11 in the second; 0 in the first."""
    return np.digitize(age, EDGES[1:-1], right=True)


def _root(source: Path) -> Path:
    """``source`` itself where it holds the images or has the folder's name, else the folder below it."""
    nested = os.path.exists(source / FOLDER)
    if os.path.isdir(source) and not nested and (source.name == FOLDER or any(source.glob("*_*_*.jpg"))):
        return source
    return find_root(source, FOLDER, levels=1) / FOLDER


def _people(names: list[str]) -> tuple[dict[str, tuple[int, int, int]], dict[str, str]]:
    """Name -> (age, gender, race) of the readable ones; name -> reason of the others."""
    people: dict[str, tuple[int, int, int]] = {}
    left_out: dict[str, str] = {}
    first: dict[tuple[str, ...], str] = {}  # somebody who has mended an odd name may have kept the odd file
    for name in names:
        match = NAME.fullmatch(name)
        if not match:
            no_race = re.match(r"[0-9]{1,3}_[01]_[0-9]{5,}", name)
            left_out[name] = "no race" if no_race else "not [age]_[gender 0-1]_[race 0-4]_[date].jpg"
        elif int(match[1]) > EDGES[-1]:
            left_out[name] = "age over 200"
        elif first.setdefault(match.groups()[:4], name) != name:
            left_out[name] = "the same person and date as another file"
        else:
            people[name] = (int(match[1]), int(match[2]), int(match[3]))
    return people, left_out


def _splits(count: int) -> np.ndarray:
    """Train, val and test of the sorted names (text ``[n]``)."""
    order = np.random.default_rng(seed_for(0, "utkface", "split")).permutation(count)
    test = round(0.2 * count)
    val = round(0.1 * (count - test))
    split = np.full(count, "train", dtype="<U5")
    split[order[:test]], split[order[test : test + val]] = "test", "val"
    return split
