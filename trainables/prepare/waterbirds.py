"""Waterbirds as its authors distribute it: ``waterbird_complete95_forest2water2`` with ``metadata.csv``.

Columns: img_id, img_filename (from the folder), y (0 landbird, 1 waterbird), place (0 land, 1 water: the sensitive
group), split (0 train, 1 val, 2 test), place_filename. Source: https://github.com/kohpangwei/group_DRO.

The official cut has 4,795 / 1,199 / 5,794 images, and training cells of 3,498 landbirds on land, 184 on water, 56
waterbirds on land and 1,057 on water; in val and test the places are balanced within each class. The FairLoRA paper
reports 4,795 / 2,400 / 2,800, a cut of its own that is not supported: numbers on the official one are not the paper's.
"""

from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.files import inside
from trainables.prepare.listing import Listing, check_unique, codes_of, find_root, read_table, refuse_escapes

TABLE = "metadata.csv"
CLASSES, GROUPS = ["landbird", "waterbird"], ["land", "water"]
OFFICIAL = (4795, 1199, 5794)  # images in train, val and test
SPLIT = "train / val / test as in the table, {}; FairLoRA reports on a cut of its own, 4,795 / 2,400 / 2,800"


def read(source: Path) -> Listing:
    """The listing of the distribution in ``source``, or up to two folders below it. Raises ConfigError."""
    root = find_root(source, TABLE)
    rows = read_table(root / TABLE, ("img_id", "img_filename", "y", "split", "place"))
    ids: set[str] = set()
    for line, row in enumerate(rows, 2):
        if row["img_id"] in ids:
            raise ConfigError(f"{TABLE}, line {line}: each img_id must stand once, but {row['img_id']!r} stands twice")
        ids.add(row["img_id"])
    files = [inside(root, row["img_filename"], f"{TABLE}: img_filename") for row in rows]
    check_unique(files, root)
    refuse_escapes(root, files)
    label, group, split = (
        codes_of(rows, column, TABLE, "012"[:n]) for column, n in (("y", 2), ("place", 2), ("split", 3))
    )
    official = tuple(np.bincount(split, minlength=len(SPLITS)).tolist()) == OFFICIAL
    cut = "the official cut" if official else "not the official 4,795 / 1,199 / 5,794"
    notes = {"layout": "waterbird_complete95_forest2water2", "split": SPLIT.format(cut)}
    return Listing(files, label, group, np.array(SPLITS)[split], list(CLASSES), list(GROUPS), positive=1, notes=notes)
