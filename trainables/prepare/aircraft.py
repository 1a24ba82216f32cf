"""FGVC-Aircraft 2013b as its authors distribute it: 10,000 photographs of 100 variants, by 30 manufacturers.

data/variants.txt                         the classes, in the order of the lines
data/images_variant_{train,val,test}.txt  an image's id (its zeros matter), a space, its variant (which may hold more)
data/images_variant_trainval.txt          checked against train and val where it is there
data/manufacturers.txt                    the sensitive groups, and data/images_manufacturer_{train,val,test}.txt
data/images/<id>.jpg                      the lowest 20 rows are a banner that names the photographer: cut off

Source: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft. Train (3,334) and val (3,333) are for the search; FairLoRA
trains on both (6,667) and reports test (3,333).
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.prepare.listing import Listing, find_root, refuse_escapes

NAMES = {"variant": "data/variants.txt", "manufacturer": "data/manufacturers.txt"}
TABLE, IMAGES = "data/images_{}_{}.txt", "data/images"
CLASSES, BANNER = 100, 20
ID = re.compile(r"[0-9]+", re.ASCII)  # nothing else becomes part of a path


def read(source: Path) -> Listing:
    """The listing of the distribution in ``source``, or up to two folders below it. Raises ConfigError."""
    root = find_root(source, NAMES["variant"])
    if not os.path.isdir(root / IMAGES):
        raise ConfigError(
            f"{root} must hold {IMAGES}, but does not: it is in the archive of 2.75 GB, not in -annotations"
        )
    variants = _names(root, "variant")
    tables = {split: _table(root, "variant", split, variants) for split in SPLITS}
    split_of: dict[str, str] = {}
    for split, table in tables.items():
        for image in table:
            if split_of.setdefault(image, split) != split:
                raise ConfigError(
                    f"each image must stand in one split, but {image} is in {split_of[image]} and {split}"
                )
    both = TABLE.format("variant", "trainval")
    if os.path.exists(root / both):
        searched = tables["train"] | tables["val"]
        if differing := sorted(dict(_table(root, "variant", "trainval", variants).items() ^ searched.items())):
            raise ConfigError(
                f"{both} must list what train and val list, but {len(differing)} images differ, "
                f"the first {differing[0]}: take these files from one archive"
            )
    group, makers, why = _groups(root, tables)
    files = [root / IMAGES / f"{image}.jpg" for split in SPLITS for image in tables[split]]
    refuse_escapes(root, files)
    label = np.array([code for split in SPLITS for code in tables[split].values()], np.int64)
    splits = np.repeat(SPLITS, [len(tables[split]) for split in SPLITS])
    notes: dict[str, Any] = {"layout": "fgvc-aircraft-2013b", "split": "official train, val and test", "groups": why}
    if len(variants) != CLASSES:
        notes["classes_expected"] = CLASSES
    return Listing(files, label, group, splits, variants, makers, banner=BANNER, notes=notes)


def _lines(root: Path, name: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    try:
        text = (root / name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{root / name} must be a text in UTF-8, but: {error}") from error
    return [(i, line.strip()) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _names(root: Path, kind: str) -> list[str]:
    names: list[str] = []
    for number, name in _lines(root, NAMES[kind]):
        if name in names or not name.isprintable():
            raise ConfigError(f"{NAMES[kind]}, line {number}: each line must be another name, but one is {name!r}")
        names.append(name)
    return names


def _table(root: Path, kind: str, split: str, names: list[str]) -> dict[str, int]:
    """Image id -> code into ``names``, in the order of the lines."""
    path, code = TABLE.format(kind, split), {name: i for i, name in enumerate(names)}
    table: dict[str, int] = {}
    for number, line in _lines(root, path):
        image, _, name = line.partition(" ")
        if not ID.fullmatch(image):
            raise ConfigError(f"{path}, line {number}: an image's id must stand first, digits only, but is {image!r}")
        if name.strip() not in code:
            raise ConfigError(f"{path}, line {number}: the {kind} must be in {NAMES[kind]}, but is {name.strip()!r}")
        if image in table:
            raise ConfigError(f"{path}, line {number}: image {image} is listed a second time")
        table[image] = code[name.strip()]
    return table


def _groups(root: Path, tables: dict[str, dict[str, int]]) -> tuple[np.ndarray, list[str], str]:
    """Group codes in the order of ``tables``, the groups' names, and a note: one group where no file names any."""
    needed = [NAMES["manufacturer"], *(TABLE.format("manufacturer", split) for split in SPLITS)]
    missing = [name for name in needed if not os.path.exists(root / name)]
    if len(missing) == len(needed):
        why = "none: the manufacturers' files are missing"
        return np.zeros(sum(map(len, tables.values())), np.int64), ["all"], why
    if missing:
        raise ConfigError(f"{root} must hold all files of the manufacturers or none, but {missing[0]} is missing")
    makers, codes = _names(root, "manufacturer"), []
    for split, table in tables.items():
        maker = _table(root, "manufacturer", split, makers)
        differing = sorted(maker.keys() ^ table.keys())
        if differing:
            raise ConfigError(
                f"{TABLE.format('manufacturer', split)} must list the images of {TABLE.format('variant', split)}, "
                f"but {len(differing)} differ, the first {differing[0]}"
            )
        codes += [maker[image] for image in table]
    return np.array(codes, np.int64), makers, "manufacturer"
