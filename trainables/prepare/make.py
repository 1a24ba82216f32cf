"""Making a prepared data set: from a folder, an archive or a download to ``store.arrow`` and ``manifest.json``."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.config import ConfigError
from trainables.data.store import Manifest, Store
from trainables.files import file_hash, locked, replace_atomically
from trainables.prepare import decode
from trainables.prepare.build import Progress, build
from trainables.prepare.datasets import write_digits
from trainables.prepare.download import download
from trainables.prepare.listing import Listing
from trainables.prepare.prepared import FORMAT, MANIFEST, STORE, facts, read_manifest
from trainables.prepare.sources import SOURCES
from trainables.prepare.unpack import DamagedArchive, opened_source

UNPACKED = ".unpacked"  # in the folder, until the store is complete


@dataclass(frozen=True)
class Request:
    """What to prepare: ``source`` is a folder or an archive, None for a download (or for the digits)."""

    name: str
    source: Path | None
    out: Path
    size: int
    workers: int
    skip_corrupt: bool = False
    allow_overlap: bool = False


def prepare_into(request: Request, progress: Progress, downloading: Progress) -> dict[str, Any]:
    """Make ``request.out`` complete, going on where an earlier try ended; returns its manifest.

    A second process with the same ``out`` waits for the first and then finds it done. Raises ConfigError where the
    source is not what its authors distribute, or ``out`` holds another data set.
    """
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with locked(request.out):
        new = not request.out.exists()
        request.out.mkdir(exist_ok=True)
        try:
            if (request.out / MANIFEST).exists():
                return _same(request)
            return _make(request, progress, downloading)
        finally:
            if new:  # a mistake leaves no empty folder behind
                with contextlib.suppress(OSError):
                    request.out.rmdir()


def _make(request: Request, progress: Progress, downloading: Progress) -> dict[str, Any]:
    (request.out / STORE).unlink(missing_ok=True)  # whatever it is, nothing says what it was made from
    if request.name == "digits":
        write_digits(request.out / STORE, request.size)
        licence, home = "BSD-3-Clause (scikit-learn)", "https://scikit-learn.org"
        origin = {"name": "scikit-learn's load_digits"}
    else:
        licence, home = SOURCES[request.name].licence, SOURCES[request.name].home
        origin = _write_images(request, progress, downloading)
    content = {
        "format": FORMAT,
        **facts(Store(request.out / STORE)),
        "licence": licence,
        "home": home,
        "source": origin,
    }
    content |= {"preprocessing": decode.PREPROCESSING, "preprocessing_version": decode.VERSION}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[\s\d,]+\]", lambda numbers: " ".join(numbers[0].split()), text)  # a table's row on one line
    replace_atomically(request.out / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
    shutil.rmtree(request.out / UNPACKED, ignore_errors=True)
    return read_manifest(request.out)


def _same(request: Request) -> dict[str, Any]:
    manifest = read_manifest(request.out)
    if (manifest["name"], manifest["size"]) != (request.name, request.size):
        raise ConfigError(
            f"`out` {request.out} holds {manifest['name']} at {manifest['size']} px already: choose another folder"
        )
    source = request.source
    if source is not None:
        archive = source.is_file()
        now = file_hash(source) if archive else _listing_hash(SOURCES[request.name].read(source), source)
        if now != manifest["source"].get("sha256" if archive else "listing"):
            raise ConfigError(
                f"`out` {request.out} was made from another source than {source} is now: choose another folder"
            )
    return manifest


def _listing_hash(listing: Listing, root: Path) -> str:
    """Changes with the files' names, their sizes, labels, groups, splits and subjects, and with the names of classes
    and groups."""
    digest = hashlib.sha256(json.dumps([listing.classes, listing.groups, listing.positive, listing.banner]).encode())
    for file, *codes in zip(listing.files, listing.label, listing.group, listing.split):
        size = os.path.getsize(file) if os.path.isfile(file) else -1
        digest.update(os.fsencode(os.path.relpath(file, root)) + f"\0{size} {codes}\n".encode())
    if listing.subject is not None:
        digest.update(listing.subject.tobytes())
    return digest.hexdigest()


def _write_images(request: Request, progress: Progress, downloading: Progress) -> dict[str, Any]:
    row = SOURCES[request.name]
    source, origin = request.source, {"address": ""}
    if source is None:
        if not row.address:
            raise ConfigError(
                f"{request.name} has no direct address: get it from {row.home} ({row.licence}) and pass it as `source`"
            )
        source = request.out / row.address.rpartition("/")[2]
        origin = {"address": row.address, "sha256": download(row.address, source, progress=downloading)}
    elif source.is_file():
        origin["sha256"] = file_hash(source)
    origin["name"] = source.resolve().name
    try:
        root = opened_source(source, request.out / UNPACKED)
        listing = row.read(root)
    except ConfigError as error:  # no archive, or another data set than was said: what was unpacked is of no use
        shutil.rmtree(request.out / UNPACKED, ignore_errors=True)
        if isinstance(error, DamagedArchive) and not request.source:
            source.unlink()  # else every further download would find it there
        raise
    origin["listing"] = _listing_hash(listing, root)
    names = listing.classes, listing.groups, listing.positive
    manifest = Manifest(request.name, request.size, *names, notes=listing.notes)
    lenient = request.skip_corrupt, request.allow_overlap
    build(request.out / STORE, manifest, listing, root, request.workers, *lenient, progress)
    return origin
