"""Fetches the record of a search from MLflow, for report and notebooks of searches that ran elsewhere.

python -m tune_fairlora.fetch --tracking-uri http://server:5000                 the newest search, into runs/NAME
python -m tune_fairlora.fetch --tracking-uri URI --search NAME --out DIR
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("fetch")  # imports this file again, under its own name

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import ConfigError
from tune_fairlora import cli
from tune_fairlora.tracking import tracking_uri

if TYPE_CHECKING:
    from tune_fairlora.tracking.client import StoredSearch


def parser() -> cli.Parser:
    about = "Put a search's record (tables, settings, log) from MLflow into a new folder."
    p = cli.Parser("fetch", about, "interrupted; nothing was written")
    p.add_argument("--search", metavar="NAME", help="the search; default: the newest")
    p.add_argument("--tracking-uri", default=tracking_uri.DEFAULT, metavar="URI", help="MLflow's; default: %(default)s")
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder; default: runs/NAME")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    from tune_fairlora.record.event_log import EVENT_LOG
    from tune_fairlora.tracking.client import newest_search

    uri = tracking_uri.absolute_uri(args.tracking_uri)
    search = newest_search(uri, args.search)
    out = args.out or Path("runs") / Path(search.name).name
    if out.exists():
        raise ConfigError(f"--out must be a new folder, but {out} is there: choose another")
    try:
        _fetch(uri, search, out)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error
    over = (out / EVENT_LOG).exists()
    print(f"the record of {search.name} is in {out}" + ("" if over else "; its log, for a report, comes at its end"))
    return 0


def _fetch(uri: str, search: "StoredSearch", out: Path) -> None:
    """Put the whole record into ``out``, or nothing. Tables that ``analysis`` cannot read are not kept."""
    from analysis import results
    from tune_fairlora.record.event_log import EVENT_LOG
    from tune_fairlora.record.tables import TABLE_FILES
    from tune_fairlora.tracking.client import download_record

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetch-") as folder:
        downloads, record = Path(folder) / "downloads", Path(folder) / "record"
        downloads.mkdir()
        record.mkdir()
        for name, path in download_record(uri, search, TABLE_FILES, downloads, (EVENT_LOG,)).items():
            os.replace(path, record / name)
        try:
            results.read(record)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(f"the tables in MLflow must be those of a search, but: {error}") from error
        os.rename(record, out)
