"""Ours against what a user writes today from the documentation (`glue.py`): whole commands, Ray's start included.

    python -m tests.benchmarks.against_glue --data digits
    python -m tests.benchmarks.against_glue --data signdigits --folder ../shared/data/signdigits \
        --weights ../shared/weights/vit_tiny_patch16_224_in1k.safetensors
    … --data signdigits --until 0.95 …       # each with its own sampler; ours with its scheduler

Both run as processes of their own, by turns, the order changing from round to round, the training seed being the
round's number. They get the same points, epochs, batch size, images, weights, two trials at a time, one CPU a trial,
and a copy of the same new MLflow database, so that neither waits for its tables to be made. Images of `digits` and its
weights are made before the first round, for both; photographs are files for both, and ours decodes them anew in each
round, in the time that is measured. Printed: seconds, their ratio (glue / ours) in each round, its median, least and
largest.

The results must agree, else one of the two is wrong: accuracy and ΔF1 of each trial, mean over rounds. Seeds, order and
augmentation are drawn differently, so that equal they cannot be. s, the standard deviation of one run, comes from the
spread of a trial over the rounds' seeds, where there are two rounds or more; else from the number n of validation
images, K classes and mean accuracy a: sqrt(a (1 - a) / n) for the accuracy, sqrt(2 a (1 - a) / (n / K)) for ΔF1, the
difference of two classes' F1. With R rounds and T trials, s sqrt(2 / R) is the noise of a difference. Allowed are 1.5
times sqrt(2 / π) of it for the mean absolute difference, and 3 / sqrt(T) of it for the mean difference, the bias.

`--until SHARE`: seconds until the front of the trials that have ended has that share of the hypervolume of glue's last
front, from accuracy 0 and ΔF1 1. In ours a trial ends with its `end` event, in glue with its last report, of which Ray
notes the whole second. Glue starts at the four points at which ours does.

The exit status is 1 if a goal is missed or results disagree.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd

from analysis.pareto import as_minimization, hypervolume
from search_spaces import resolve
from search_spaces.space import Space

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVES, DIRECTIONS, WORST = ["val_accuracy", "val_delta_f1"], ["maximize", "minimize"], [0.0, 1.0]
NAME, AT_ONCE = "search", 2
# Without compiled modules on disk every process would compile its libraries anew, in three times the time.
UNWANTED = ("RAY_ADDRESS", "PYTHONDONTWRITEBYTECODE")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Setup(NamedTuple):
    """What is compared by default, and by what factor ours is to be faster."""

    space: str
    image_size: int
    trials: int
    epochs: int
    goal: float


SETUPS = {"digits": Setup("digits", 16, 24, 8, 3.0), "signdigits": Setup("folder_vit_tiny", 112, 12, 3, 1.3)}
UNTIL = Setup("folder_vit_tiny", 64, 24, 6, 3.0)  # glue takes 50 minutes at 112 px


@dataclass(frozen=True)
class Inputs:
    """What both commands are given. ``folder`` and ``weights`` are files for glue; ours takes them too, but for the
    digits, which it has in its store."""

    data: str
    space: Space
    setup: Setup
    folder: Path
    weights: Path
    model_options: dict
    points: Path | None  # None: glue begins where its own sampler does
    database: Path
    until: bool
    reuse_actors: bool


class Run(NamedTuple):
    """One command: when it began (seconds since 1970), how long it took, and its trials: method, rank, lr, objectives
    and ``time``, when a trial ended."""

    began: float
    seconds: float
    trials: pd.DataFrame


def drawn_points(space: Space, n: int, seed: int = 0) -> list[dict]:
    """``n`` configurations of ``space`` by field: each method's first point, then independent draws."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    points = [space.first_point(method) for method in space.methods][:n]
    while len(points) < n:
        config = space.suggest(study.ask(), seed=0)
        points.append({name: getattr(config, name) for name in space.first_point(config.method)})
    return points


def write_images(store_path: Path, folder: Path) -> None:
    """The training and validation images of a store as PNG files, and their metadata.csv."""
    from PIL import Image

    from trainables.data.store import Store

    store, rows = Store(store_path), []
    folder.mkdir()
    for split in ("train", "val"):
        for i in store.rows(split):
            Image.fromarray(store.images(np.array([i]))[0]).save(folder / f"{i}.png")
            rows.append((f"{i}.png", store.label[i], store.group[i], split))
    pd.DataFrame(rows, columns=["file_path", "label", "group", "split"]).to_csv(folder / "metadata.csv", index=False)


def prepared(args: argparse.Namespace, work: Path) -> Inputs:
    """Everything that is made once, before time is taken."""
    setup = UNTIL if args.until else SETUPS[args.data]
    setup = setup._replace(trials=args.trials or setup.trials, epochs=args.epochs or setup.epochs)
    space = resolve(setup.space).with_changes({}, None, image_size=setup.image_size, epochs=setup.epochs)
    folder, weights, options = args.folder, args.weights, {"img_size": setup.image_size}
    if args.data == "digits":
        from trainables.models.create import weights_file
        from trainables.models.vit_nano import OPTIONS as NANO
        from trainables.prepare import datasets

        folder, weights, options = work / "images", weights_file("vit_nano", None), NANO
        write_images(datasets.prepare("digits", None, setup.image_size), folder)
    elif folder is None or weights is None:
        raise SystemExit("--data signdigits needs --folder and --weights")
    points = work / "points.json"
    n = len(space.methods) if args.until else setup.trials
    points.write_text(json.dumps(drawn_points(space, n)))
    database = work / "new.db"
    make = "import sys; from mlflow import MlflowClient as C; C(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", make, f"sqlite:///{database}"], check=True, capture_output=True)
    where = (folder.resolve(), Path(weights).resolve(), options, points, database)
    return Inputs(args.data, space, setup, *where, bool(args.until), args.reuse_actors)


def our_command(inputs: Inputs, out: Path, seed: int) -> list[str]:
    setup = inputs.setup
    command = ["tune_fairlora.search", "--space", setup.space, "--trials", setup.trials, "--epochs", setup.epochs]
    command += ["--max-concurrent", AT_ONCE, "--seed", seed, "--storage", out, "--name", NAME]
    command += ["--tracking-uri", f"sqlite:///{out}/mlflow.db"]
    if inputs.data != "digits":
        command += ["--data", inputs.folder, "--weights", inputs.weights, "--image-size", setup.image_size]
    if not inputs.until:
        command += ["--enqueue", inputs.points, "--scheduler", "none"]
    return [str(word) for word in command]


def glue_command(inputs: Inputs, out: Path, seed: int) -> list[str]:
    setup = inputs.setup
    command = ["tests.benchmarks.glue", "--data", inputs.data, "--folder", inputs.folder, "--weights", inputs.weights]
    command += ["--model-options", json.dumps(inputs.model_options), "--out", out]
    command += ["--points", inputs.points] if inputs.points else []
    command += ["--trials", setup.trials, "--epochs", setup.epochs, "--max-concurrent", AT_ONCE, "--seed", seed]
    command += ["--image-size", setup.image_size]
    return [str(word) for word in command] + ["--reuse-actors"] * inputs.reuse_actors


def clean_environment() -> dict[str, str]:
    """Of a command that is measured."""
    return {k: v for k, v in os.environ.items() if k not in UNWANTED} | QUIET


@contextlib.contextmanager
def started(words: Sequence[str], inputs: Inputs, out: Path) -> Iterator[subprocess.Popen]:
    """A module of ours as a process in the new folder ``out``."""
    out.mkdir()
    shutil.copyfile(inputs.database, out / "mlflow.db")
    environment = clean_environment()
    if inputs.data != "digits":  # photographs are decoded anew in every round
        environment["TUNE_FAIRLORA_CACHE"] = str(out / "cache")
    command = [sys.executable, "-m", *words]
    with open(out / "log.txt", "w") as log:
        yield subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def timed(words: Sequence[str], inputs: Inputs, out: Path) -> tuple[float, float]:
    """Run a module of ours as a process in the new folder ``out``; when it began, and its seconds to the very end."""
    began, start = time.time(), time.perf_counter()
    with started(words, inputs, out) as process:
        status = process.wait()
    seconds = time.perf_counter() - start
    if status:
        tail = (out / "log.txt").read_text()[-2000:]
        raise SystemExit(f"{words[0]} must end well, but its exit status is {status}:\n{tail}")
    return began, seconds


def our_trials(out: Path) -> list:
    """The trials of a search of ours, at its end or while it is at work."""
    from tune_fairlora.record.event_log import EVENT_LOG, read_events
    from tune_fairlora.record.state import State

    state = State()
    for event in read_events(out / NAME) if (out / NAME / EVENT_LOG).exists() else ():
        state.apply(event)
    return list(state.trials.values())


def run_ours(inputs: Inputs, out: Path, seed: int) -> Run:
    began, seconds = timed(our_command(inputs, out, seed), inputs, out)
    kept = ("complete",) if inputs.until else ("complete", "collapsed")  # a front has no collapsed models
    rows = [
        {**trial.values, **{name: trial.metrics[name] for name in OBJECTIVES}, "time": trial.seen}
        for trial in our_trials(out)
        if trial.status in kept
    ]
    return Run(began, seconds, pd.DataFrame(rows))


def run_glue(inputs: Inputs, out: Path, seed: int) -> Run:
    began, seconds = timed(glue_command(inputs, out, seed), inputs, out)
    table = pd.read_csv(out / "trials.csv")
    table = table.rename(columns=lambda name: name.removeprefix("config/")).rename(columns={"timestamp": "time"})
    table["lr"] = table["lr_lora"].fillna(table["lr_full"])
    return Run(began, seconds, table)


def by_point(run: Run, points: Sequence[dict]) -> np.ndarray:
    """The objectives of each point, ``[points, 2]``; NaN where it has no result. Found by method, rank and rate."""
    found = {_key(row): [row[name] for name in OBJECTIVES] for row in run.trials.to_dict("records")}
    keys = [_key(point) for point in points]
    if len(set(keys)) < len(keys) or set(found) - set(keys):
        raise ValueError("trials must be those of the points, and points must differ")
    return np.array([found.get(key, [math.nan] * 2) for key in keys], dtype=float)


def _key(row: dict) -> tuple:
    rank = row.get("rank")
    return row["method"], -1 if rank is None or pd.isna(rank) else int(rank), float(row["lr"])


def run_noise(ours: np.ndarray, glue: np.ndarray, images: int, classes: int) -> np.ndarray:
    """The standard deviation of one run's accuracy and ΔF1, ``[2]``, of results ``[rounds, trials, 2]``."""
    if len(ours) > 1:
        variances = [np.nanvar(results, axis=0, ddof=1) for results in (ours, glue)]
        return np.sqrt(np.nanmean(variances, axis=(0, 1)))
    accuracy = np.nanmean([ours[..., 0], glue[..., 0]])
    spread = accuracy * (1 - accuracy)
    return np.sqrt([spread / images, 2 * spread * classes / images])


def agreement(ours: np.ndarray, glue: np.ndarray, images: int, classes: int) -> bool:
    """Print how far the results ``[rounds, trials, 2]`` lie apart; whether that is within noise."""
    both = np.isfinite(ours).all(axis=(0, 2)) & np.isfinite(glue).all(axis=(0, 2))
    print(f"{both.sum()} of {len(both)} trials have results in all rounds of both")
    if not both.any():
        return False
    difference = (ours - glue).mean(axis=0)[both]
    noise = run_noise(ours[:, both], glue[:, both], images, classes) * math.sqrt(2 / len(ours))
    mean, bias, largest = np.abs(difference).mean(0), difference.mean(0), np.abs(difference).max(0)
    allowed = 1.5 * math.sqrt(2 / math.pi) * noise
    allowed_bias = 3 * noise / math.sqrt(len(difference))
    good = True
    for i, name in enumerate(("accuracy", "ΔF1")):
        fits = mean[i] <= allowed[i] and abs(bias[i]) <= allowed_bias[i]
        good &= bool(fits)
        print(
            f"{name:8} |ours - glue|: mean {mean[i]:.4f} (allowed {allowed[i]:.4f}), largest {largest[i]:.4f}; "
            f"bias {bias[i]:+.4f} (allowed {allowed_bias[i]:.4f}): {'agrees' if fits else 'DISAGREES'}"
        )
    return good


def volumes(run: Run) -> list[tuple[float, float]]:
    """(seconds since the command began, hypervolume) after each trial that ended, in that order."""
    trials = run.trials.dropna(subset=OBJECTIVES).sort_values("time")
    costs = as_minimization(trials[OBJECTIVES].to_numpy(), DIRECTIONS)
    worst = as_minimization([WORST], DIRECTIONS)[0]
    return [(t - run.began, hypervolume(costs[: i + 1], worst)) for i, t in enumerate(trials["time"])]


def reached(curve: Sequence[tuple[float, float]], target: float) -> float:
    """The first moment with at least ``target``; infinite if there is none."""
    return next((seconds for seconds, volume in curve if volume >= target), math.inf)


def run_round(inputs: Inputs, work: Path, i: int, share: float | None) -> tuple[Run, Run, float]:
    """Both commands once, ours first in even rounds; their runs and the ratio of their times."""
    load = os.getloadavg()[0]
    jobs = [("ours", run_ours), ("glue", run_glue)][:: 1 if i % 2 == 0 else -1]
    runs = {name: run(inputs, work / f"{name}-{i}", i) for name, run in jobs}
    ours, glue = runs["ours"], runs["glue"]
    text, times = f"round {i}: ours {ours.seconds:.1f} s, glue {glue.seconds:.1f} s", (ours.seconds, glue.seconds)
    if share:
        curves = volumes(ours), volumes(glue)
        ends = [curve[-1][1] for curve in curves]
        times = tuple(reached(curve, share * ends[1]) for curve in curves)
        text += f" in all, hypervolume {ends[0]:.4f} and {ends[1]:.4f}; "
        text += f"to {share * ends[1]:.4f}: ours {times[0]:.1f} s, glue {times[1]:.1f} s"
    ratio = times[1] / times[0]
    print(f"{text}: ratio {ratio:.2f} (load before {load:.1f})", flush=True)
    return ours, glue, ratio


def compare(inputs: Inputs, work: Path, rounds: int, share: float | None) -> bool:
    """Run and print everything; whether the goal is reached and the results agree."""
    ours, glue, ratios = zip(*[run_round(inputs, work, i, share) for i in range(rounds)])
    middle, goal = statistics.median(ratios), inputs.setup.goal
    verdict = "reached" if middle >= goal else "MISSED"
    print(f"glue / ours: median {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal {goal:g}: {verdict}")
    if share:
        return middle >= goal
    points = json.loads(inputs.points.read_text())
    results = [np.array([by_point(run, points) for run in runs]) for runs in (ours, glue)]
    table = pd.read_csv(inputs.folder / "metadata.csv")
    agree = agreement(*results, int((table["split"] == "val").sum()), table["label"].nunique())
    return agree and middle >= goal


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=tuple(SETUPS), required=True)
    p.add_argument("--folder", type=Path, help="of signdigits: image files and metadata.csv")
    p.add_argument("--weights", type=Path, help="of signdigits: ViT-Tiny's")
    p.add_argument("--trials", type=int)
    p.add_argument("--epochs", type=int)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--until", type=float, metavar="SHARE", help="of glue's last hypervolume")
    p.add_argument("--reuse-actors", action="store_true", help="Ray's option, for glue")
    p.add_argument("--work", type=Path, help="a new folder to keep everything in; default: a temporary one")
    args = p.parse_args()
    if args.until and args.data == "digits":
        p.error("--until is measured on signdigits")
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary) / "work").resolve()
        work.mkdir(parents=True)
        inputs = prepared(args, work)
        own = "ours with its own sampler and scheduler" if args.until else "the same points, none stopped"
        reuse = "on" if args.reuse_actors else "off, the default"
        print(f"{args.data}: {inputs.setup.trials} trials x {inputs.setup.epochs} epochs, {AT_ONCE} at a time, {own}")
        print(f"{os.cpu_count()} CPUs; glue's reuse_actors: {reuse}", flush=True)
        return 0 if compare(inputs, work, args.rounds, args.until) else 1


if __name__ == "__main__":
    sys.exit(main())
