"""Damage for the parsers' tables: whatever it does, a parser says one line or gives a listing that holds together."""

import os
import random
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from trainables.config import ConfigError
from trainables.data.store import SPLITS
from trainables.prepare.listing import Listing

NASTY = [
    "",
    "..",
    "../x.jpg",
    "/etc/passwd",
    "a/../../b",
    "-1",
    "3",
    "1e9",
    "NaN",
    "a\0b",
    '"',
    '"a\nb"',
    "é",
    "\u2028",
]
NASTY += ["x" * 300, "0", "1", "None", " ", "\t", "\r", "\x1c", "٣", "²"]


def outcome(read: Callable[[Path], Listing], source: Path) -> Listing | str:
    """The listing, checked to hold together inside ``source``, or the one line that refuses it."""
    try:
        listing = read(source)
    except ConfigError as error:
        message = str(error)
        assert message.isprintable() and len(message) > 20, message
        return message
    check(listing, source)
    return listing


def check(listing: Listing, source: Path) -> None:
    count, real = len(listing.files), os.path.realpath(source)
    assert count == len(set(listing.files)) == len(listing.label) == len(listing.group) == len(listing.split) > 0
    assert all(os.path.realpath(file).startswith(real + os.sep) for file in listing.files)
    assert all(file.is_relative_to(source) and ".." not in file.parts for file in listing.files)
    assert listing.label.min() >= 0 and listing.label.max() < len(listing.classes)
    assert listing.group.min() >= 0 and listing.group.max() < len(listing.groups)
    assert set(listing.split) <= set(SPLITS)
    assert len(set(listing.classes)) == len(listing.classes) and len(set(listing.groups)) == len(listing.groups)


def _any_bytes(good: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(200))


def _cut(good: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(good))
    return good[:start] + good[start + rng.randrange(1, 40) :]


def _foreign(good: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(good))
    return good[:start] + rng.choice([b"\0", b"\xe9", b"\xff\xfe", b"\r", b'"', b",", b"\n\n", b" "]) + good[start:]


def _encoded(good: bytes, rng: random.Random) -> bytes:
    return (good.decode().rstrip() + "é").encode(rng.choice(["latin-1", "utf-16", "utf-16-le", "utf-8-sig", "utf-32"]))


def _line(good: bytes, rng: random.Random) -> bytes:
    lines = good.decode().splitlines()
    here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[here] = rng.choice([lines[there], "", lines[here] + ",x", lines[here].rpartition(",")[0], rng.choice(NASTY)])
    return "\n".join(lines).encode()


def _value(good: bytes, rng: random.Random) -> bytes:
    lines = good.decode().splitlines()
    here = rng.randrange(len(lines))
    separator = "," if "," in lines[here] else " "
    values = lines[here].split(separator)
    values[rng.randrange(len(values))] = rng.choice(NASTY)
    lines[here] = separator.join(values)
    return "\n".join(lines).encode()


def damages() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Functions that damage the bytes of a table once or twice."""
    kinds = st.lists(st.sampled_from([_any_bytes, _cut, _foreign, _encoded, _line, _value]), min_size=1, max_size=2)
    return st.builds(_compose, kinds, st.integers(0, 2**32))


def _compose(kinds: list, seed: int) -> Callable[[bytes], bytes]:
    def damage(good: bytes) -> bytes:
        rng = random.Random(seed)
        for kind in kinds:
            try:
                good = kind(good, rng)
            except (UnicodeDecodeError, ValueError, IndexError):  # the first damage left nothing for the second
                break
        return good

    return damage
