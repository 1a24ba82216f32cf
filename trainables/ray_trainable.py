"""The one file of the core that imports ray: a class Trainable around ``fit``, made to be reused trial after trial."""

import json
import os
import shutil
from pathlib import Path

import ray
import safetensors.torch
import torch
from ray import tune

from trainables.config import TrainConfig
from trainables.data import open_data
from trainables.fit import Diverged, Epoch, fit, trained_state
from trainables.store import replace_atomically


class RayTrainable(tune.Trainable):
    """One Ray trial is one configuration, one ``step`` one epoch.

    ``config``: ``number``, ``values`` (TrainConfig's fields) and ``context``: ``store`` and ``weights`` (paths that
    every node can read), ``folder`` (of the search), ``cpus`` and ``gpus`` (of this trial). A result holds ``epoch``,
    ``metrics``, ``tables``, ``seconds``, ``device`` and ``pid``, or ``diverged``.

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
        self.folder = Path(config["context"]["folder"]) / "trials" / f"{config['number']:04d}"

    def step(self) -> dict:
        if self.epochs is None:
            self.epochs = self._start()
        try:
            epoch = next(self.epochs)
        except Diverged as error:
            self.epochs = None
            return {"done": True, "diverged": str(error), "device": self._device()}
        done = epoch.number == epoch.trainer.config.epochs
        self._save(epoch, done)
        return {
            "done": done,
            "epoch": epoch.number,
            "metrics": epoch.metrics,
            "tables": _tables(epoch),
            "seconds": epoch.seconds,
            "device": self._device(),
            "pid": os.getpid(),
        }

    def _start(self):
        context = self.config["context"]
        train, data = TrainConfig(**self.config["values"]), open_data(context["store"])
        saved = self.folder / "checkpoint.pt"
        checkpoint = torch.load(saved, map_location="cpu", weights_only=True) if saved.exists() else None
        return fit(train, data, context["weights"], self.accelerator, checkpoint)

    def _save(self, epoch: Epoch, done: bool) -> None:
        """While training, what is needed to go on; at the end, the trained weights alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not done:
            checkpoint = epoch.trainer.checkpoint()
            replace_atomically(self.folder / "checkpoint.pt", lambda path: torch.save(checkpoint, path))
            return
        state = trained_state(epoch.trainer.model)
        metadata = {"config": json.dumps(self.config["values"])}
        replace_atomically(
            self.folder / "model.safetensors", lambda path: safetensors.torch.save_file(state, path, metadata)
        )
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def _device(self) -> str:
        """Where this trial runs, and which GPUs Ray gave it (none: "cpu")."""
        given = ",".join(map(str, ray.get_gpu_ids()))
        return f"{self.accelerator} gpu={given}" if given else self.accelerator

    def cleanup(self) -> None:
        self.epochs = None


def discard(folder: Path, number: int) -> None:
    """Delete the weights of a trial that is off the front for good."""
    shutil.rmtree(folder / "trials" / f"{number:04d}", ignore_errors=True)


def _tables(epoch: Epoch) -> dict:
    """The evaluation's tables as plain lists, for the record; NaN marks a cell without support."""
    evaluation = epoch.evaluation
    tables = {"by_class": evaluation.by_class, "by_group": evaluation.by_group, "by_cell": evaluation.by_cell}
    lists = {name: {k: v.tolist() for k, v in table.items()} for name, table in tables.items()}
    return {"confusion": evaluation.confusion.tolist(), **lists}
