"""The files of one trial in a search's folder: what it takes to go on after a crash, and the trained weights.

Importing this takes no torch: the search's own process only looks and deletes."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config import ConfigError
from trainables.files import remove_torn, replace_atomically, save_safetensors

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"


def trial_folder(folder: Path, number: int) -> Path:
    """Where the files of trial ``number`` lie in the search's ``folder``."""
    return folder / "trials" / f"{number:04d}"


def save_checkpoint(folder: Path, checkpoint: dict[str, Any], result: dict[str, Any]) -> None:
    """Keep ``checkpoint`` (``Trainer.checkpoint()``) and the epoch's ``result``: whoever goes on from it can report the
    epoch if its report was lost. Raises OSError where the disk is full; the checkpoint before it stays."""
    import torch

    def write(path: Path) -> None:
        try:
            torch.save({**checkpoint, "result": result}, path)
        except RuntimeError as error:  # torch says only that a write failed, not that the disk is full
            if shutil.disk_usage(folder).free > os.path.getsize(path):
                raise
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for the checkpoint", str(folder)) from error

    folder.mkdir(parents=True, exist_ok=True)
    remove_torn(folder / CHECKPOINT)
    replace_atomically(folder / CHECKPOINT, write)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The trial's checkpoint with its ``result``, tensors on the CPU; None where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def check_checkpoint(folder: Path, config_id: str, seed: int) -> bool:
    """Whether there is a checkpoint. Raises ConfigError if it is damaged or another trial's."""
    path = folder / CHECKPOINT
    way_out = "delete it, and the trial starts from its first epoch"
    try:
        checkpoint = load_checkpoint(folder)
        own = checkpoint is None or (checkpoint["config_id"], checkpoint["seed"]) == (config_id, seed)
    except Exception as error:  # torch has many kinds for a file that is none of its own
        raise ConfigError(f"{path} must be a whole checkpoint, but cannot be read: {way_out}") from error
    if not own:
        raise ConfigError(f"{path} must be of configuration {config_id} with seed {seed}, but is another's: {way_out}")
    return checkpoint is not None


def save_weights(folder: Path, state: dict[str, "Tensor"], values: dict[str, Any]) -> None:
    """Keep the trained weights alone (adapters and head for the LoRA methods), with the configuration beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, folder / WEIGHTS, {"config": json.dumps(values)})


def drop_checkpoint(folder: Path, number: int) -> None:
    """For a trial that has ended: only its weights may still be wanted."""
    (trial_folder(folder, number) / CHECKPOINT).unlink(missing_ok=True)


def drop_torn(folder: Path, number: int) -> None:
    """Delete what a process that was killed left of its writing; none may be at work any more."""
    for name in (CHECKPOINT, WEIGHTS):
        remove_torn(trial_folder(folder, number) / name)


def discard(folder: Path, number: int) -> None:
    """Delete all files of a trial that is off the front for good."""
    shutil.rmtree(trial_folder(folder, number), ignore_errors=True)
