"""What a model said of each validation image: kept for every complete trial, and measured from what is kept.

Evaluation goes through half precision, so that whoever has the kept logits, labels and groups gets every metric of the
trial again, equal to the last bit.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.config import ConfigError
from trainables.files import replace_atomically
from trainables.metrics import Evaluation, evaluate

FOLDER = "logits"  # in a search's folder
IMAGES = "images.npz"  # there, once: what the rows of all the logits are


def half(logits: np.ndarray) -> np.ndarray:
    """Logits ``[n, K]`` less their row's largest, float16: softmax and prediction depend on differences alone.

    The first of a row's largest is 0 and all others are below it, so that the prediction is exact. The others are
    rounded by one part in 2048 at most and end at -65504. NaN stays NaN. What is half already stays as it is.
    """
    logits = np.asarray(logits)
    first = logits.argmax(axis=1)[:, None]
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, the honest answer
        below = logits - np.take_along_axis(logits, first, axis=1)
    limits = np.finfo(np.float16)
    rounded = np.clip(below, limits.min, -limits.smallest_subnormal).astype(np.float16)
    np.put_along_axis(rounded, first, np.take_along_axis(below, first, axis=1).astype(np.float16), axis=1)
    return rounded


def losses(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The cross-entropy of each image, float64 ``[n]`` in nats, of ``half`` logits ``[n, K]``."""
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), label]


def evaluate_logits(
    logits: np.ndarray, label: np.ndarray, group: np.ndarray, n_groups: int, positive: int | None = None
) -> Evaluation:
    """Every metric of what logits ``[n, K]`` say, in half precision; the rest is ``metrics.evaluate``'s."""
    logits = half(logits)
    sizes = {"n_classes": logits.shape[1], "n_groups": n_groups, "positive": positive}
    evaluation = evaluate(label, logits.argmax(axis=1), losses(logits, label), group, **sizes)
    return replace(evaluation, logits=logits)


def file_of(folder: Path, number: int) -> Path:
    """Where the search in ``folder`` keeps the logits of trial ``number``."""
    return folder / FOLDER / f"{number:04d}.npz"


def save(folder: Path, number: int, logits: np.ndarray) -> None:
    """Keep ``half`` logits of the validation images, in the store's order, deflated: digits take 17 kB a trial."""
    _write(file_of(folder, number), logits=logits)


def load(folder: Path, number: int) -> np.ndarray | None:
    """What ``save`` has kept; None where it has not. Raises ConfigError where the file is damaged."""
    return _read(file_of(folder, number)).get("logits")


def drop(folder: Path, number: int) -> None:
    """For a trial that is not complete after all."""
    file_of(folder, number).unlink(missing_ok=True)


def sweep(folder: Path, gone: Iterable[int]) -> None:
    """Drop those of the trials ``gone``, and what killed processes left half written, in one look at the folder; none
    may be at work any more."""
    for number in gone:
        drop(folder, number)
    for torn in (folder / FOLDER).glob(".*.tmp"):
        torn.unlink(missing_ok=True)


def keep_images(folder: Path, label: np.ndarray, group: np.ndarray, subject: np.ndarray | None = None) -> None:
    """Keep the measured images' labels, groups and, where they are known, subjects, int ``[n]``, in the store's
    order, unless they are kept."""
    if not (folder / FOLDER / IMAGES).exists():
        known = {} if subject is None else {"subject": subject}
        _write(folder / FOLDER / IMAGES, label=label, group=group, **known)


def images(folder: Path) -> dict[str, np.ndarray]:
    """``label``, ``group`` and perhaps ``subject`` as ``keep_images`` has kept them; {} where it has not. Raises
    ConfigError as ``load``."""
    return _read(folder / FOLDER / IMAGES)


def _write(path: Path, **arrays: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy adds a suffix to a name
            np.savez_compressed(file, allow_pickle=False, **arrays)

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, write)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} must hold numpy's arrays, but cannot be read: delete it") from error
