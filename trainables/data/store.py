"""The store: decoded uint8 images of one size in one memory-mapped Arrow file, shared by all trials of a node.

Schema: ``image`` fixed-size binary (size · size · 3 bytes, RGB), ``label`` and ``group`` int64, ``split`` string, and,
where it is known whose image each is, ``subject`` int64; the manifest (classes, groups, size, source) is JSON in the
schema's metadata.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainables.files import replace_atomically

ROWS_PER_BATCH = 256  # bounds the memory of a writer; every batch but the last has exactly this many rows
SPLITS = ("train", "val", "test")
Row = tuple[np.ndarray, int, int, str]  # image uint8 [size, size, 3], label, group, split


@dataclass(frozen=True)
class Manifest:
    """What the images mean. ``positive`` is the positive class of a binary task, else None."""

    name: str
    size: int
    classes: list[str]
    groups: list[str]
    positive: int | None = None
    fingerprint: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


def write(path: Path, manifest: Manifest, rows: Iterable[Row], subject: np.ndarray | None = None) -> None:
    """Write ``rows``, holding one batch in memory, and whose image each is (int64 ``[n]``, below 0 nobody's)."""
    image = pa.binary(manifest.size * manifest.size * 3)
    fields = [("image", image), ("label", pa.int64()), ("group", pa.int64()), ("split", pa.string())]
    fields += [] if subject is None else [("subject", pa.int64())]
    schema = pa.schema(fields, metadata={"manifest": json.dumps(asdict(manifest))})

    def write_batches(temporary: Path) -> None:
        remaining = iter(rows)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            written = 0
            while batch := list(islice(remaining, ROWS_PER_BATCH)):
                images, *columns = zip(*batch)
                content = dict(zip(schema.names, [[image.tobytes() for image in images], *columns]))
                if subject is not None:
                    content["subject"] = subject[written : written + len(batch)]
                written += len(batch)
                writer.write_batch(pa.RecordBatch.from_pydict(content, schema=schema))

    replace_atomically(path, write_batches)


class Store:
    """An open store. ``label`` and ``group`` are int64 ``[n]``, ``split`` is a text array ``[n]``; ``subject`` is int64
    ``[n]``, equal for images of one subject, -1 for nobody's, or None: each image is its own."""

    def __init__(self, path: str | Path):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.path = Path(path)
        self.manifest = Manifest(**json.loads(table.schema.metadata[b"manifest"]))
        self.label = table["label"].to_numpy()
        self.group = table["group"].to_numpy()
        self.split = np.array(table["split"].to_pylist(), dtype=str)
        self.subject = table["subject"].to_numpy() if "subject" in table.schema.names else None
        self._chunks = [self._pixels(chunk) for chunk in table["image"].chunks]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, split: str) -> np.ndarray:
        """The row numbers of ``split``, int64, ascending."""
        return np.flatnonzero(self.split == split)

    def facts(self, split: str) -> dict[str, np.ndarray]:
        """``label``, ``group`` and, where they are known, ``subject`` of the images of ``split``, int ``[n]``."""
        columns = {"label": self.label, "group": self.group, "subject": self.subject}
        return {name: column[self.rows(split)] for name, column in columns.items() if column is not None}

    def images(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The images of ``rows``, uint8 ``[len(rows), size, size, 3]``, in ``out`` or a new array; nothing is
        decoded."""
        if out is None:
            out = np.empty((len(rows), self.manifest.size, self.manifest.size, 3), np.uint8)
        for i, row in enumerate(rows):
            out[i] = self._chunks[row // ROWS_PER_BATCH][row % ROWS_PER_BATCH]
        return out

    def _pixels(self, chunk: pa.FixedSizeBinaryArray) -> np.ndarray:
        """A view on the mapped bytes, uint8 ``[len(chunk), size, size, 3]``."""
        pixels = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, self.manifest.size, self.manifest.size, 3)
        return pixels[chunk.offset : chunk.offset + len(chunk)]
