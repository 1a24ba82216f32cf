"""GeoDE as its authors distribute it: ``index.csv`` and the folder ``images``; 61,940 photographs of 40 objects.

Columns: file_path (from ``images``; from the root is accepted), object (the class), region (the sensitive group, in
the authors' order) and ip_country, which is not used. Source: https://geodiverse-data-collection.cs.princeton.edu and
the authors' ``training/utils_local.py``. No split ships: the authors' code cuts 60:20:20 at random, FairLoRA 80:20. The
shares here are FairLoRA's; which rows fall into each is ours.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import ConfigError
from trainables.files import inside
from trainables.prepare import listing

TABLE = "index.csv"
GROUPS = ["Africa", "Americas", "EastAsia", "Europe", "SouthEastAsia", "WestAsia"]
CLASSES = 40  # their names are those of the table
SHARES = (0.72, 0.08, 0.20)  # 80:20, and of the 80 a tenth to search on: no search sees what is reported
SPLIT = "80:20 stratified by object x region, seeded, and a tenth of the 80 as val; no split ships"


def read(source: Path) -> listing.Listing:
    """The listing of the distribution in ``source``, or up to two folders below it, sorted by file.

    The same images give the same split, whatever the order of the table. Raises ConfigError.
    """
    root = listing.find_root(source, TABLE)
    rows = listing.read_table(root / TABLE, ["file_path", "object", "region"])
    names = [inside(root, row["file_path"], f"{TABLE}: file_path").relative_to(root) for row in rows]
    # The paths start from ``images`` or the root, whichever has the first file that either has.
    bases = (base for name in names for base in (root / "images", root) if os.path.isfile(base / name))
    base = next(bases, root / "images")
    files = [base / name for name in names]
    listing.check_unique(files, base, TABLE)
    listing.refuse_escapes(root, files)
    objects = [row["object"].strip() for row in rows]
    for line, name in enumerate(objects, 2):
        if not name or not name.isprintable():
            raise ConfigError(f"{TABLE}, line {line}: `object` must be a name, but is {name!r}")
    # Spaces, underscores, hyphens and case do not count ("South East Asia").
    regions = listing.codes_of(rows, "region", TABLE, GROUPS, lambda region: re.sub("[ _-]", "", region.lower()))
    order = sorted(range(len(rows)), key=lambda i: names[i].as_posix())
    classes = sorted(set(objects))
    label = np.array([classes.index(objects[i]) for i in order], np.int64)
    group = regions[order]
    split = listing.draw_splits(label, group, SHARES, "geode")
    layout = f"{TABLE}, files from {'images' if base != root else 'the root'}"
    notes: dict[str, Any] = {"layout": layout, "split": SPLIT}
    if len(classes) != CLASSES:  # a part of the data is a data set too, but the manifest says so
        notes["classes_expected"] = CLASSES
    return listing.Listing([files[i] for i in order], label, group, split, classes, list(GROUPS), notes=notes)
