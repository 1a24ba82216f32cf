"""From a listing to a store: decoded in threads, in parts that survive a kill, then joined in one rename.

The parts lie in ``<store>.parts`` beside the store, one a slice of the listing, each under a name that holds the hash
of what it was made from. A second call takes what is there; a file that has changed is decoded again with its part.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainables.config import ConfigError
from trainables.data.store import ROWS_PER_BATCH, Manifest, Row, write
from trainables.files import locked, remove_torn, replace_atomically, require_space
from trainables.prepare import decode
from trainables.prepare.listing import Listing, check_splits

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What is decoded, and how: ``root`` is the folder that file names are given from in messages."""

    listing: Listing
    root: Path
    size: int
    workers: int
    skip_corrupt: bool


def build(path: Path, manifest: Manifest, job: Job, progress: Progress | None = None) -> None:
    """Make the store ``path`` of ``job`` unless it exists; ``manifest`` without fingerprint takes the content's hash.

    ``progress(done, total)`` counts images. Corrupt and missing files are all named in one ConfigError, or, with
    ``skip_corrupt``, left out and listed in the manifest's notes. Memory: one part and an image a thread. Disk: twice
    the store while the parts are joined. Two processes that make the same store take turns, and the second finds it.
    """
    with locked(path):
        if path.exists():
            return
        remove_torn(path)
        parts, count = parts_folder(path), len(job.listing.files)
        there = sum(part.stat().st_size for part in parts.glob("*")) if parts.is_dir() else 0
        require_space(f"prepare {count} images", path.parent, 2 * count * job.size**2 * 3 - there)
        parts.mkdir(exist_ok=True)
        made = [parts / name for name in _decode_all(parts, job, progress)]
        failed = []
        for batch in map(_batch, made):
            null = batch["image"].is_null().to_numpy(zero_copy_only=False)
            failed += batch["index"].to_numpy()[null].tolist()
        if failed and not job.skip_corrupt:
            raise ConfigError(unreadable([job.listing.files[i] for i in failed], job.root))
        left = ~np.isin(np.arange(count), failed)
        check_splits(job.listing.label[left], job.listing.split[left], manifest.classes)
        notes = {**manifest.notes, "images": count, "skipped": len(failed)}
        if failed:
            notes["skipped_files"] = [_short(job.listing.files[i], job.root) for i in failed]
        fingerprint = manifest.fingerprint or content_hash(manifest, _rows(job, made))
        write(path, replace(manifest, notes=notes, fingerprint=fingerprint), _rows(job, made))
        shutil.rmtree(parts)


def parts_folder(path: Path) -> Path:
    """Where the parts of the store ``path`` lie until it is complete."""
    return path.with_name(f"{path.name}.parts")


def _decode_all(parts: Path, job: Job, progress: Progress | None) -> list[str]:
    """Decode what no part holds yet; the parts' names in the listing's order. Parts of older content are removed."""
    total = len(job.listing.files)
    starts = range(0, total, ROWS_PER_BATCH)
    names = [f"{start:08d}-{_key(job, start)}.arrow" for start in starts]
    for stale in {entry.name for entry in parts.iterdir()} - set(names):
        (parts / stale).unlink()
    with ThreadPoolExecutor(job.workers) as pool:
        for start, name in zip(starts, names):
            if not (parts / name).exists():
                _decode_part(parts / name, job, start, pool, progress)
            elif progress:
                progress(min(start + ROWS_PER_BATCH, total), total)
    return names


def _key(job: Job, start: int) -> str:
    """Changes with anything that the part's pixels depend on; a file counts by its name, size and time of change."""
    digest = hashlib.sha256(f"{decode.VERSION} {job.size} {job.listing.banner}".encode())
    for file in job.listing.files[start : start + ROWS_PER_BATCH]:
        try:
            status = os.stat(file)
            seen = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # missing, forbidden, too long a name, a NUL in it
            seen = "missing"
        digest.update(f"\0{os.fsdecode(file)}\0{seen}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _decode_part(path: Path, job: Job, start: int, pool: ThreadPoolExecutor, progress: Progress | None) -> None:
    files, pixels = job.listing.files[start : start + ROWS_PER_BATCH], []
    for image in pool.map(lambda file: decode.decode(file, job.size, job.listing.banner), files):
        pixels.append(None if image is None else image.tobytes())
        if progress:
            progress(start + len(pixels), len(job.listing.files))
    index = pa.array(range(start, start + len(files)), pa.int64())
    columns = [index, pa.array(pixels, pa.binary(job.size * job.size * 3))]
    batch = pa.record_batch(columns, names=["index", "image"])

    def write_batch(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    replace_atomically(path, write_batch)


def _batch(part: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(part))).get_batch(0)


def _rows(job: Job, parts: list[Path]) -> Iterator[Row]:
    listing, shape = job.listing, (job.size, job.size, 3)
    for part in parts:
        batch = _batch(part)
        for i, pixels in zip(batch["index"].to_pylist(), batch["image"]):
            if pixels.is_valid:
                image = np.frombuffer(pixels.as_buffer(), np.uint8).reshape(shape)
                yield image, int(listing.label[i]), int(listing.group[i]), str(listing.split[i])


def content_hash(manifest: Manifest, rows: Iterator[Row]) -> str:
    """sha256 over the names of classes and groups and over every row's pixels, label, group and split, in order."""
    digest = hashlib.sha256(json.dumps([manifest.classes, manifest.groups, manifest.positive]).encode())
    for image, label, group, split in rows:
        digest.update(image.tobytes())
        digest.update(f"{label} {group} {split}\n".encode())
    return digest.hexdigest()


def unreadable(files: list[Path], root: Path) -> str:
    """One line that names every file of ``files``, missing and corrupt apart."""
    missing = [file for file in files if not os.path.isfile(file)]
    corrupt = [file for file in files if os.path.isfile(file)]
    parts = [
        f"{len(those)} image(s) are {kind}: {', '.join(_short(file, root) for file in those)}"
        for kind, those in (("missing", missing), ("corrupt", corrupt))
        if those
    ]
    return "; ".join(parts) + "; repair them or pass `skip_corrupt`"


def _short(file: Path, root: Path) -> str:
    """The name from ``root``, printable whatever bytes the file system holds."""
    return os.fsencode(file.relative_to(root)).decode(errors="replace")
