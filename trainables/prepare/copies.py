"""Copies: images that are identical, or look alike, in two splits or under two labels.

Identical is what the store cannot tell apart: equal pixels at its size, whatever the files hold. Near copies (saved
again, resized, made brighter) are told by a difference hash: 64 bits say where a thumbnail of 9 x 9 grey pixels grows
brighter to the right, 64 where it does downwards. Two images look alike where at most ``FARTHEST`` bits differ and the
thumbnails correlate by more than ``ALIKE``; a thumbnail of little ``CONTRAST`` says nothing.

Measured on three sets without near copies across splits (signdigits at 64 px: 1.2 million pairs of photographs from one
set-up; the rendered digits at 16 px; scikit-learn's plain ones at 32 px, halved at random): no false alarm in any. The
bits alone, at 4, gave 0, 0 and 21; at 6, 9, 0 and 125. Of 300 photographs of signdigits it tells 94 % saved as JPEG of
quality 30, 98 % of quality 50, 96 % halved and enlarged again, 95 % made brighter by 15 %; 15 % cropped by 2 % on each
side, none by 5 %. Noise as large as that of the rendered digits hides copies.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from trainables.data.store import SPLITS
from trainables.prepare.listing import Listing

DIGEST, SIDE = 16, 9  # bytes of a digest, pixels of a thumbnail's side
FARTHEST = 4
ALIKE = 0.99
NOTES = ("overlap", "copies", "near_copies")  # in a manifest: what is said of images that stand twice
CONTRAST = 8.0  # standard deviation of a thumbnail, of 255
WINDOW = 32  # how many of those that share a part of their bits are compared with each: no set takes quadratic time


def digest(image: np.ndarray) -> np.ndarray:
    """The first half of the sha256 of an image's pixels, uint8 ``[16]``."""
    return np.frombuffer(hashlib.sha256(image.tobytes()).digest()[:DIGEST], np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """An image in uint8 ``[9, 9]``, grey."""
    return np.asarray(Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def first_of(digests: np.ndarray) -> np.ndarray:
    """The first row with the same digest as each, int64 ``[n]``, of digests uint8 ``[n, 16]``: its own where no earlier
    one has it."""
    keys = np.ascontiguousarray(digests).view(f"V{DIGEST}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def near(thumbnails: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Pairs of rows that look alike in two splits, int64 ``[m, 2]``, of thumbnails uint8 ``[n, 9, 9]``.

    Of five parts of the bits, one at least is the same where at most four bits differ: the images are sorted by each
    part in turn, and compared with their next neighbours.
    """
    grey = thumbnails.astype(np.int16)
    right = np.diff(grey[:, :-1] + grey[:, 1:], axis=2) > 0
    down = np.diff(grey[:, :, :-1] + grey[:, :, 1:], axis=1) > 0
    bits = np.concatenate([right.reshape(len(grey), -1), down.reshape(len(grey), -1)], axis=1)
    packed = np.packbits(bits, axis=1)
    pixels = grey.reshape(len(grey), -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1)
    rows = np.flatnonzero(length >= CONTRAST * SIDE)
    pixels[rows] /= length[rows, None]
    pairs = np.zeros((0, 2), np.int64)
    for part in range(FARTHEST + 1):
        keys = np.packbits(bits[rows, part :: FARTHEST + 1], axis=1).view(np.uint32).ravel()
        order = np.lexsort((*packed[rows].T, keys))
        keys, order = keys[order], rows[order]
        for step in range(1, WINDOW + 1):
            a, b = order[:-step], order[step:]
            same = keys[:-step] == keys[step:]
            if not same.any():
                break
            same &= split[a] != split[b]
            a, b = a[same], b[same]
            close = np.bitwise_count(packed[a] ^ packed[b]).sum(axis=1) <= FARTHEST
            a, b = a[close], b[close]
            alike = (pixels[a] * pixels[b]).sum(axis=1) > ALIKE
            pairs = np.concatenate([pairs, np.sort(np.stack([a[alike], b[alike]], axis=1))])
    return np.unique(pairs, axis=0)


def in_two_places(listing: Listing, digests: np.ndarray, name: Callable[[int], str]) -> str:
    """How many images are identical to one of another split or label, and the first such pair; "" if none is. ``name``
    gives a row's file."""
    first = first_of(digests)
    rows = np.flatnonzero((listing.split != listing.split[first]) | (listing.label != listing.label[first]))
    if not len(rows):
        return ""

    def where(row: int) -> str:
        return f"{name(row)} ({listing.split[row]}, {listing.classes[listing.label[row]]!r})"

    return (
        f"{len(rows)} image(s) are identical to one of another split or label, such as "
        f"{where(rows[0])} to {where(first[rows[0]])}"
    )


def notes(listing: Listing, digests: np.ndarray, thumbnails: np.ndarray, name: Callable[[int], str]) -> dict[str, str]:
    """What is no mistake, but worth a line each: identical images of one split and label, near copies across splits."""
    texts, first = {}, first_of(digests)
    same = (listing.split == listing.split[first]) & (listing.label == listing.label[first])
    rows = np.flatnonzero(same & (first != np.arange(len(first))))
    if len(rows):
        texts["copies"] = (
            f"{len(rows)} image(s) are identical to one of the same split and label, such as {name(rows[0])} to "
            f"{name(first[rows[0]])}"
        )
    once = np.flatnonzero(first == np.arange(len(first)))  # identical ones are another matter
    pairs = once[near(thumbnails[once], listing.split[once])]
    if len(pairs):
        place = (listing.split[pairs, None] == np.array(SPLITS)).argmax(axis=2)
        swap = place[:, 0] > place[:, 1]  # the copy is the one that is further from training
        copy, of = np.where(swap, pairs.T, pairs.T[::-1])
        texts["near_copies"] = (
            f"{len(set(copy.tolist()))} image(s) look like a copy of one of another split, such as "
            f"{name(copy[0])} ({listing.split[copy[0]]}) of {name(of[0])} ({listing.split[of[0]]})"
        )
    return texts
