"""Asks an exported model: the class of each image, or, for a folder with metadata.csv, how well it serves everyone.

python -m tune_fairlora.predict --model DIR photo.jpg other.png
python -m tune_fairlora.predict --model DIR photos/               a folder with metadata.csv
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("predict")  # imports this file again, under its own name

import argparse
import json
import os
import re
import sys
from pathlib import Path

from rich.cells import cell_len

from trainables.config import ConfigError
from trainables.files import plain
from tune_fairlora import cli

NUMBER = re.compile(r"[\d.]+|–")
UNREADABLE = 1  # exit status where some of the images could not be read


def parser() -> cli.Parser:
    p = cli.Parser(
        "predict",
        "Show images to an exported model: their classes, or the metrics of a labelled folder.",
    )
    p.add_argument("--model", type=Path, required=True, metavar="DIR", help="what tune_fairlora.export wrote")
    p.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or one folder with metadata.csv")
    p.add_argument("--weights", metavar="FILE", help="pretrained weights, where the export names a file of yours")
    p.add_argument("--split", metavar="NAME", help="of a folder: the rows of this split alone; default: all rows")
    p.add_argument("--top", type=cli.positive_int, default=1, metavar="K", help="classes an image (%(default)s)")
    p.add_argument("--json", action="store_true", help="for machines: one JSON value, all probabilities")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 some images could not be read, 2 the user's mistake."""
    return cli.run(parser(), argv, _command, "interrupted")


def _command(args: argparse.Namespace) -> int:
    folders = [path for path in args.images if os.path.isdir(path)]
    if folders and len(args.images) > 1:
        raise ConfigError(f"either images or one folder must be given, but got {len(args.images)} with {folders[0]}")
    if args.split is not None and not folders:
        raise ConfigError("--split goes with a folder that has metadata.csv")
    missing = [path for path in args.images if not os.path.exists(path)]
    if missing:
        raise ConfigError(f"every IMAGE must be a file, but {missing[0]} does not exist")
    from trainables.export import predict

    opened = predict.open_model(args.model, args.weights)
    return _judge(args, opened, folders[0]) if folders else _name(args, opened)


def _name(args: argparse.Namespace, opened) -> int:
    """Print the classes of single images."""
    found = opened.predict(args.images)
    _require_some(found, args.images)
    rows = [(str(args.images[i]), _best(opened.classes, p)) for i, p in zip(found.index, found.probability)]
    if args.json:
        _print_json([{"file": file, "class": next(iter(p)), "probabilities": p} for file, p in rows])
    else:
        shown = [list(probability.items())[: args.top] for _, probability in rows]
        cells = [[cell for name, p in best for cell in (name, f"{p:.4f}")] for best in shown]
        _print_table([[file, *each] for (file, _), each in zip(rows, cells)])
    return _unreadable(found.failed)


def _best(classes: list[str], probability) -> dict[str, float]:
    """Probabilities by class name, the largest first."""
    order = sorted(range(len(classes)), key=lambda i: -probability[i])
    return {classes[i]: float(probability[i]) for i in order}


def _judge(args: argparse.Namespace, opened, folder: Path) -> int:
    """Print how well the model serves the classes and groups of a labelled folder."""
    from trainables.data import labelled_folder
    from trainables.export import predict
    from tune_fairlora.reporting import trial_results

    seen = labelled_folder.read(folder, args.split, opened.classes, opened.groups)
    found = opened.predict(seen.files)
    _require_some(found, seen.files)
    judged = predict.judge(found, seen.label, seen.group, len(opened.classes), len(seen.groups))
    tables = {"by_group": (judged.by_group, seen.groups), "by_class": (judged.by_class, opened.classes)}
    made = {"images": len(found.index), "unreadable": [str(file) for file in found.failed], "metrics": judged.metrics}
    for name, (table, names) in tables.items():
        lists = {column: values.tolist() for column, values in table.items()}
        made[name] = trial_results.rows(lists, names, trial_results.COLUMNS[name])
    made = trial_results.without_nan(made | {"confusion": judged.confusion.tolist()})
    _print_json(made) if args.json else _print_evaluation(folder, args.split, made)
    if seen.training:
        print(f"note: {seen.training} rows are of the split train; --split leaves them out", file=sys.stderr)
    return _unreadable(found.failed)


def _print_evaluation(folder: Path, split: str | None, made: dict) -> None:
    from tune_fairlora.reporting.model_card import SHOWN, number

    print(f"{plain(folder)}: {made['images']} images{f' of split {plain(split)}' if split else ''}")
    _print_table([[name, number(made["metrics"][name])] for name in SHOWN])
    for title in ("group", "class"):
        rows = made[f"by_{title}"]
        print()
        _print_table([[title, *list(rows[0])[1:]], *([number(value) for value in row.values()] for row in rows)])


def _print_table(rows: list[list[str]]) -> None:
    """Aligned columns: text to the left, numbers to the right; what a terminal would obey is escaped."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows)]
    numeric = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows[1:] or rows)]
    for row in rows:
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths)]
        cells = [gap + cell if right else cell + gap for cell, gap, right in zip(row, spaces, numeric)]
        print("  ".join(cells).rstrip())


def _print_json(value) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _require_some(found, files: list[Path]) -> None:
    if not found.index:
        raise ConfigError(f"no image could be read: {_listed(files)}")


def _unreadable(failed: list[Path]) -> int:
    if failed:
        print(f"{len(failed)} image(s) could not be read: {_listed(failed)}", file=sys.stderr)
    return UNREADABLE if failed else 0


def _listed(files: list[Path]) -> str:
    return ", ".join(plain(file) for file in files)
