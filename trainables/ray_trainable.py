"""The one file of the core that imports ray: a class Trainable around ``fit``, made to be reused trial after trial."""

import os
import time
from pathlib import Path

import ray
import torch
from ray import tune

from trainables.checkpoints import load_checkpoint, save_checkpoint, save_weights, trial_folder
from trainables.config import TrainConfig
from trainables.data import open_data
from trainables.fit import Diverged, Epoch, fit, trained_state


class RayTrainable(tune.Trainable):
    """One Ray trial is one configuration, one ``step`` one epoch.

    ``config``: ``number``, ``values`` (TrainConfig's fields), ``reported`` (epochs that the search has heard of) and
    ``context``: ``store`` and ``weights`` (paths that every node can read), ``folder`` (of the search), ``cpus`` and
    ``gpus`` (of this trial). ``report`` in a result holds one dict: ``done``, ``epoch``, ``metrics``, ``tables``,
    ``seconds``, ``times``, ``device`` and ``pid``; or ``done``, ``diverged`` and ``device``.

    The trial's checkpoint is a file of our own, written after every epoch: a trial that is started again under its
    number, in whatever process, goes on from it.
    """

    def setup(self, config: dict) -> None:
        context = config["context"]
        torch.set_num_threads(max(1, int(context["cpus"])))
        self.accelerator = "cuda" if context["gpus"] and torch.cuda.is_available() else "cpu"
        if self.accelerator == "cuda" and context["gpus"] < 1:
            # Ray's fraction is bookkeeping; this makes it a limit, so that one trial cannot starve its neighbours.
            torch.cuda.set_per_process_memory_fraction(context["gpus"])
        self._begin(config)

    def reset_config(self, new_config: dict) -> bool:
        """Take the next trial in the same process; data and pretrained weights stay in memory.

        It must not fail: Ray would leak the slot and hang. Whatever is wrong shows in the first ``step``.
        """
        self._begin(new_config)
        return True

    def _begin(self, config: dict) -> None:
        self.config, self.epochs = config, None
        self.folder = trial_folder(Path(config["context"]["folder"]), config["number"])

    def step(self) -> dict:
        """In a list, as Ray would flatten a dict each time that it hands it on."""
        result = self._step()
        return {"done": result["done"], "report": [result]}

    def _step(self) -> dict:
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
            self.epochs = fit(train, data, context["weights"], self.accelerator, checkpoint)
        lost = result is not None and (result["done"] or result["epoch"] > self.config["reported"])
        return result if lost else None

    def _result(self, epoch: Epoch) -> dict:
        return {
            "done": epoch.number == epoch.trainer.config.epochs,
            "epoch": epoch.number,
            "metrics": epoch.metrics,
            "tables": _tables(epoch),
            "seconds": epoch.seconds,
            "times": epoch.times,
            "device": self._device() + _parts(epoch),
            "pid": os.getpid(),
        }

    def _save(self, epoch: Epoch, result: dict) -> None:
        """While training, what is needed to go on; at the end the trained weights, and that it is the end."""
        if not result["done"]:
            return save_checkpoint(self.folder, epoch.trainer.checkpoint(), result)
        config = epoch.trainer.config
        save_weights(self.folder, trained_state(epoch.trainer.model), self.config["values"])
        save_checkpoint(self.folder, {"config_id": config.config_id, "seed": config.seed}, result)

    def _device(self) -> str:
        """Where this trial runs, and which GPUs Ray gave it (none: "cpu")."""
        given = ",".join(map(str, ray.get_gpu_ids())) if ray.is_initialized() else ""
        return f"{self.accelerator} gpu={given}" if given else self.accelerator

    def cleanup(self) -> None:
        self.epochs = None


def _parts(epoch: Epoch) -> str:
    """For the record: that batches were too large for the GPU's memory, and went through it in parts of so many."""
    size, asked = epoch.trainer.objective.micro_batch, epoch.trainer.config.micro_batch
    return f" micro_batch={size}" if size and size != asked else ""


def _tables(epoch: Epoch) -> dict:
    """The evaluation's tables as plain lists, for the record; NaN marks a cell without support."""
    evaluation = epoch.evaluation
    tables = {"by_class": evaluation.by_class, "by_group": evaluation.by_group, "by_cell": evaluation.by_cell}
    lists = {name: {k: v.tolist() for k, v in table.items()} for name, table in tables.items()}
    return {"confusion": evaluation.confusion.tolist(), **lists}
