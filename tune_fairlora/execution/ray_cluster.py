"""Ray itself: is it there, does it let us in, how many trials does it hold; its start and its end."""

import contextlib
import gc
import logging
import sys
import tempfile
import time
from pathlib import Path

from trainables.config import ConfigError
from trainables.files import first_line
from tune_fairlora.execution import fast_start, gpu_sharing
from tune_fairlora.execution.signals import Signals, redirect_output
from tune_fairlora.plan.checks import address_of
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.search_options import SearchOptions
from tune_fairlora.startup import environment, fast_start_enabled

TUNE_MODULES = ("ray.tune", "trainables.trial.ray_trainable")
MODEL_MODULES = ("trainables.models.create", "trainables.models.adapters")
# What a search needs as soon as it is planned, and what MLflow's thread will need (tracker.py).
SEARCH_MODULES = ("tune_fairlora.execution.ray_executor", "mlflow", "mlflow.store.tracking.sqlalchemy_store")


class RayCluster(contextlib.ExitStack):
    """Ray, from its start to the end of the block: it is shut down, however the block ends.

    A search starts it as soon as what is quickly checked is in order. Ray's processes then come up, and those of the
    trials import their libraries, while this process imports its own and looks at model, data and weights: at the model
    only where that is new (``checks.py``), as its libraries take long to import, and longer in three processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[dict[str, float]] = []  # what each has
        self.gpus, self.at_once, self.most = 0.0, 0, 0  # GPUs a trial; how many trials fit, and at most that many run
        self.printed, self.up = "", 0.0  # what Ray printed while it started; when it was up, seconds since 1970
        self._address, self._folder = "local", Path()
        self._prestarted = 0  # workers, which say in the folder that they are ready

    def start(self, options: SearchOptions, trials: int, models: bool) -> None:
        """Start or join Ray as the options say, for ``trials`` at most. Raises ConfigError if it cannot hold one.

        On return the modules that a plan needs are imported, with ``models`` also those that it needs to make some.
        """
        self._address = address_of(options.address)
        try:
            self._folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="tune-fairlora-")))
        except OSError as error:
            raise ConfigError(f"Ray needs a folder for temporary files ($TMPDIR), but: {error}") from error
        self.most, settings = min(options.max_concurrent or trials, trials), {}
        local, fast = self._address == "local", fast_start_enabled()
        if local and fast:
            settings = fast_start.worker_settings(options.cpus_per_trial, options.gpus_per_trial, self.most)
            settings[fast_start.READY_FOLDER] = str(self._folder)
        with redirect_output(self._folder / "log.txt") as console:
            console.print("starting Ray …" if local else f"joining Ray at {self._address} …")
            imported = fast_start.import_meanwhile([*TUNE_MODULES, *MODEL_MODULES * models], SEARCH_MODULES)
            self.callback(shut_down)
            self._connect(settings)
            import ray

            self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.count_slots(options.cpus_per_trial, options.gpus_per_trial)
            imported.wait()
            try:
                if fast:
                    self.enter_context(fast_start.shared_workers(local))
            except Exception as error:
                self._start_plainly(first_line(error))
        self.printed = (self._folder / "log.txt").read_text(errors="replace")

    def _connect(self, settings: dict[str, str]) -> None:
        """Start or join Ray; fast, if there are ``settings`` for its start."""
        import ray

        try:
            with contextlib.ExitStack() as presets:
                # Workers import from the folder that is current now: not from the user's.
                presets.enter_context(contextlib.chdir(self._folder))
                if settings:
                    presets.enter_context(environment(settings))
                    presets.enter_context(fast_start.bare_ray())
                dashboard = False if self._address == "local" else None
                ray.init(self._address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises plain ones, too: where a busy machine does not start it in time, say
            reason = first_line(error)
            if settings:
                return self._start_plainly(reason)
            if self._address == "local":
                remedy = "try again when it is less busy"
                raise ConfigError(f"Ray did not start on this machine ({reason}): {remedy}") from error
            reason += "; does it want a token? then set RAY_AUTH_MODE=token"
            raise ConfigError(f"--address {self._address} is no Ray that lets us in ({reason})") from error
        self.up = time.time()
        if fast_start.PRELOAD in settings:  # one for each processor that Ray counts: a container may have fewer
            self._prestarted = int(ray.cluster_resources().get("CPU", 0))

    def _start_plainly(self, reason: str) -> None:
        """Make a local Ray's start once more, without what makes it faster."""
        local = self._address == "local"
        remedy = "Ray starts once more, plainly" if local else "trials start new processes"
        print(f"fast start failed ({reason}): {remedy}", file=sys.stderr)
        if local:
            shut_down()
            self._prestarted = 0
            self._connect({})

    def count_slots(self, cpus: float, gpus: float | str | None) -> None:
        """Find out how many trials of these resources run at once."""
        self.gpus, fits = slots(self.nodes, cpus, None if isinstance(gpus, str) else gpus)
        self.at_once = min(fits, self.most)

    def share_gpus(self, plan: Plan) -> str:
        """Find out how many trials share a GPU, if ``plan`` leaves that to us and there is one; returns the line to
        print, else ""."""
        if plan.options.gpus_per_trial != gpu_sharing.AUTO or not self.gpus:
            return ""
        configs, cpus = gpu_sharing.largest(plan.space), plan.options.cpus_per_trial
        needed, total = gpu_sharing.measure(configs, str(plan.store), plan.weights, cpus)
        largest, method = max(zip(needed, [config.method for config in configs]))
        self.count_slots(cpus, gpu_sharing.share(largest, total, gpu_sharing.most_on_one(self.nodes, cpus, self.most)))
        gib = f"{largest / gpu_sharing.GIB:.1f} of {total / gpu_sharing.GIB:.0f} GiB"
        return f"a trial takes up to {gib} ({method}): --gpus-per-trial {self.gpus:g}"

    def await_workers(self, signals: Signals) -> None:
        """Wait until all pre-started workers have imported their libraries; otherwise Tune reuses the first idle worker
        and runs trials one at a time.

        Where one is ready a second before the other, a short first trial ends before the second has begun. Tune then
        hands the first worker on to it, calls the second's start off, and asks for another worker, again and again.
        """
        ready: list[Path] = []
        start, seconds = time.monotonic(), fast_start.BEGIN_SECONDS
        while len(ready) < self._prestarted and time.monotonic() < start + seconds:
            signals.check()
            time.sleep(0.05)
            ready = list(self._folder.glob("*.ready"))
            if ready or any(self._folder.glob("*.begun")):
                seconds = fast_start.READY_SECONDS
        if self._prestarted and not ready:
            self._start_plainly(f"no worker was ready in {seconds:g} s")
            signals.install()  # Ray's start has put a handler of its own in place
        for problem in {path.read_text() for path in ready} - {""}:
            print(f"fast start failed in a worker ({problem}): trials import the rest", file=sys.stderr)


def shut_down() -> None:
    """End Ray. It would end this process as well if another thread freed an object of Ray's meanwhile ("the core worker
    has already been shutdown"): so garbage is collected before, and not again until Ray is gone."""
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def slots(nodes: list[dict[str, float]], cpus: float, gpus: float | None) -> tuple[float, int]:
    """GPUs a trial (None: one where there is one), and how many trials fit side by side on ``nodes``, as a trial never
    spans two. Raises ConfigError where none fits."""
    wanted = gpus if gpus is not None else float(sum(node.get("GPU", 0) for node in nodes) >= 1)
    if wanted > 1 and wanted != int(wanted):
        raise ConfigError(f"--gpus-per-trial must be whole above 1, but got {wanted:g}")
    trial = {kind: need for kind, need in (("CPU", cpus), ("GPU", wanted)) if need > 0}
    fits = sum(min(int(node.get(kind, 0) / need + 1e-9) for kind, need in trial.items()) for node in nodes)
    if not fits:
        largest = {kind: max(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        option = f"--gpus-per-trial {wanted:g}" if wanted > largest["GPU"] else f"--cpus-per-trial {cpus:g}"
        have = f"{largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs"
        raise ConfigError(f"{option} fits on no node: this Ray's largest node has {have}")
    return wanted, fits
