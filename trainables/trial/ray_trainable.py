"""The one file of the core that imports ray: a class Trainable around ``trial.py``, made to be reused.

Without torch until a trial begins: the search's own process knows this class, but trains nothing."""

from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from trainables.trial.lean_peft import import_peft

if TYPE_CHECKING:
    from trainables.trial.trial import Trial


class RayTrainable(tune.Trainable):
    """One Ray trial is one configuration, one ``step`` one epoch.

    ``config``: ``number``, ``values`` (TrainConfig's fields), ``reported`` (epochs that the search has heard of) and
    ``context``: ``store`` and ``weights`` (paths that every node can read), ``folder`` (of the search), ``cpus`` and
    ``gpus`` (of this trial), ``lean_peft`` (whether to import peft without transformers; True by default), ``test``
    (whether it confirms a search's front, on the test split; False by default). ``report`` in a result holds one dict,
    that of ``trial.Trial.step``.

    The trial's checkpoint is a file of our own, written after every epoch while the next one trains. A trial that is
    started again under its number, in whatever process, goes on from it, and may report an epoch twice.
    """

    trial: "Trial | None" = None

    def setup(self, config: dict[str, Any]) -> None:
        if ray.is_initialized() and config["context"].get("lean_peft", True):  # a process of its own
            import_peft()
        from trainables.trial import trial

        context = config["context"]
        self.device = trial.prepare(context["cpus"], context["gpus"])
        self.given = ",".join(map(str, ray.get_gpu_ids())) if ray.is_initialized() else ""
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process; data and pretrained weights stay in memory. It must not fail: Ray
        would leak the slot and hang. Whatever is wrong shows in the first ``step``."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from trainables.trial.trial import Trial

        self.cleanup()  # the last one's model goes before the next one comes
        self.trial = Trial(config, self.device, self.given)

    def step(self) -> dict[str, Any]:
        """In a list, as Ray would flatten a dict each time that it hands it on. Ray itself is not told ``done``: it
        would stop the trial without asking the scheduler (``SchedulerAdapter``)."""
        assert self.trial is not None
        return {"report": [self.trial.step()]}

    def cleanup(self) -> None:
        if self.trial is not None:
            self.trial.close()
        self.trial = None
