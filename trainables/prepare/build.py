"""From a listing to a store: decoded in threads, in parts that survive a kill, then joined in one rename.

The parts lie in ``<store>.parts`` beside the store, one a slice of the listing, each under a name that holds the hash
of what it was made from. A second call takes what is there; a file that has changed is decoded again with its part.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.data.store import ROWS_PER_BATCH, Manifest, Row, write
from trainables.files import locked, remove_torn, replace_atomically, require_space
from trainables.prepare import copies, decode
from trainables.prepare.listing import Listing

Progress = Callable[[int, int], None]
PARTS_VERSION = 2  # of what a part holds


def build(
    path: Path,
    manifest: Manifest,
    listing: Listing,
    root: Path,
    workers: int,
    skip_corrupt: bool = False,
    allow_overlap: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make the store ``path`` of ``listing`` in ``workers`` threads unless it exists; a ``manifest`` without
    fingerprint takes the content's hash, and messages name files from ``root``.

    ``progress(done, total)`` counts images. Corrupt and missing files are all named in one ConfigError, or, with
    ``skip_corrupt``, left out and listed in the manifest's notes. A subject in two splits, and identical images in two
    splits or under two labels, are a ConfigError, or, with ``allow_overlap``, a note. Memory: one part, an image a
    thread, and 100 bytes an image. Disk: twice the store while the parts are joined. Two processes that make the same
    store take turns, and the second finds it.
    """
    torn = listing.torn_subjects()
    require_no_overlap(torn, allow_overlap)
    with locked(path):
        if path.exists():
            return
        remove_torn(path)
        folder, count = parts_folder(path), len(listing.files)
        there = sum(part.stat().st_size for part in folder.glob("*")) if folder.is_dir() else 0
        require_space(f"prepare {count} images", path.parent, 2 * count * manifest.size**2 * 3 - there)
        folder.mkdir(exist_ok=True)
        parts = _decode_all(folder, listing, manifest.size, workers, progress)
        decoded, digests, thumbnails = (
            np.concatenate([_read(part, name) for part in parts]) for name in ("rows", "digests", "thumbnails")
        )
        failed = [listing.files[row] for row in np.setdiff1d(np.arange(count), decoded)]
        if failed and not skip_corrupt:
            raise ConfigError(unreadable(failed, root))
        left = listing.only(decoded)
        notes = {**manifest.notes, "images": count, "skipped": len(failed)}
        if failed:
            notes["skipped_files"] = [_short(file, root) for file in failed]

        def name(row: int) -> str:
            return _short(left.files[row], root)

        twice = copies.in_two_places(left, digests, name)
        require_no_overlap(twice, allow_overlap)
        if torn or twice:
            notes["overlap"] = "; ".join(filter(None, [torn, twice]))
        notes |= copies.notes(left, digests, thumbnails, name)
        fingerprint = manifest.fingerprint or content_hash(manifest, _rows(left, parts), left.subject)
        write(path, replace(manifest, notes=notes, fingerprint=fingerprint), _rows(left, parts), left.subject)
        shutil.rmtree(folder)


def require_no_overlap(overlap: str, allowed: bool) -> None:
    """Raise ConfigError of an ``overlap``, in words, unless it is ``allowed``."""
    if overlap and not allowed:
        rule = "no split may hold what another holds, and no image have two labels"
        raise ConfigError(f"{rule}, but {overlap}: mend the table, or pass `allow_overlap`")


def parts_folder(path: Path) -> Path:
    """Where the parts of the store ``path`` lie until it is complete."""
    return path.with_name(f"{path.name}.parts")


def _decode_all(folder: Path, listing: Listing, size: int, workers: int, progress: Progress | None) -> list[Path]:
    """Decode what no part holds yet; the parts in the listing's order. Parts of older content are removed."""
    total = len(listing.files)
    starts = {folder / f"{i:08d}-{_key(listing, size, i)}.npz": i for i in range(0, total, ROWS_PER_BATCH)}
    for stale in set(folder.iterdir()) - starts.keys():
        stale.unlink()
    with ThreadPoolExecutor(workers) as pool:
        for part, start in starts.items():
            if not part.exists():
                _decode_part(part, listing, size, start, pool, progress)
            elif progress:
                progress(min(start + ROWS_PER_BATCH, total), total)
    return list(starts)


def _key(listing: Listing, size: int, start: int) -> str:
    """Changes with anything that the part's pixels depend on; a file counts by its name, size and time of change."""
    digest = hashlib.sha256(f"{PARTS_VERSION} {decode.VERSION} {size} {listing.banner}".encode())
    for file in listing.files[start : start + ROWS_PER_BATCH]:
        try:
            status = os.stat(file)
            seen = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # missing, forbidden, too long a name, a NUL in it
            seen = "missing"
        digest.update(f"\0{os.fsdecode(file)}\0{seen}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _decode_part(
    part: Path, listing: Listing, size: int, start: int, pool: ThreadPoolExecutor, progress: Progress | None
) -> None:
    """Decode a slice of the listing: the rows whose image can be read, and their pixels."""
    files, images = listing.files[start : start + ROWS_PER_BATCH], {}

    def decoded(file: Path) -> tuple[np.ndarray, ...] | None:
        image = decode.decode(file, size, listing.banner)
        return None if image is None else (image, copies.digest(image), copies.thumbnail(image))

    for row, image in enumerate(pool.map(decoded, files), start):
        if image is not None:
            images[row] = image
        if progress:
            progress(row + 1, len(listing.files))
    pixels, digests, thumbnails = (
        np.array([image[i] for image in images.values()], np.uint8).reshape(-1, *shape)
        for i, shape in enumerate([(size, size, 3), (copies.DIGEST,), (copies.SIDE, copies.SIDE)])
    )
    rows = np.array(list(images), np.int64)

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # given a name, savez would append its own ending
            np.savez(file, rows=rows, pixels=pixels, digests=digests, thumbnails=thumbnails)

    replace_atomically(part, save)


def _read(part: Path, name: str) -> np.ndarray:
    with np.load(part) as arrays:
        return arrays[name]


def _rows(listing: Listing, parts: Iterable[Path]) -> Iterator[Row]:
    """Rows of a store: the parts' images, each with its row of ``listing``."""
    images = (image for part in parts for image in _read(part, "pixels"))
    return zip(images, listing.label.tolist(), listing.group.tolist(), listing.split.tolist())


def content_hash(manifest: Manifest, rows: Iterable[Row], subject: np.ndarray | None = None) -> str:
    """sha256 over the names of classes and groups, over every row's pixels, label, group and split, in order, and over
    the subjects where they are known."""
    digest = hashlib.sha256(json.dumps([manifest.classes, manifest.groups, manifest.positive]).encode())
    for image, label, group, split in rows:
        digest.update(image.tobytes())
        digest.update(f"{label} {group} {split}\n".encode())
    if subject is not None:
        digest.update(subject.astype("<i8").tobytes())
    return digest.hexdigest()


def unreadable(files: list[Path], root: Path) -> str:
    """One line that names every file of ``files``, missing and corrupt apart."""
    names: dict[str, list[str]] = {"missing": [], "corrupt": []}
    for file in files:
        names["corrupt" if os.path.isfile(file) else "missing"].append(_short(file, root))
    parts = [f"{len(those)} image(s) are {kind}: {', '.join(those)}" for kind, those in names.items() if those]
    return "; ".join(parts) + "; repair them or pass `skip_corrupt`"


def _short(file: Path, root: Path) -> str:
    """The name from ``root``, printable whatever bytes the file system holds."""
    return os.fsencode(file.relative_to(root)).decode(errors="replace")
