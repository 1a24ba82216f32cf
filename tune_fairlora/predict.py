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
from typing import TYPE_CHECKING, Any

from trainables.config import ConfigError
from trainables.files import plain
from tune_fairlora import cli

if TYPE_CHECKING:
    from trainables.export.predict import Exported, Labelled, Predictions

NUMBER = re.compile(r"[\d.]+|–")
UNREADABLE = 1  # exit status where some of the images could not be read


def parser() -> cli.Parser:
    p = cli.Parser("predict", "Show images to an exported model: their classes, or the metrics of a labelled folder.")
    p.add_argument("--model", type=Path, required=True, metavar="DIR", help="what tune_fairlora.export wrote")
    p.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or one folder with metadata.csv")
    p.add_argument("--weights", metavar="FILE", help="pretrained weights, where the export names a file of yours")
    p.add_argument("--split", metavar="NAME", help="of a folder: the rows of this split alone; default: all rows")
    p.add_argument("--top", type=cli.positive_int, default=1, metavar="K", help="classes an image (%(default)s)")
    p.add_argument("--json", action="store_true", help="for machines: one JSON value, all probabilities")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 1 some images could not be read, 2 the user's mistake."""
    folders = [path for path in args.images if os.path.isdir(path)]
    if folders and len(args.images) > 1:
        raise ConfigError(f"either images or one folder must be given, but got {len(args.images)} with {folders[0]}")
    if args.split is not None and not folders:
        raise ConfigError("--split goes with a folder that has metadata.csv")
    missing = [path for path in args.images if not os.path.exists(path)]
    if missing:
        raise ConfigError(f"every IMAGE must be a file, but {missing[0]} does not exist")
    from trainables.export import predict

    model = predict.open_model(args.model, args.weights)
    labelled = predict.read_labelled(folders[0], args.split, model) if folders else None
    files = labelled.files if labelled else args.images
    predictions = model.predict(files)
    if not predictions.index:
        raise ConfigError(f"no image could be read: {_listed(files)}")
    if labelled:
        _judge(args, model, labelled, predictions)
    else:
        _name(args, model, predictions)
    if predictions.failed:
        print(f"{len(predictions.failed)} image(s) could not be read: {_listed(predictions.failed)}", file=sys.stderr)
    return UNREADABLE if predictions.failed else 0


def _listed(files: list[Path]) -> str:
    return ", ".join(plain(file) for file in files)


def _name(args: argparse.Namespace, model: "Exported", predictions: "Predictions") -> None:
    rows = []
    for i, probability in zip(predictions.index, predictions.probability.tolist()):
        best_first = sorted(zip(model.classes, probability), key=lambda pair: -pair[1])
        rows.append((str(args.images[i]), dict(best_first)))
    if args.json:
        _print_json([{"file": file, "class": next(iter(p)), "probabilities": p} for file, p in rows])
    else:
        shown = [(file, list(probability.items())[: args.top]) for file, probability in rows]
        _print_table([[file, *(cell for name, p in best for cell in (name, f"{p:.4f}"))] for file, best in shown])


def _judge(args: argparse.Namespace, model: "Exported", labelled: "Labelled", predictions: "Predictions") -> None:
    from trainables.export import predict
    from tune_fairlora.reporting import trial_results

    judged = predict.judge(predictions, labelled, model)
    tables = {"by_group": (judged.by_group, labelled.groups), "by_class": (judged.by_class, model.classes)}
    results: dict[str, Any] = {"images": len(predictions.index), "unreadable": list(map(str, predictions.failed))}
    results["metrics"] = judged.metrics
    for name, (table, names) in tables.items():
        lists = {column: values.tolist() for column, values in table.items()}
        results[name] = trial_results.rows(lists, names, trial_results.COLUMNS[name])
    results = trial_results.null_for_nan(results | {"confusion": judged.confusion.tolist()})
    _print_json(results) if args.json else _print_evaluation(args.images[0], args.split, results)
    if labelled.training:
        print(f"note: {labelled.training} rows are of the split train; --split leaves them out", file=sys.stderr)


def _print_evaluation(folder: Path, split: str | None, results: dict[str, Any]) -> None:
    from analysis.labels import number
    from tune_fairlora.reporting.model_card import SUMMARY

    print(f"{plain(folder)}: {results['images']} images{f' of split {plain(split)}' if split else ''}")
    shown = [name for name in SUMMARY if name != "adjusted_accuracy"]  # an export does not know its training shares
    _print_table([[name, number(results["metrics"][name])] for name in shown])
    for title in ("group", "class"):
        rows = results[f"by_{title}"]
        print()
        _print_table([[title, *list(rows[0])[1:]], *([number(value) for value in row.values()] for row in rows)])


def _print_table(rows: list[list[str]]) -> None:
    """Aligned columns: text to the left, numbers to the right; what a terminal would obey is escaped."""
    from rich.cells import cell_len

    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows)]
    numeric = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows[1:] or rows)]
    for row in rows:
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths)]
        cells = [gap + cell if right else cell + gap for cell, gap, right in zip(row, spaces, numeric)]
        print("  ".join(cells).rstrip())


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
