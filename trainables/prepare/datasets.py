"""``prepare``: how a search gets the store of its data set. Without torch, which takes seconds to import.

The digits and the user's own folder become a store when a search starts; the data sets of the papers are prepared
before, from their authors' distributions: ``sources.py`` lists them.
"""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from trainables.config import DATA_NAMES, ConfigError, lookup
from trainables.data.store import Manifest, Store, write
from trainables.files import cache_folder
from trainables.prepare import decode, digits, prepared
from trainables.prepare.build import Progress, build, content_hash, parts_folder, require_no_overlap
from trainables.prepare.listing import read_listing

FOLDER_VERSION = 4  # of the rules for metadata.csv: a change makes other stores
WITH_SUBJECT = "subjects"  # in a file's name: earlier versions' stores of the same images have no such column


def prepare(
    name: str,
    source: str | Path | None,
    size: int,
    *,
    skip_corrupt: bool = False,
    allow_overlap: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The path of the data set's store at ``size`` pixels, made if the cache lacks it. Raises ConfigError.

    ``source`` is a prepared folder (``tune_fairlora.prepare``), or, for data set "folder", the images themselves.
    """
    lookup(dict.fromkeys(DATA_NAMES), name, "data set")
    if source is not None and prepared.is_prepared(source):
        return prepared.store_at(source, name, size)
    if name == "digits":
        if source is not None:
            raise ConfigError(f"the digits come with scikit-learn and take no `data`, but got {source}")
        key = hashlib.sha256(Path(digits.__file__).read_bytes()).hexdigest()[:16]  # of the code that renders them
        path = cache_folder() / f"digits-{size}-{key}-{WITH_SUBJECT}.arrow"
        if not path.exists():
            write_digits(path, size, key)
        return path
    if name != "folder":
        raise ConfigError(
            f"{name} needs as `data` a prepared folder (store.arrow, manifest.json), but got {source or 'none'}: "
            f"make one with `python -m tune_fairlora.prepare {name} --source FILES --out DIR`"
        )
    if source is None:
        raise ConfigError(f"data set {name} needs as `data` the folder with metadata.csv")
    return _folder(Path(source), size, skip_corrupt, allow_overlap, progress)


def write_digits(path: Path, size: int, fingerprint: str = "") -> None:
    """Write the store of the rendered digits; without a ``fingerprint`` it takes the content's hash."""
    parts = digits.render(size)
    rows, subject = list(zip(*(parts[name] for name in ("images", "label", "group", "split")))), parts["source"]
    manifest = Manifest("digits", size, digits.CLASSES, digits.GROUPS, None, "", {"images": len(rows)})
    write(path, replace(manifest, fingerprint=fingerprint or content_hash(manifest, rows, subject)), rows, subject)


def _folder(source: Path, size: int, skip_corrupt: bool, allow_overlap: bool, progress: Progress | None) -> Path:
    """The store of a folder with metadata.csv in the cache, decoded now unless it is there.

    The cache key is the content of metadata.csv and of every image, and the preprocessing (``decode.py``).
    """
    listing = read_listing(source)
    digest = hashlib.sha256(f"folder {FOLDER_VERSION} {decode.VERSION} {size} {skip_corrupt}".encode())
    digest.update((source / "metadata.csv").read_bytes())
    for file in listing.files:
        try:
            digest.update(file.read_bytes())
        except (OSError, ValueError):  # missing, a folder, forbidden, too long a name, a NUL in it
            digest.update(b"missing")
    if listing.notes:  # earlier versions drew another split of such a table
        digest.update(listing.split.tobytes())
    key = digest.hexdigest()[:16]
    path = cache_folder() / f"folder-{key}{'' if listing.subject is None else f'-{WITH_SUBJECT}'}.arrow"
    if path.exists():
        require_no_overlap(Store(path).manifest.notes.get("overlap", ""), allow_overlap)
    else:
        notes = {"source": source.resolve().name} | listing.notes
        manifest = Manifest("folder", size, listing.classes, listing.groups, listing.positive, key, notes)
        try:
            build(path, manifest, listing, source, os.cpu_count() or 1, skip_corrupt, allow_overlap, progress)
        except ConfigError:
            shutil.rmtree(parts_folder(path), ignore_errors=True)  # the key changes with what the user mends
            raise
    return path
