"""A prepared data set: a folder with ``store.arrow`` and ``manifest.json``, made once and read by every search."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.config import ConfigError
from trainables.data.store import ROWS_PER_BATCH, SPLITS, Row, Store, write
from trainables.files import cache_folder, locked, remove_torn
from trainables.prepare import decode
from trainables.prepare.build import content_hash

FORMAT = 1
KINDS = {"name": str, "size": int, "classes": list, "groups": list, "splits": dict, "content_hash": str}
KINDS |= {"notes": dict, "source": dict}
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError)  # pyarrow's errors are among these
STORE, MANIFEST = "store.arrow", "manifest.json"


def counts(store: Store) -> dict[str, Any]:
    """Images of each split, in all and as a table class × group (names left out: manifest order); and its subjects,
    where they are known."""
    shape = (len(store.manifest.classes), len(store.manifest.groups))
    tables = {split: np.zeros(shape, int) for split in SPLITS}
    for split, cells in tables.items():
        np.add.at(cells, (store.label[store.rows(split)], store.group[store.rows(split)]), 1)
    content: dict[str, Any] = {
        split: {"images": int(cells.sum()), "class_x_group": cells.tolist()} for split, cells in tables.items()
    }
    if store.subject is not None:
        for split in SPLITS:
            content[split]["subjects"] = count_subjects(store.subject[store.rows(split)])
    return content


def count_subjects(subject: np.ndarray) -> int:
    """How many subjects the images are of; an image of nobody's (below 0) is one."""
    return len(np.unique(subject[subject >= 0])) + int((subject < 0).sum())


def facts(store: Store) -> dict[str, Any]:
    """What ``manifest.json`` says of the store itself."""
    content = asdict(store.manifest) | {"splits": counts(store)}
    content["content_hash"] = content.pop("fingerprint")
    return content


def is_prepared(folder: str | Path) -> bool:
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """``manifest.json`` of a prepared folder. Raises ConfigError where there is none, or none of this format."""
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} must be a prepared data set with a {MANIFEST}, but: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path} must have format {FORMAT}, but has another: remove the folder and prepare it again")
    wrong = [key for key, kind in KINDS.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise ConfigError(f"{path} must have a sound {wrong[0]}, but has not: remove the folder and prepare it again")
    return content


def manifest_of(folder: str | Path, name: str) -> dict[str, Any]:
    """``read_manifest`` of a folder that must hold the data set ``name``; raises ConfigError where it holds another."""
    manifest = read_manifest(folder)
    if manifest["name"] != name:
        raise ConfigError(f"the space wants data set {name}, but {folder} holds {manifest['name']}")
    return manifest


def check(folder: Path) -> list[str]:
    """What in the store differs from its manifest, one line each; nothing where it is whole. Reads every image."""
    expected = read_manifest(folder)
    try:
        store = Store(folder / STORE)
        actual = facts(store) | {"content_hash": content_hash(store.manifest, rows_of(store), store.subject)}
    except UNREADABLE as error:
        return [f"{STORE} cannot be read: {' '.join(str(error).split())}"]
    return [f"{key} is {_brief(actual[key])}, expected {_brief(expected.get(key))}" for key in actual
            if actual[key] != expected.get(key)]  # fmt: skip


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:97]}…"


def rows_of(store: Store, change: Callable[[np.ndarray], Iterable[np.ndarray]] = iter) -> Iterator[Row]:
    """Every row of an open store; ``change`` is applied to its images, some at a time (uint8 [n, size, size, 3])."""
    for start in range(0, len(store), ROWS_PER_BATCH):
        rows = np.arange(start, min(start + ROWS_PER_BATCH, len(store)))
        columns = (column[rows].tolist() for column in (store.label, store.group, store.split))
        yield from zip(change(store.images(rows)), *columns)


def store_at(folder: str | Path, name: str, size: int) -> Path:
    """The store of the prepared ``folder`` at ``size`` pixels: its own, or one resized once into the cache.

    Raises ConfigError where it holds another data set than ``name``, or smaller images.
    """
    manifest = manifest_of(folder, name)
    if manifest["size"] < size:
        raise ConfigError(
            f"`image_size <= {manifest['size']}` must hold for {folder}, but got image_size={size}: "
            f"prepare it again at {size} px"
        )
    path = Path(folder).resolve() / STORE
    try:
        store = Store(path)
        described = (store.manifest.name, store.manifest.size, store.manifest.fingerprint)
    except UNREADABLE as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path} must be a whole store, but: {why}; prepare it again") from error
    if described != (manifest["name"], manifest["size"], manifest["content_hash"]):
        raise ConfigError(f"{path} must be what {MANIFEST} beside it describes, but is not: prepare it again")
    if manifest["size"] == size:
        return path
    key = hashlib.sha256(f"{store.manifest.fingerprint} {decode.VERSION} {size}".encode()).hexdigest()[:16]
    small = cache_folder() / f"{name}-{key}.arrow"
    with locked(small):
        if not small.exists():
            remove_torn(small)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                resized = partial(pool.map, lambda image: decode.square(Image.fromarray(image), size))
                write(small, replace(store.manifest, size=size), rows_of(store, resized), store.subject)
    return small
