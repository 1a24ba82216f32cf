"""Ray itself: is it there, does it let us in, how many trials does it hold; its start and its end."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.execution import gpu_sharing
from tune_fairlora.execution.fast_start import (
    LOAD_SECONDS,
    TRIAL_AHEAD,
    bare_ray,
    import_meanwhile,
    load_ahead,
    plain_environment,
)
from tune_fairlora.execution.gpu_sharing import AUTO
from tune_fairlora.execution.signals import redirect_output
from tune_fairlora.execution.worker_ready import FOLDER
from tune_fairlora.plan.options import SearchOptions
from tune_fairlora.plan.ray_address import address_of
from tune_fairlora.startup import environment

TUNE, MODELS = (
    ("ray.tune", "trainables.trial.ray_trainable"),
    ("trainables.models.create", "trainables.models.adapters"),
)
# What a search needs at once, and what MLflow's thread will need (tracker.py).
SEARCHING = ("tune_fairlora.execution.ray_executor", "mlflow", "mlflow.store.tracking.sqlalchemy_store")


class Cluster:
    """Ray, from its start to the end of the block: it is shut down, however the block ends.

    A search starts it as soon as what is quickly checked is in order. Ray's processes then come up, and those of the
    trials load their libraries, while this process loads its own and looks at model, data and weights: at the model
    only where that is new (``proved.py``), as its libraries take long to load, and all the longer in three processes.
    """

    def __init__(self):
        self.gpus, self.at_once = 0.0, 0  # GPUs a trial; how many trials fit
        self.printed, self.up = "", 0.0  # what Ray said while it started; when it was up, seconds since 1970
        self._folder, self._loading = Path(), 0  # where processes started beforehand say that they are, and how many
        self._end = contextlib.ExitStack()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error) -> None:
        self._end.close()

    def start(self, options: SearchOptions, trials: int, models: bool) -> None:
        """Start or join Ray as the options say, for ``trials`` at most. Raises ConfigError where it cannot hold one.

        At its end the libraries that a plan needs are imported, with ``models`` also those that it needs to make some.
        """
        address, folder = address_of(options.address), self._temporary_folder()
        with redirect_output(folder / "log.txt") as console:
            console.print("starting Ray …" if address == "local" else f"joining Ray at {address} …")
            imported = import_meanwhile([*TUNE, *MODELS * models], SEARCHING)
            ahead = load_ahead(options, trials) | {FOLDER: str(folder)} if address == "local" else {}
            with environment(ahead):
                self._connect(address, folder)
            self.up = time.time()
            import ray

            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._hold(
                nodes, options.cpus_per_trial, options.gpus_per_trial, min(options.max_concurrent or trials, trials)
            )
            imported.wait()
            # One for each processor that Ray counts: a container may have fewer than its machine.
            self._folder, self._loading = folder, int(nodes[0].get("CPU", 0)) * (TRIAL_AHEAD in ahead)
            plain_environment(address == "local")
        self.printed = (folder / "log.txt").read_text(errors="replace")

    def _hold(self, nodes: list[dict[str, float]], cpus: float, gpus: float | str | None, most: int) -> None:
        """How many trials of these resources are at work at once."""
        self._nodes, self._most = nodes, most
        self.gpus, fits = slots(nodes, cpus, None if gpus == AUTO else gpus)
        self.at_once = min(fits, most)

    def share_gpus(self, plan) -> str:
        """Where ``plan`` leaves it to us, find out how many trials share a GPU; what was found, in a line. Nothing
        where trials have no GPU."""
        if plan.options.gpus_per_trial != AUTO or not self.gpus:
            return ""
        configs, cpus = gpu_sharing.largest(plan.space), plan.options.cpus_per_trial
        needed, total = gpu_sharing.measure(configs, str(plan.store), plan.weights, cpus)
        most = gpu_sharing.most_on_one(self._nodes, cpus, self._most)
        self._hold(self._nodes, cpus, gpu_sharing.share(max(needed), total, most), self._most)
        return gpu_sharing.sentence(configs, needed, total, self.gpus)

    def await_processes(self, check: Callable[[], None]) -> None:
        """Return when those that Ray has started beforehand have loaded their libraries (``loaded.py`` says why), or
        after a minute without them. ``check`` raises what is to end the wait."""
        end = time.monotonic() + LOAD_SECONDS
        while len(list(self._folder.glob("process-*"))) < self._loading and time.monotonic() < end:
            check()
            time.sleep(0.05)

    def _temporary_folder(self) -> Path:
        try:
            return Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="tune-fairlora-")))
        except OSError as error:
            raise ConfigError(f"Ray needs a folder for temporary files ($TMPDIR), but: {error}") from error

    def _connect(self, address: str, folder: Path) -> None:
        import ray

        before = Path.cwd()
        os.chdir(folder)  # workers import from the folder that is current now: not from the user's
        self._end.callback(ray.shutdown)
        try:
            options = {"include_dashboard": False} if address == "local" else {}
            with bare_ray() if address == "local" else contextlib.nullcontext():
                ray.init(address=address, log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # Ray raises plain ones, too: where a busy machine does not start it in time, say
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if address == "local":
                raise ConfigError(
                    f"Ray did not start on this machine ({reason}): try again when it is less busy"
                ) from error
            reason += "; does it want a token? then set RAY_AUTH_MODE=token"
            raise ConfigError(f"--address {address} is no Ray that lets us in ({reason})") from error
        finally:
            os.chdir(before)


def slots(nodes: list[dict[str, float]], cpus: float, gpus: float | None) -> tuple[float, int]:
    """GPUs a trial (None: one where there is one), and how many trials fit side by side on ``nodes``, as a trial never
    spans two. Raises ConfigError where none fits."""
    wanted = gpus if gpus is not None else float(sum(node.get("GPU", 0) for node in nodes) >= 1)
    if wanted > 1 and wanted != int(wanted):
        raise ConfigError(f"--gpus-per-trial must be whole above 1, but got {wanted:g}")
    fits = sum(_fits(node, {"CPU": cpus, "GPU": wanted}) for node in nodes)
    if not fits:
        largest = {kind: max(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        have = f"this Ray's largest node has {largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs"
        if wanted > largest["GPU"]:
            raise ConfigError(f"--gpus-per-trial {wanted:g} fits on no node: {have}")
        raise ConfigError(f"--cpus-per-trial {cpus:g} fits on no node: {have}")
    return wanted, fits


def _fits(node: dict[str, float], trial: dict[str, float]) -> int:
    return min(int(node.get(kind, 0) / want + 1e-9) for kind, want in trial.items() if want > 0)
