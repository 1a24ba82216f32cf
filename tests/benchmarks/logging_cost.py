"""How long one result holds up the search: our record, mirrored by MLflow, against Ray's MLflowLoggerCallback.

    python -m tests.benchmarks.logging_cost                # a sqlite store and a server on loopback, 60 results each

The same 26 metrics of the same epochs, interleaved in one process: the callback's `log_trial_result`, then the event
that our search adds to its log (the write to the disk included), which a thread sends to MLflow. Between two rounds the
thread is waited for, so that it takes nothing from the callback. Then as many results without waiting, while it sends.
Printed: milliseconds (median, 90th percentile) and the ratio ours / callback of each round (median, 10th and 90th
percentile). The exit status is 1 if a median ratio is above a hundredth.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial

from tests import mirror
from trainables.metrics import METRICS

GOAL = 0.01


def result(epoch: int) -> dict[str, float]:
    names = ("train_loss", "train_cross_entropy", "train_penalty", *(f"val_{name}" for name in METRICS))
    return {name: 0.001 * i + 0.01 * (epoch % 50) for i, name in enumerate(names)}


def callback(uri: str) -> tuple[MLflowLoggerCallback, Trial]:
    """Ray's, as its documentation shows it, with a trial begun."""
    logger = MLflowLoggerCallback(tracking_uri=uri, experiment_name="callback")
    logger.setup()
    trial = Trial("bench", stub=True, config={"method": "fairlora", "rank": 16, "lam": 1.0, "lr": 1e-3})
    logger.log_trial_start(trial)
    return logger, trial


def measured(work, *args, **options) -> float:
    start = time.perf_counter()
    work(*args, **options)
    return 1000 * (time.perf_counter() - start)


def compare(folder: Path, uri: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds ``[rounds, 2]`` of callback and ours, interleaved; and ``[rounds]`` of ours at full speed."""
    logger, trial = callback(uri)
    record, tracker = mirror.opened(folder / "search", uri)
    mirror.start(record, 0)

    def add(epoch: int) -> None:
        record.add("epoch", number=0, epoch=epoch, metrics=result(epoch), seconds=0.1, device="cpu")

    pairs = []
    for epoch in range(1, rounds + 1):
        while tracker.waiting:
            time.sleep(0.01)
        theirs = measured(logger.log_trial_result, epoch, trial, result(epoch) | {"training_iteration": epoch})
        pairs.append((theirs, measured(add, epoch)))
    alone = [measured(add, rounds + i) for i in range(1, rounds + 1)]
    mirror.finish(record, tracker)
    return np.array(pairs), np.array(alone)


def report(name: str, pairs: np.ndarray, alone: np.ndarray) -> bool:
    ratio = pairs[:, 1] / pairs[:, 0]
    for what, times in (("callback", pairs[:, 0]), ("ours", pairs[:, 1]), ("ours, not waiting", alone)):
        print(f"{name:7} {what:18} {np.median(times):8.2f} ms, 90 % below {np.quantile(times, 0.9):8.2f} ms")
    low, middle, high = np.quantile(ratio, [0.1, 0.5, 0.9])
    print(f"{name:7} ratio              1/{1 / middle:.0f} ({low:.5f} to {high:.5f})", flush=True)
    return middle <= GOAL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    rounds, good = parser.parse_args().rounds, True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("sqlite", "server"):
            (folder / name).mkdir()
            uri, server = f"sqlite:///{folder / name / 'mlflow.db'}", mirror.Server(folder / name)
            if name == "server":
                server.start()
                uri = server.uri
            try:
                good &= report(name, *compare(folder / name, uri, rounds))
            finally:
                server.kill()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
