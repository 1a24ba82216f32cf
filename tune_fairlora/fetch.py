"""Fetches the record of a search from MLflow, for report and notebooks of searches that ran elsewhere.

python -m tune_fairlora.fetch --tracking-uri http://server:5000                 the newest search, into runs/NAME
python -m tune_fairlora.fetch --tracking-uri URI --search NAME --out DIR
"""

from tune_fairlora import startup

startup.hide_user_folder()  # before any import of ours: the user's analysis.py must not hide our analysis
startup.quiet_libraries()

import argparse  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from trainables.config import ConfigError  # noqa: E402
from tune_fairlora import cli  # noqa: E402
from tune_fairlora.tracking import tracking_uri  # noqa: E402

if TYPE_CHECKING:
    from tune_fairlora.tracking.client import StoredSearch


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m tune_fairlora.fetch",
        description="Put a search's record (tables, settings, log) from MLflow into a new folder.",
        allow_abbrev=False,
    )
    p.add_argument("--search", metavar="NAME", help="the search; default: the newest")
    p.add_argument("--tracking-uri", default=tracking_uri.DEFAULT, metavar="URI", help="MLflow's; default: %(default)s")
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder; default: runs/NAME")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    return cli.run(lambda: _command(parser().parse_args(argv)), "interrupted; nothing was written")


def _command(args: argparse.Namespace) -> int:
    from tune_fairlora.record.event_log import EVENT_LOG
    from tune_fairlora.tracking.client import newest_search

    uri = tracking_uri.absolute_uri(args.tracking_uri)
    found = newest_search(uri, args.search)
    out = args.out or Path("runs") / Path(found.name).name
    if out.exists():
        raise ConfigError(f"--out must be a new folder, but {out} is there: choose another")
    try:
        _fetch(uri, found, out)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error
    over = (out / EVENT_LOG).exists()
    print(f"the record of {found.name} is in {out}" + ("" if over else "; its log, for a report, comes at its end"))
    return 0


def _fetch(uri: str, found: "StoredSearch", out: Path) -> None:
    """All of it or nothing."""
    from tune_fairlora.record.event_log import EVENT_LOG
    from tune_fairlora.record.tables import TABLE_FILES
    from tune_fairlora.tracking.client import download_record

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetch-") as folder:
        loaded, whole = Path(folder) / "loaded", Path(folder) / "whole"
        loaded.mkdir()
        whole.mkdir()
        for name, path in download_record(uri, found, TABLE_FILES, loaded, (EVENT_LOG,)).items():
            os.replace(path, whole / name)
        _check(whole)
        os.rename(whole, out)


def _check(folder: Path) -> None:
    """What came over the network is what the analysis reads, or it is not kept."""
    from analysis import results

    try:
        results.read(folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"the tables in MLflow must be those of a search, but: {error}") from error


if __name__ == "__main__":
    startup.leave(main())
