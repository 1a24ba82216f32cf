"""``prepare``: how a search gets the store of its data set. Without torch, which takes seconds to import.

The data sets of the papers are prepared before, from their authors' distributions: ``sources.py`` lists them.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.config import DATA_NAMES, ConfigError, lookup
from trainables.data.store import Manifest, write
from trainables.files import cache_folder
from trainables.prepare import digits, folder, prepared


def _digits(size: int) -> Path:
    """The store of the rendered digits, keyed by the code that renders them."""
    key = hashlib.sha256(Path(digits.__file__).read_bytes()).hexdigest()[:16]
    path = cache_folder() / f"digits-{size}-{key}.arrow"
    if not path.exists():
        parts = digits.render(size)
        manifest = Manifest("digits", size, digits.CLASSES, digits.GROUPS, None, key, {"images": len(parts["label"])})
        write(path, manifest, zip(parts["images"], parts["label"], parts["group"], parts["split"]))
    return path


# The data sets that become a store when a search starts; the others are prepared before, by a command of their own.
MADE_AT_START: dict[str, Callable[..., Path]] = {"digits": _digits, "folder": folder.prepare}


def prepare(name: str, source: str | Path | None, size: int, **options: Any) -> Path:
    """The path of the data set's store at ``size`` pixels, made if the cache lacks it. Raises ConfigError.

    ``source`` is a prepared folder (``tune_fairlora.prepare``), or, for data set "folder", the images themselves.
    """
    lookup(dict.fromkeys(DATA_NAMES), name, "data set")
    if source is not None and prepared.is_prepared(source):
        return prepared.store_at(source, name, size)
    if name not in MADE_AT_START:
        raise ConfigError(
            f"{name} needs as `data` a prepared folder (store.arrow, manifest.json), but got {source or 'none'}: "
            f"make one with `python -m tune_fairlora.prepare {name} --source FILES --out DIR`"
        )
    if name == "digits":
        if source is not None:
            raise ConfigError(f"the digits come with scikit-learn and take no `data`, but got {source}")
        return _digits(size)
    if source is None:
        raise ConfigError(f"data set {name} needs as `data` the folder with metadata.csv")
    return MADE_AT_START[name](source, size, **options)
