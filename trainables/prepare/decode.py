"""One image file as pixels: read, turned upright, its banner cut off, the centre square resized."""

import contextlib
import threading
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

VERSION = 4  # of what follows: a change makes other pixels, and so other stores
PREPROCESSING = "upright by EXIF, RGB, banner cut off, centre square, bicubic with antialiasing"
LARGE = 20_000_000  # pixels; at most one such image is decoded at a time, so that threads stay below 2 GB together
_one_large = threading.Lock()


def decode(path: Path, size: int, banner: int = 0) -> np.ndarray | None:
    """The image as uint8 ``[size, size, 3]``, RGB; None where the file is missing, damaged or no image.

    ``banner`` rows are cut off at the lower edge (at least one row stays). A JPEG that is much larger than ``size`` is
    decoded at a fraction of its size, never below twice ``size``: several times faster, and no pixel is lost that the
    resize would keep.
    """
    try:
        with Image.open(path) as image:
            if not banner:
                image.draft("RGB", (2 * size, 2 * size))
            with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
                upright = upright_rgb(image)
                if banner:
                    upright = upright.crop((0, 0, upright.width, max(1, upright.height - banner)))
                return square(upright, size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, in RGB, transparency dropped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip: all but the darkest 1/256 of the range would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> np.ndarray:
    """The centre square at ``size``: uint8 ``[size, size, 3]``. The rest of a long strip is never resized."""
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
