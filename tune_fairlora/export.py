"""Takes one trial of a finished search home: a folder that runs without this project.

python -m tune_fairlora.export --search NAME --trial 17            the adapter in peft's format, or all weights (FFT)
python -m tune_fairlora.export --search NAME --pick knee --merge   the knee of the front, its adapter folded in
python -m tune_fairlora.export --search NAME --trial 17 --register signs --alias champion     into MLflow's registry too
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("export")  # imports this file again, under its own name

import argparse
from pathlib import Path

from tune_fairlora import api, cli


def parser() -> cli.Parser:
    p = cli.Parser(
        "export",
        "Write one trial's model into a folder: weights, loader, class names, metrics, model card.",
        "interrupted; nothing was written",
    )
    p.add_argument("--search", required=True, metavar="NAME", help="a finished search: its name in runs/, or a folder")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--trial", type=cli.count, metavar="N", help="the trial's number")
    which.add_argument(
        "--pick", metavar="RULE", help='knee, accuracy, fairness, or like "val_accuracy>=0.9 then val_delta_f1"'
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder; default: exports/NNNN in the search's folder")
    p.add_argument("--register", metavar="MODEL", help="also a new version of this model in MLflow's registry")
    p.add_argument("--alias", metavar="ALIAS", help="of the version, like champion; needs --register")
    p.add_argument("--merge", action="store_true", help="fold the adapter into the weights: no peft, no other file")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    search = api.open(args.search)
    trial = search.trial(args.trial) if args.pick is None else search.best(args.pick)
    export = trial.export(args.out, merge=args.merge, register=args.register, alias=args.alias)
    if trial.why:
        print(trial.why)
    size = sum(file.stat().st_size for file in export.folder.iterdir()) / 1e6
    print(
        f"trial {trial.number} is in {export.folder} ({size:.1f} MB); "
        f"loaded again, its logits differ by {export.difference:.1e} at most"
    )
    if export.reference:
        print(f"registered in {export.registry}: {export.reference}")
    return 0
