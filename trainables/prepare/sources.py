"""SOURCES: the data sets that `python -m tune_fairlora.prepare` reads from their authors' own distribution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainables.prepare import aircraft, geode, utkface, waterbirds
from trainables.prepare.listing import Listing, find_root, read_listing


@dataclass(frozen=True)
class Source:
    """One row of SOURCES: ``address`` is a direct download or "", ``home`` where terms and files are found.

    ``images`` and ``classes`` are those of the official distribution, 0 where they are the user's own.
    """

    about: str
    images: int
    classes: int
    licence: str
    home: str
    read: Callable[[Path], Listing]
    address: str = ""


UTKFACE = "non-commercial research only; the images belong to their owners"
UTKFACE_HOME = "https://susanqq.github.io/UTKFace/"
SOURCES = {
    "geode": Source(
        "40 household objects photographed in 6 world regions (the groups)",
        61_940,
        40,
        "CC BY 4.0",
        "https://geodiverse-data-collection.cs.princeton.edu/",
        geode.read,
    ),
    "waterbirds": Source(
        "land- and waterbirds pasted on land and water (the groups)",
        11_788,
        2,
        "non-commercial research only (CUB-200-2011 and Places)",
        "https://github.com/kohpangwei/group_DRO",
        waterbirds.read,
        "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
    ),
    "aircraft": Source(
        "100 aircraft variants (FGVC-Aircraft 2013b), manufacturers as groups",
        10_000,
        100,
        "non-commercial research only",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        aircraft.read,
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
    ),
    "utkface_gender": Source(
        "faces, by gender; race as groups", 23_708, 2, UTKFACE, UTKFACE_HOME, partial(utkface.read, task="gender")
    ),
    "utkface_age": Source(
        "faces, in 9 bins of age; race as groups", 23_708, 9, UTKFACE, UTKFACE_HOME, partial(utkface.read, task="age")
    ),
    "folder": Source(
        "your own images, listed in metadata.csv",
        0,
        0,
        "your own",
        "",
        lambda source: read_listing(find_root(source, "metadata.csv")),
    ),
}
