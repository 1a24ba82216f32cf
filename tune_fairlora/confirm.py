"""Measures trials of a finished search on the test split, which no trial and no sampler has seen.

python -m tune_fairlora.confirm --search runs/NAME                      the front's saved models
python -m tune_fairlora.confirm --search runs/NAME --refit trainval     trained anew on train and val, as the papers do

What the front's configurations are worth on fresh data, with fresh seeds: python -m tune_fairlora.search --confirm
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("confirm")  # imports this file again, under its own name

import argparse

from trainables.config import ConfigError
from tune_fairlora import api, cli
from tune_fairlora.record import looks

SHOWN = {
    "accuracy": "accuracy",
    "delta_f1": "ΔF1",
    "worst_cell_accuracy": "worst group",
    "min_group_accuracy": "worst attribute",
}


def parser() -> cli.Parser:
    p = cli.Parser(
        "confirm",
        "Measure trials of a finished search on the test split; the numbers are kept in confirmed.parquet there.",
        "interrupted; what was measured so far is kept",
    )
    p.add_argument("--search", required=True, metavar="NAME|DIR", help="a finished search in runs/, or its folder")
    p.add_argument("--trials", metavar="N,N", help="trials by number; default: those on the front")
    p.add_argument("--refit", choices=("train", "trainval"), help="train anew first, on train, or on train and val")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run; default: %(default)s")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 1 a refit diverged, 2 the user's mistake, 130 interrupted."""
    search, status = api.open(args.search), 0
    numbers = None if args.trials is None else [_whole(text) for text in args.trials.split(",")]
    for each in search.confirmations(numbers, args.refit, args.device):
        begin = f"{each.number:4d} {each.config.method:9}"
        if each.error:
            print(f"{begin} diverged: {each.error}")
            status = 1
            continue
        numbers_shown = (f"{text} {each.validation[n]:.4f} → {each.test[n]:.4f}" for n, text in SHOWN.items())
        print(f"{begin} {each.trained_on:8} validation → test: {'  '.join(numbers_shown)}", flush=True)
    table, times = search.folder / "confirmed.parquet", looks.count(search.results.settings["data_fingerprint"])
    print(f"kept in {table}; validation numbers chose these trials, test numbers must not choose again")
    print(f"looks at this test split on this machine, with this one: {times}")
    return status


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"`trials` takes whole numbers with commas, but got {text!r}")
    return int(text)
