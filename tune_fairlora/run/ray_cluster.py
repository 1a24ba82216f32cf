"""Ray itself: is it there, does it let us in, how many trials does it hold; its start and its end."""

import argparse
import contextlib
import glob
import importlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.bare_ray import bare_ray
from tune_fairlora.loaded import FOLDER
from tune_fairlora.run import gpu_sharing
from tune_fairlora.run.gpu_sharing import AUTO
from tune_fairlora.run.signals import chatter_to
from tune_fairlora.startup import environment

ANSWER_SECONDS = 10
LOAD_SECONDS = 60
TRIAL_AHEAD = "RAY_preload_python_modules"
GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # Nvidia's, AMD's, and in Windows's Linux
# What a trial's process imports; the last says that all is loaded.
TRIAL = (
    "trainables.trial.ray_trainable",
    "trainables.trial.lean_peft",
    "trainables.trial.trial",
    "tune_fairlora.loaded",
)
TUNE, MODELS = (
    ("ray.tune", "trainables.trial.ray_trainable"),
    ("trainables.models.create", "trainables.models.adapters"),
)
# What a search needs at once, and what MLflow's thread will need (tracker.py).
SEARCHING = ("tune_fairlora.run.ray_executor", "mlflow", "mlflow.store.tracking.sqlalchemy_store")


def require_answer(address: str | None) -> None:
    """Raise ConfigError unless a Ray answers at ``address``; Ray would try a closed or silent port for minutes."""
    address = address_of(address)
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--address must be host:port, auto or local, but got {address}")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--address {address} does not answer ({error})") from error
    if not answers:
        raise ConfigError(f"--address {address} answers, but not as Ray does: is it the head's port (6379 by default)?")


def address_of(address: str | None) -> str:
    """The option, else what Ray's own environment variable says, else a Ray that is started here."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _speaks_grpc(connection: socket.socket) -> bool:
    """Ray's ports speak gRPC, so HTTP/2: the server greets with a SETTINGS frame (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    frame = connection.recv(9)
    return len(frame) > 3 and frame[3] == 4


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

    def start(self, args: argparse.Namespace, trials: int, models: bool) -> None:
        """Start or join Ray as the options say, for ``trials`` at most. Raises ConfigError where it cannot hold one.

        At its end the libraries that a plan needs are imported, with ``models`` also those that it needs to make some.
        """
        address, folder = address_of(args.address), self._temporary_folder()
        with chatter_to(folder / "log.txt") as console:
            console.print("starting Ray …" if address == "local" else f"joining Ray at {address} …")
            imported = import_meanwhile([*TUNE, *MODELS * models], SEARCHING)
            ahead = load_ahead(args, trials) | {FOLDER: str(folder)} if address == "local" else {}
            with environment(ahead):
                self._connect(address, folder)
            self.up = time.time()
            import ray

            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._hold(nodes, args.cpus_per_trial, args.gpus_per_trial, min(args.max_concurrent or trials, trials))
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
        if plan.gpus != AUTO or not self.gpus:
            return ""
        configs = gpu_sharing.largest(plan.space)
        needed, total = gpu_sharing.measure(configs, str(plan.store), plan.weights, plan.cpus)
        most = gpu_sharing.most_on_one(self._nodes, plan.cpus, self._most)
        self._hold(self._nodes, plan.cpus, gpu_sharing.share(max(needed), total, most), self._most)
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


def load_ahead(args: argparse.Namespace, trials: int) -> dict[str, str]:
    """Ray's settings by which it starts a process for each processor at once, which loads what a trial needs while this
    process still plans. Nothing where not each would become a trial's, or where there is a GPU: a process must not
    look for one before Ray has said which is its own."""
    every = os.cpu_count() or 1
    if args.gpus_per_trial not in (None, 0, AUTO) or any(glob.glob(files) for files in GPUS):
        return {}
    if args.cpus_per_trial != 1 or min(args.max_concurrent or every, trials) < every:
        return {}
    settings = {"RAY_prestart_worker_first_driver": "1", TRIAL_AHEAD: ",".join(TRIAL)}
    # Once Tune has reserved the processors for its trials, Ray would end the processes that still wait for theirs.
    settings["RAY_idle_worker_killing_time_threshold_ms"] = "600000"
    # Ray says this to a trial's process later, which is too late for libraries that are loaded by then.
    return settings if "OMP_NUM_THREADS" in os.environ else settings | {"OMP_NUM_THREADS": "1"}


def plain_environment(local: bool) -> None:
    """Ray hands its processes only to trials that ask for no environment of their own. Ray Tune's have one of a single
    variable, which tells Lightning not to fork: nothing here is Lightning's. And of what this process has for Ray and
    for Amazon's cloud, which those of a Ray that it started itself have from it."""
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    if local:
        class_cache.ENV_VARS_TO_PROPAGATE.clear()


def import_meanwhile(*parts: Sequence[str]) -> threading.Event:
    """Import modules in a thread, as Ray's start is mostly waiting for other processes. The event says that those of
    the first part are imported. An error shows where the module is used."""
    done = threading.Event()

    def work() -> None:
        for modules in parts:
            for module in modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            done.set()

    threading.Thread(target=work, name="import").start()
    return done


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
