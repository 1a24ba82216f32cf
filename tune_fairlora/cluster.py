"""Ray itself: is it there, does it let us in, and how many trials does it hold."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from trainables.config import ConfigError

if TYPE_CHECKING:  # the plan asks this module whether Ray answers
    from tune_fairlora.plan import Plan

ANSWER_SECONDS = 10
MIRROR = ("mlflow", "mlflow.store.tracking.sqlalchemy_store")  # what MLflow's thread will need (tracking.py)


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


def start(plan: Plan, console: Console) -> tuple[float, int]:
    """Start or join Ray: GPUs a trial, and how many run at once. Raises ConfigError where it cannot hold one trial."""
    address = address_of(plan.address)
    console.print("starting Ray …" if address == "local" else f"joining Ray at {address} …")
    import ray

    before = Path.cwd()
    os.chdir(plan.folder)  # workers import from the folder that is current now: not from the user's
    try:
        options = {"include_dashboard": False} if address == "local" else {}
        _import_meanwhile("tune_fairlora.executor", *MIRROR)
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
    try:
        gpus, at_once = slots(plan, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    except ConfigError:
        ray.shutdown()
        raise
    console.print(f"Ray is up: {at_once} of {plan.trials} trials at a time")
    return gpus, at_once


def _import_meanwhile(*modules: str) -> None:
    """Ray Tune, Optuna and MLflow take seconds to import; Ray's start is mostly waiting for other processes. An error
    shows where the module is used."""

    def work() -> None:
        for module in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)

    threading.Thread(target=work, name="import").start()


def slots(plan: Plan, nodes: list[dict[str, float]]) -> tuple[float, int]:
    """GPUs a trial, and how many trials fit side by side on ``nodes`` (a trial never spans two), at most as planned."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    wanted = plan.gpus if plan.gpus is not None else float(gpus >= 1)
    if wanted > 1 and wanted != int(wanted):
        raise ConfigError(f"--gpus-per-trial must be whole above 1, but got {wanted:g}")
    fits = sum(_fits(node, {"CPU": plan.cpus, "GPU": wanted}) for node in nodes)
    if not fits:
        largest = {kind: max(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        have = f"this Ray's largest node has {largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs"
        if wanted > largest["GPU"]:
            raise ConfigError(f"--gpus-per-trial {wanted:g} fits on no node: {have}")
        raise ConfigError(f"--cpus-per-trial {plan.cpus:g} fits on no node: {have}")
    return wanted, min(fits, plan.max_concurrent or fits, plan.trials)


def _fits(node: dict[str, float], trial: dict[str, float]) -> int:
    return min(int(node.get(kind, 0) / want + 1e-9) for kind, want in trial.items() if want > 0)
