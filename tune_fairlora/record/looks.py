"""How often a data set's test split has been looked at on this machine: looked at often enough, it chooses, too."""

import contextlib
import json
import time
from pathlib import Path

from trainables.files import cache_folder


def add(fingerprint: str, search: str, what: str) -> int:
    """Write down that ``search`` looks at the test split of the data with this content ``fingerprint``; ``count`` then.
    In a cache that cannot be written, this time alone counts."""
    line = json.dumps({"time": time.time(), "search": search, "what": what}) + "\n"
    with contextlib.suppress(OSError):
        path = _path(fingerprint)
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:  # one write a line: those of two processes never mix
            file.write(line)
    return max(1, count(fingerprint))


def count(fingerprint: str) -> int:
    """How often the test split of these data has been looked at."""
    try:
        return sum(1 for line in _path(fingerprint).read_bytes().splitlines() if line.strip())
    except OSError:
        return 0


def _path(fingerprint: str) -> Path:
    return cache_folder() / "looks" / f"{fingerprint}.jsonl"
