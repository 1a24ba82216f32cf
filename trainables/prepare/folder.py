"""The user's own images: a folder with ``metadata.csv`` (``listing.py``) and image files, decoded once into a store."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainables.config import ConfigError
from trainables.prepare.listing import Listing, check_splits, read_listing
from trainables.store import Manifest, Store, cache_folder, write

VERSION = 3  # of the preprocessing below and of the listing's rules: a change makes other stores
Progress = Callable[[int, int], None]


def prepare(source: str | Path, size: int, *, skip_corrupt: bool = False, progress: Progress | None = None) -> Path:
    """The store of the folder ``source`` at ``size`` pixels, decoded now unless the cache has it.

    The cache key is the content of metadata.csv and of every image, and the preprocessing: turned upright as EXIF says,
    the centre square resized to ``size`` (bicubic, antialiased), RGB without transparency. Corrupt and missing files
    are all named in one ConfigError, or, with ``skip_corrupt``, left out and counted in the manifest's notes.
    ``progress(done, total)`` is called while decoding.
    """
    listing = read_listing(Path(source))
    key = _content_key(listing, Path(source), size, skip_corrupt)
    path = cache_folder() / f"folder-{key}.arrow"
    if not path.exists():
        _decode_into(path, listing, Path(source), size, key, skip_corrupt, progress)
    return path


def _content_key(listing: Listing, source: Path, size: int, skip_corrupt: bool) -> str:
    digest = hashlib.sha256(f"folder {VERSION} {size} {skip_corrupt}".encode())
    digest.update((source / "metadata.csv").read_bytes())
    for path in listing.files:
        try:
            digest.update(path.read_bytes())
        except (OSError, ValueError):  # missing, a folder, forbidden, too long a name, a NUL in it
            digest.update(b"missing")
    return digest.hexdigest()[:16]


def _decode_into(path: Path, listing: Listing, source: Path, size: int, key: str, skip: bool, progress) -> None:
    failures: list[Path] = []
    notes = {"source": str(source.resolve().name), "images": len(listing.files), "skipped": 0}

    def rows() -> Iterator[tuple]:
        for i, image in enumerate(_decoded(listing.files, size)):
            if progress:
                progress(i + 1, len(listing.files))
            if image is None:
                failures.append(listing.files[i])
            else:
                yield image, listing.label[i], listing.group[i], listing.split[i]
        if failures and not skip:
            raise ConfigError(_unreadable(failures, source))

    manifest = Manifest("folder", size, listing.classes, listing.groups, listing.positive, key, notes)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial, manifest, rows())
        if failures:
            _recount(partial, manifest, failures, source)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _recount(path: Path, manifest: Manifest, failures: list[Path], source: Path) -> None:
    """Write number and names of the skipped files into the store, once what is left has passed the checks."""
    store = Store(path)
    check_splits(store.label, store.split, manifest.classes)
    manifest.notes.update(skipped=len(failures), skipped_files=[str(f.relative_to(source)) for f in failures])
    rows = ((store.images(np.array([i]))[0], store.label[i], store.group[i], store.split[i]) for i in range(len(store)))
    write(path, manifest, rows)


def _decoded(files: list[Path], size: int) -> Iterator[np.ndarray | None]:
    """The images in order, None for one that cannot be read; decoding runs in threads, a few images ahead."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), 512):  # bounded: `map` alone would queue every image of the folder
            yield from pool.map(lambda path: _decode(path, size), files[start : start + 512])


def _decode(path: Path, size: int) -> np.ndarray | None:
    try:
        with Image.open(path) as image:
            return _square(_upright_rgb(image), size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip: all but the darkest 1/256 of the range would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> np.ndarray:
    """The centre square at ``size``: uint8 ``[size, size, 3]``. The rest of a long strip is never resized."""
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _unreadable(paths: list[Path], source: Path) -> str:
    kinds = {
        "missing": [path for path in paths if not os.path.isfile(path)],
        "corrupt": [path for path in paths if os.path.isfile(path)],
    }
    parts = [
        f"{len(those)} image(s) are {kind}: {', '.join(str(path.relative_to(source)) for path in those)}"
        for kind, those in kinds.items()
        if those
    ]
    return "; ".join(parts) + "; repair them or pass --skip-corrupt"
