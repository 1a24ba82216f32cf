"""The user's own images: a folder with ``metadata.csv`` (``listing.py``) and image files, decoded once into a store."""

import hashlib
import os
import shutil
from pathlib import Path

from trainables.config import ConfigError
from trainables.data.store import Manifest
from trainables.files import cache_folder
from trainables.prepare import decode
from trainables.prepare.build import Job, Progress, build, parts_folder
from trainables.prepare.listing import read_listing

VERSION = 4  # of the listing's rules: a change makes other stores


def prepare(source: str | Path, size: int, *, skip_corrupt: bool = False, progress: Progress | None = None) -> Path:
    """The store of the folder ``source`` at ``size`` pixels in the cache, decoded now unless it is there.

    The cache key is the content of metadata.csv and of every image, and the preprocessing (``decode.py``). Corrupt and
    missing files are all named in one ConfigError, or, with ``skip_corrupt``, left out and counted in the manifest's
    notes. ``progress(done, total)`` is called while decoding.
    """
    source = Path(source)
    listing = read_listing(source)
    digest = hashlib.sha256(f"folder {VERSION} {decode.VERSION} {size} {skip_corrupt}".encode())
    digest.update((source / "metadata.csv").read_bytes())
    for file in listing.files:
        try:
            digest.update(file.read_bytes())
        except (OSError, ValueError):  # missing, a folder, forbidden, too long a name, a NUL in it
            digest.update(b"missing")
    key = digest.hexdigest()[:16]
    path = cache_folder() / f"folder-{key}.arrow"
    if not path.exists():
        notes = {"source": source.resolve().name}
        manifest = Manifest("folder", size, listing.classes, listing.groups, listing.positive, key, notes)
        try:
            build(path, manifest, Job(listing, source, size, os.cpu_count() or 1, skip_corrupt), progress)
        except ConfigError:
            shutil.rmtree(parts_folder(path), ignore_errors=True)  # the key changes with what the user mends
            raise
    return path
