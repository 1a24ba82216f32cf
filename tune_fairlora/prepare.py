"""Reads a data set as its authors distribute it into a store that every search can use.

python -m tune_fairlora.prepare waterbirds --download --out data/waterbirds
python -m tune_fairlora.prepare geode --source geode.zip --out data/geode
python -m tune_fairlora.prepare --list
python -m tune_fairlora.prepare --check data/waterbirds
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("prepare")  # imports this file again, under its own name

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import ConfigError
from tune_fairlora import cli

if TYPE_CHECKING:
    from trainables.prepare.make import Request

SIZE = 256
SMALLEST, LARGEST = 8, 1024
TASKS = ("gender", "age")


def parser() -> cli.Parser:
    p = cli.Parser(
        "prepare",
        "Read a data set as its authors distribute it into a store of decoded images, once. "
        "A command that was broken off goes on where it ended when it is given again.",
        "interrupted; the same command goes on where this one ended",
    )
    p.add_argument("name", nargs="?", metavar="NAME", help="data set, a name of --list")
    p.add_argument("--source", type=Path, metavar="DIR|ARCHIVE", help="the authors' files, as a folder, tar or zip")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of the prepared data, for the search's --data")
    p.add_argument("--size", type=cli.positive_int, metavar="N", help=f"side of the square images; default: {SIZE}")
    p.add_argument("--download", action="store_true", help="fetch the archive first, where it has a direct address")
    p.add_argument("--task", choices=TASKS, help="of utkface: what is to be told from a face")
    p.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be read, and list them")
    p.add_argument(
        "--allow-overlap", action="store_true", help="accept a subject or an image in two splits or of two labels"
    )
    p.add_argument("--workers", type=cli.positive_int, metavar="N", help="decoding threads; default: one a core")
    p.add_argument("--list", action="store_true", help="the data sets, with licence and size")
    p.add_argument("--check", type=Path, metavar="DIR", help="compare a prepared store with its manifest")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 1 ``--check`` found a difference, 2 the user's mistake, 130."""
    if args.list:
        return _list()
    return _check(args.check) if args.check else _prepare(args)


def _list() -> int:
    from trainables.prepare.sources import SOURCES

    for name, row in SOURCES.items():
        size = f"{row.images:,} images" if row.images else "any number of images"
        access = "--download" if row.address else f"by hand from {row.home}" if row.home else "--source"
        print(f"{name:15} {row.about}\n{'':15} {size}; {row.licence}; {access}")
    print(f"{'digits':15} the demo's handwritten digits, made from scikit-learn's; nothing to download")
    return 0


def _check(folder: Path) -> int:
    from trainables.prepare import prepared

    differences = prepared.check(folder)
    for line in differences:
        print(f"{folder}: {line}", file=sys.stderr)
    if not differences:
        print(f"{folder}: the store is what its manifest says")
    return 1 if differences else 0


def _prepare(args: argparse.Namespace) -> int:
    from trainables.prepare import make
    from tune_fairlora.execution.terminal import Bars

    request = _request(args)
    try:
        with Bars() as bars:
            manifest = make.prepare_into(request, bars.images, bars.bytes)
    except OSError as error:  # no right, no room, a name too long: the file system's word
        reason = error.strerror or error
        raise ConfigError(f"--out {args.out} must be a folder that can be written, but: {reason}") from error
    for split, table in manifest["splits"].items():
        print(
            f"{split:6} {table['images']:,} images" + (f" of {n:,} subject(s)" if (n := table.get("subjects")) else "")
        )
    print(f"classes {len(manifest['classes'])}, groups {len(manifest['groups'])}: {', '.join(manifest['groups'])}")
    for key, value in manifest["notes"].items():
        if value and key != "images":
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            print(f"note    {key}: {text if len(text) <= 400 else text[:397] + '…'}")
    print(f"licence {manifest['licence']}")
    print(f"ready   {args.out} (store.arrow, manifest.json): pass it to a search with --data {args.out}")
    return 0


def _request(args: argparse.Namespace) -> "Request":
    from trainables.prepare.make import Request
    from trainables.prepare.sources import SOURCES

    name = args.name or ""
    if name == "utkface" or (args.task and name.startswith("utkface")):
        if name != "utkface" or args.task is None:
            raise ConfigError(f"utkface has two tasks: say utkface --task gender or --task age, but got {name}")
        name = f"utkface_{args.task}"
    elif args.task:
        raise ConfigError(f"--task belongs to utkface, but got {name or 'no data set'}")
    names = [*SOURCES, "digits"]
    if name not in names:
        raise ConfigError(f"NAME must be one of {', '.join(names)}, but got {name or 'none'}")
    if args.out is None:
        raise ConfigError("--out DIR is needed: where the prepared data go")
    if os.path.exists(args.out) and not os.path.isdir(args.out):
        raise ConfigError(f"--out must be a folder, but {args.out} is a file")
    size = args.size or (16 if name == "digits" else SIZE)
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"`{SMALLEST} <= size <= {LARGEST}` must hold, but got --size {size}")
    if name == "digits":
        if args.source or args.download:
            raise ConfigError("the digits come with scikit-learn and take neither --source nor --download")
    else:
        row, source = SOURCES[name], args.source
        if source and args.download:
            raise ConfigError("either --source or --download must be given, but got both")
        if source and not os.path.exists(source):
            raise ConfigError(f"--source must be a folder or an archive, but {source} does not exist")
        if args.download and not row.address:
            where = f"get it from {row.home} (terms: {row.licence})" if row.home else "it is your own"
            raise ConfigError(f"{name} has no direct address: {where}, and pass it with --source")
        if not source and not args.download:
            needed = "--download, or --source" if row.address else f"--source (files: {row.home or 'your own'})"
            raise ConfigError(f"{name} needs {needed} with a folder or an archive")
    lenient = args.skip_corrupt, args.allow_overlap
    return Request(name, args.source, args.out, size, args.workers or os.cpu_count() or 1, *lenient)
