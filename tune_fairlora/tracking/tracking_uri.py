"""Where MLflow's runs may go: a server or a database, looked at, and made, without importing MLflow."""

import contextlib
import http.client
import os
import re
import sqlite3
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from trainables.config import ConfigError

SERVERS = ("http://", "https://")
PASSWORD = re.compile(r"(://[^:/@]+):[^@]*@")
SQLITE = "sqlite:///"
DEFAULT = f"{SQLITE}mlflow.db"  # in the current folder
EXPERIMENT = "tune-fairlora"  # where nobody names another
PROBE_SECONDS = 10


def check_store(uri: str) -> None:
    """Raise ConfigError if ``uri`` is a server that does not answer within seconds, or a sqlite file that is none."""
    if uri.startswith(SERVERS):
        _check_server(uri)
    elif uri.startswith(SQLITE):
        _check_sqlite(Path(uri.removeprefix(SQLITE)))
    elif not uri.startswith(("mysql", "postgresql", "mssql", "databricks")):
        raise ConfigError(f"--tracking-uri must be a server (http://…) or a database (sqlite:///…), but got {uri}")


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        raise ConfigError(f"--tracking-uri {uri} answers, but not as an MLflow server (HTTP {error.code})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(f"--tracking-uri {uri} does not answer ({reason}): is the server up?") from error


def _check_sqlite(path: Path) -> None:
    """Without MLflow, whose import takes seconds: its own trouble with the file is reported by the tracker."""
    if set("?#%") & set(str(path)):
        raise ConfigError(f"--tracking-uri's path must be free of ?, # and %, which an address cannot hold: {path}")
    nearest = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not nearest.is_dir() or not os.access(path if path.exists() else nearest, os.W_OK):
        raise ConfigError(f"--tracking-uri must be a file that can be written, but {path} cannot")
    if path.exists():
        try:
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"--tracking-uri must be a sqlite database, but {path} is not ({error})") from error


def require_database(uri: str) -> None:
    """Raise ConfigError if ``uri`` is a sqlite file that is not there: opening it would make an empty one."""
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not path.is_file():
        raise ConfigError(
            f"--tracking-uri must be where a search was recorded, but {path} does not exist: "
            "start one here first, with `python -m tune_fairlora.search --space digits`"
        )


def without_password(uri: str) -> str:
    """What may be written down of ``uri``."""
    return PASSWORD.sub(r"\1@", uri)


def absolute_uri(uri: str) -> str:
    """A relative sqlite path made absolute, so that it means one file whatever the current folder is later."""
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).resolve())
    return uri


def make_database(path: Path, make: Callable[[str], object]) -> None:
    """Let ``make(uri)`` create a database elsewhere, and put it at ``path`` if there is none: whole or not at all.

    MLflow makes its tables in many steps over seconds, and could never open a file that kill -9 left in between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with tempfile.TemporaryDirectory() as elsewhere:
        make(f"{SQLITE}{elsewhere}/mlflow.db")
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{elsewhere}/mlflow.db")) as source,
                contextlib.closing(sqlite3.connect(temporary)) as target,
            ):
                source.backup(target)  # a copy, as MLflow keeps its own file open
            os.link(temporary, path)  # which never replaces what another search made meanwhile
        except OSError:  # it is there, or the file system has no links
            if not path.exists():
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
