"""Measures trials of a finished search on the test split, which no trial and no sampler has seen.

python -m tune_fairlora.confirm --search runs/NAME                      the front's saved models
python -m tune_fairlora.confirm --search runs/NAME --refit trainval     trained anew on train and val, as the papers do
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("confirm")  # imports this file again, under its own name

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from trainables.config import ConfigError, TrainConfig
from tune_fairlora import cli
from tune_fairlora.record import search_folder

TABLE = "confirmed.parquet"
SHOWN = ("accuracy", "delta_f1", "min_group_accuracy")


def parser() -> cli.Parser:
    p = cli.Parser(
        "confirm",
        f"Measure trials of a finished search on the test split; the numbers are kept in {TABLE} there.",
    )
    p.add_argument("--search", type=Path, required=True, metavar="DIR", help="folder of a finished search")
    p.add_argument("--trials", metavar="N,N", help="trials by number; default: those on the front")
    p.add_argument("--refit", choices=("train", "trainval"), help="train anew first, on train, or on train and val")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run; default: %(default)s")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 a refit diverged, 2 the user's mistake, 130 interrupted."""
    return cli.run(parser(), argv, _command, "interrupted; what was measured so far is kept")


def _command(args: argparse.Namespace) -> int:
    done = search_folder.read(args.search, "it is confirmed")
    search_folder.require_images(done.settings)
    search_folder.require_weights(done.settings)
    _require_device(args.device)
    chosen = _chosen(done.search.trials, args.trials)
    if args.refit is None:
        _require_weights(args.search, chosen["number"])
    status = 0
    for number, before in _validation(chosen):
        status |= _confirm(args, done, number, before)
    print(f"kept in {args.search / TABLE}; validation numbers chose these trials, test numbers must not choose again")
    return status


def _require_device(name: str) -> None:
    from trainables.training import gpu

    if gpu.claim(float(name == "cuda")) != name:
        raise ConfigError("--device cuda needs a GPU that torch can use, but there is none: leave it out")


def _chosen(table, numbers: str | None):
    if numbers is None:
        chosen = table[table["on_front"]]
        if not len(chosen):
            raise ConfigError("the search has no front, so --trials must say which trials to measure")
        return chosen
    wanted = [_whole(part) for part in numbers.split(",")]
    status = dict(zip(table["number"], table["status"]))
    for number in wanted:
        if status.get(number) != "complete":
            state = f"is {status[number]}" if number in status else "does not exist"
            raise ConfigError(f"--trials must be complete trials of the search, but trial {number} {state}")
    return table[table["number"].isin(wanted)]


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"--trials takes whole numbers with commas, but got {text!r}")
    return int(text)


def _require_weights(folder: Path, numbers) -> None:
    missing = [number for number in numbers if not search_folder.weights_of(folder, number).is_file()]
    if missing:
        raise ConfigError(f"trial {missing[0]} has no saved weights (the front's trials have): add --refit train")


def _validation(chosen) -> Iterator[tuple[int, dict]]:
    """Number and validation metrics of each chosen trial."""
    for row in chosen.to_dict("records"):
        yield row["number"], {k: row[f"val_{k}"] for k in SHOWN}


def _confirm(args: argparse.Namespace, done: search_folder.Finished, number: int, before: dict) -> int:
    from trainables.training.fit import Diverged

    config = done.config(number)
    try:
        evaluation, trained_on = _measure(args, done, number, config)
    except Diverged as error:
        print(f"{number:4d} {config.method:9} diverged: {error}")
        return 1
    _keep(args.search, number, config, trained_on, evaluation, done.settings["groups"])
    shown = "  ".join(f"{name} {before[name]:.4f} → {evaluation.metrics[name]:.4f}" for name in SHOWN)
    print(f"{number:4d} {config.method:9} {trained_on:8} validation → test: {shown}", flush=True)
    return 0


def _measure(args: argparse.Namespace, done: search_folder.Finished, number: int, config: TrainConfig):
    """The evaluation on the test split, and what the model was trained on."""
    from trainables.data import batches
    from trainables.training import fit

    seen = batches.open_confirmation(done.settings["store"], trainval=args.refit == "trainval")
    if not len(seen.val):
        raise ConfigError("the data set has no test split, so there is nothing to confirm on")
    if args.refit:
        epochs = fit.fit(config, seen, done.settings["weights_file"] or None, args.device)
        return deque(epochs, maxlen=1).pop().evaluation, args.refit
    model = search_folder.model_of(done, number, "add --refit train", args.device)
    return fit.evaluate_split(model, seen, seen.val, config, args.device), "train"


def _keep(folder: Path, number: int, config: TrainConfig, trained_on: str, evaluation, groups: list[str]) -> None:
    """Put the trial's row into the table, in place of an earlier one of the same trial and training data."""
    import pandas as pd

    from trainables.files import replace_atomically

    row = {"number": number, "config_id": config.config_id, "seed": config.seed, "trained_on": trained_on}
    row |= {f"test_{name}": value for name, value in evaluation.metrics.items()}
    row |= {f"test_group_accuracy[{g}]": v for g, v in zip(groups, evaluation.by_group["accuracy"].tolist())}
    table = pd.DataFrame([row])
    if (folder / TABLE).exists():
        old = pd.read_parquet(folder / TABLE)
        table = pd.concat([old[(old["number"] != number) | (old["trained_on"] != trained_on)], table])
    table = table.sort_values(["number", "trained_on"], ignore_index=True)
    replace_atomically(folder / TABLE, lambda path: table.to_parquet(path))
