"""A trial in its process: training, epoch by epoch, and its files. Knows nothing of Ray (``ray_trainable.py``)."""

import copy
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from trainables import logits
from trainables.config import TrainConfig
from trainables.data.batches import open_confirmation, open_data
from trainables.metrics import Evaluation
from trainables.training import gpu
from trainables.training.epoch import Diverged
from trainables.training.fit import Epoch, Trainer, fit, trained_state
from trainables.trial.checkpoints import load_checkpoint, save_checkpoint, save_weights, trial_folder


def prepare(cpus: float, gpus: float) -> str:
    """Make this process one of ``cpus`` threads with a share of a GPU; the device of its trials."""
    torch.set_num_threads(max(1, int(cpus)))
    return gpu.claim(gpus)


class Trial:
    """One trial, one epoch a ``step``; ``config`` as ``RayTrainable`` takes it. ``given`` names the GPUs it has.
    It goes on from its checkpoint. To be made must not fail: whatever is wrong shows in the first step."""

    def __init__(self, config: dict[str, Any], device: str, given: str = ""):
        self.config = config
        self.device, self.shown_device = device, f"{device} gpu={given}" if given else device
        self.folder = trial_folder(Path(config["context"]["folder"]), config["number"])
        self.epochs: Iterator[Epoch] | None = None
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.written: Future[None] | None = None  # the last checkpoint

    def step(self) -> dict[str, Any]:
        """The next epoch's result, or ``done``, ``diverged`` and ``device``. The first step may return the
        checkpoint's: the search does not know it if it or this process died before the result arrived."""
        if self.epochs is None:
            checkpoint = load_checkpoint(self.folder)
            last = checkpoint.pop("result") if checkpoint else None
            if last is not None and last["done"]:
                return last
            context, config = self.config["context"], TrainConfig(**self.config["values"])
            see = open_confirmation if context.get("test") else open_data
            self.epochs = fit(config, see(context["store"]), context["weights"], self.device, checkpoint)
            if last is not None and last["epoch"] > self.config["reported"]:
                return last
        try:
            epoch = next(self.epochs)
        except Diverged as error:
            self.epochs = None
            return {"done": True, "diverged": str(error), "device": self.shown_device}
        result: dict[str, Any] = {
            "done": epoch.number == epoch.trainer.config.epochs,
            "epoch": epoch.number,
            "metrics": epoch.metrics,
            "tables": tables(epoch.evaluation),
            "seconds": epoch.seconds,
            "times": epoch.times,
            "device": self.shown_device + parts(epoch.trainer),
            "pid": os.getpid(),
        }
        start = time.perf_counter()
        self._save(epoch, result)
        result["times"]["save"] = time.perf_counter() - start
        return result

    def _save(self, epoch: Epoch, result: dict[str, Any]) -> None:
        """Write the checkpoint in a thread while the next epoch trains: a process that dies meanwhile trains that epoch
        again. After the last epoch write logits, trained weights and result before the search hears of it."""
        trainer = epoch.trainer
        if not result["done"]:
            checkpoint, result = trainer.checkpoint(), copy.deepcopy(result)  # as both go on changing
            if self.written is not None:
                self.written.result()  # one at a time, and the error of the one before shows here
            self.written = self.writer.submit(save_checkpoint, self.folder, checkpoint, result)
            return
        self.close()  # a checkpoint that failed does not matter any more
        logits.save(Path(self.config["context"]["folder"]), self.config["number"], epoch.evaluation.logits)
        save_weights(self.folder, trained_state(trainer.model), self.config["values"])
        save_checkpoint(self.folder, {"config_id": trainer.config.config_id, "seed": trainer.config.seed}, result)

    def close(self) -> None:
        """Wait for the last checkpoint. Nobody asks how it went: the trial is over, and its files may be gone."""
        self.writer.shutdown()


def parts(trainer: Trainer) -> str:
    """For the record: that batches were too large for the GPU's memory, and went through it in parts of so many."""
    size = trainer.micro_batches.size
    return f" micro_batch={size}" if size and size != trainer.config.micro_batch else ""


def tables(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation's tables as plain lists, for the record; NaN marks a cell without support."""
    by = {"by_class": evaluation.by_class, "by_group": evaluation.by_group, "by_cell": evaluation.by_cell}
    lists = {name: {k: v.tolist() for k, v in table.items()} for name, table in by.items()}
    return {"confusion": evaluation.confusion.tolist(), **lists}
