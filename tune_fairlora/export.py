"""Takes one trial of a finished search home: a folder that runs without this project.

python -m tune_fairlora.export --search NAME --trial 17            the adapter in peft's format, or all weights (FFT)
python -m tune_fairlora.export --search NAME --pick knee --merge   the knee of the front, its adapter folded in
python -m tune_fairlora.export --search NAME --trial 17 --register signs --alias champion     into MLflow's registry too
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("export")  # imports this file again, under its own name

import argparse
import os
import re
from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora import cli
from tune_fairlora.record import search_folder
from tune_fairlora.record.state import COMPLETE
from tune_fairlora.reporting.export_folder import whole, write
from tune_fairlora.tracking import models, tracking_uri
from tune_fairlora.tracking.outbox import read_position


def parser() -> cli.Parser:
    p = cli.Parser(
        "export",
        "Write one trial's model into a folder: weights, loader, class names, metrics, model card.",
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    return cli.run(parser(), argv, _command, "interrupted; nothing was written")


def _command(args: argparse.Namespace) -> int:
    from tune_fairlora.record.search_folder import find

    _require_names(args.register, args.alias)
    done = search_folder.read(find(args.search, "runs"), "a trial is exported")
    number, why = args.trial, ""
    if args.pick is not None:
        number, why = _picked(done, args.pick)
        print(why)
    _require_trial(done, number)
    search_folder.require_weights(done.settings)
    out = args.out or done.folder / "exports" / f"{number:04d}{'-merged' * args.merge}"
    _require_new(out)
    where = registry(done, number) if args.register else ()
    difference = whole(out, lambda folder: write(folder, done, number, why, args.merge))
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"trial {number} is in {out} ({size:.1f} MB); loaded again, its logits differ by {difference:.1e} at most")
    if args.register:
        version = models.register_trial(*where, done, number, args.register, args.alias)
        reference = f"@{args.alias}" if args.alias else f"/{version}"
        print(f"registered in {where[0]}: models:/{args.register}{reference}")
    return 0


def registry(done: search_folder.Finished, number: int) -> tuple[str, str]:
    """Address and experiment of the MLflow that the search went to. Raises ConfigError where that does not answer or
    never got the trial."""
    position = read_position(done.folder)
    if position is None or not done.state.trials[number].run_id:
        resync = f"python -m tune_fairlora.search --resync {done.folder}"
        raise ConfigError(f"--register needs the search in MLflow: send it with `{resync}`")
    tracking_uri.check_store(position.uri)
    tracking_uri.require_database(position.uri)
    return position.uri, position.experiment


def _require_names(model: str | None, alias: str | None) -> None:
    if alias and not model:
        raise ConfigError("--alias names a version of a registered model: give --register MODEL too")
    for option, text in (("--register", model), ("--alias", alias)):
        if text is not None and not re.fullmatch(r"[\w .-]*\w[\w .-]*", text):
            raise ConfigError(f"{option} takes letters, digits, spaces, dots, - and _, but got {text!r}")


def _picked(done: search_folder.Finished, rule: str) -> tuple[int, str]:
    from analysis.pick import pick

    choice = pick(done.search, rule)
    return choice.number, f"{rule.strip()}: {choice.why}"


def _require_trial(done: search_folder.Finished, number: int) -> None:
    trial = done.state.trials.get(number)
    if trial is None:
        raise ConfigError(f"--trial must be one of the search's {len(done.state.trials)}, but {number} does not exist")
    if trial.status != COMPLETE:
        raise ConfigError(f"--trial must be a complete trial, but trial {number} is {trial.status}")
    if not search_folder.weights_of(done.folder, number).is_file():
        kept = [n for n in sorted(done.state.trials) if search_folder.weights_of(done.folder, n).is_file()]
        known = f"take one of {', '.join(map(str, kept[:20]))}" if kept else "no other trial has any either"
        raise ConfigError(
            f"trial {number} has no saved weights, as a search keeps those of its front alone: {known}, "
            "or train its configuration again in a search of its own (--enqueue)"
        )


def _require_new(out: Path) -> None:
    if out.resolve() == Path.cwd():
        raise ConfigError("--out must be a new folder, but is the current one: choose another")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out must be a new or an empty folder, but {out} is not: choose another")
    nearest = next(path for path in out.resolve().parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"--out must lie in a folder that can be written, but {nearest} is not")
