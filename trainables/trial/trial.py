"""A trial in its process: training, epoch by epoch, and its files. Knows nothing of Ray (``ray_trainable.py``)."""

import contextlib
import copy
import os
import time
from pathlib import Path

import torch

from trainables.beside import Beside
from trainables.config import TrainConfig
from trainables.data.batches import open_data
from trainables.training import gpu
from trainables.training.fit import Diverged, Epoch, fit, trained_state
from trainables.trial.checkpoints import load_checkpoint, save_checkpoint, save_weights, trial_folder


def prepare(cpus: float, gpus: float) -> str:
    """Make this process one of ``cpus`` threads with a share of a GPU; the device of its trials."""
    torch.set_num_threads(max(1, int(cpus)))
    return gpu.claim(gpus)


class Trial:
    """One trial, one epoch a ``step``; ``config`` as ``RayTrainable`` takes it. ``given`` names the GPUs it has.

    It goes on from its checkpoint if it has one. To be made must not fail: whatever is wrong shows in the first step.
    """

    def __init__(self, config: dict, device: str, given: str = ""):
        self.config, self.device, self.given, self.epochs = config, device, given, None
        self.writer = Beside()
        self.folder = trial_folder(Path(config["context"]["folder"]), config["number"])

    def step(self) -> dict:
        """The next epoch's result: ``done``, ``epoch``, ``metrics``, ``tables``, ``seconds``, ``times``, ``device`` and
        ``pid``; or ``done``, ``diverged`` and ``device``."""
        if self.epochs is None:
            unreported = self._start()
            if unreported is not None:
                return unreported
        try:
            epoch = next(self.epochs)
        except Diverged as error:
            self.epochs = None
            return {"done": True, "diverged": str(error), "device": self._device()}
        result = self._result(epoch)
        start = time.perf_counter()
        self._save(epoch, result)
        result["times"]["save"] = time.perf_counter() - start
        return result

    def _start(self) -> dict | None:
        """Begin training, behind the checkpoint if there is one. If the checkpoint is of an epoch that the search has
        not heard of (it or this process died between the two), the result of that epoch is returned."""
        context = self.config["context"]
        train, data = TrainConfig(**self.config["values"]), open_data(context["store"])
        checkpoint = load_checkpoint(self.folder)
        result = checkpoint.pop("result") if checkpoint else None
        if result is None or not result["done"]:
            self.epochs = fit(train, data, context["weights"], self.device, checkpoint)
        lost = result is not None and (result["done"] or result["epoch"] > self.config["reported"])
        return result if lost else None

    def _result(self, epoch: Epoch) -> dict:
        return {
            "done": epoch.number == epoch.trainer.config.epochs,
            "epoch": epoch.number,
            "metrics": epoch.metrics,
            "tables": tables(epoch),
            "seconds": epoch.seconds,
            "times": epoch.times,
            "device": self._device() + parts(epoch),
            "pid": os.getpid(),
        }

    def _save(self, epoch: Epoch, result: dict) -> None:
        """While training, what is needed to go on, written beside the next epoch: a process that dies meanwhile trains
        that epoch again. At the end the trained weights, and that it is the end, before anybody hears of it."""
        if not result["done"]:
            checkpoint, kept = epoch.trainer.checkpoint(), copy.deepcopy(result)  # as both go on changing
            return self.writer.begin(lambda: save_checkpoint(self.folder, checkpoint, kept))
        self.close()  # a checkpoint that failed does not matter any more
        config = epoch.trainer.config
        save_weights(self.folder, trained_state(epoch.trainer.model), self.config["values"])
        save_checkpoint(self.folder, {"config_id": config.config_id, "seed": config.seed}, result)

    def close(self) -> None:
        """Wait for the last checkpoint. Nobody asks how it went: the trial is over, and its files may be gone."""
        with contextlib.suppress(Exception):
            self.writer.wait()

    def _device(self) -> str:
        """Where this trial runs, and which GPUs it was given (none: "cpu")."""
        return f"{self.device} gpu={self.given}" if self.given else self.device


def parts(epoch: Epoch) -> str:
    """For the record: that batches were too large for the GPU's memory, and went through it in parts of so many."""
    size, asked = epoch.trainer.micro_batches.size, epoch.trainer.config.micro_batch
    return f" micro_batch={size}" if size and size != asked else ""


def tables(epoch: Epoch) -> dict:
    """The evaluation's tables as plain lists, for the record; NaN marks a cell without support."""
    evaluation = epoch.evaluation
    found = {"by_class": evaluation.by_class, "by_group": evaluation.by_group, "by_cell": evaluation.by_cell}
    lists = {name: {k: v.tolist() for k, v in table.items()} for name, table in found.items()}
    return {"confusion": evaluation.confusion.tolist(), **lists}
