"""Opens MLflow's pages at the newest search's Pareto front.

python -m tune_fairlora.ui                                        MLflow on mlflow.db, on this machine only
python -m tune_fairlora.ui --search NAME --port 5001              another search than the newest
python -m tune_fairlora.ui --tracking-uri http://server:5000      prints the address alone
"""

from tune_fairlora import startup

startup.hide_user_folder()  # before any import of ours: the user's analysis.py must not hide our analysis
startup.quiet_libraries()

import argparse  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import urllib.request  # noqa: E402
import webbrowser  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from trainables.config import ConfigError  # noqa: E402
from tune_fairlora import cli  # noqa: E402
from tune_fairlora.tracking import tracking_uri, ui_views  # noqa: E402

if TYPE_CHECKING:
    from tune_fairlora.tracking.client import StoredSearch

START_SECONDS = 120  # a first start on a busy machine takes 30
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m tune_fairlora.ui",
        description="Start MLflow on a search's store and open it at the Pareto front; Ctrl-C ends it.",
        allow_abbrev=False,
    )
    p.add_argument("--search", metavar="NAME", help="the search to show; default: the newest")
    p.add_argument("--port", type=cli.port, default=5000, help="of the page; default: %(default)s")
    p.add_argument("--host", default="127.0.0.1", help="who may see it; default: %(default)s, this machine alone")
    p.add_argument("--tracking-uri", default=tracking_uri.DEFAULT, metavar="URI", help="MLflow's; default: %(default)s")
    p.add_argument("--no-browser", action="store_true", help="only print the address")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 the server broke off, 2 the user's mistake."""
    return cli.run(lambda: _command(parser().parse_args(argv)), "")


def _command(args: argparse.Namespace) -> int:
    from tune_fairlora.tracking.client import newest_search

    uri = tracking_uri.absolute_uri(args.tracking_uri)
    if uri.startswith(tracking_uri.SERVERS):
        print(_address(uri, newest_search(uri, args.search)))
        return 0
    found = newest_search(uri, args.search)
    _require_free(args.host, args.port)
    print("starting MLflow …", file=sys.stderr, flush=True)
    with _server(uri, args.host, args.port) as server:
        return _show(server, _address(f"http://{_host(args)}:{args.port}", found), args)


def _address(server: str, found: "StoredSearch") -> str:
    return ui_views.front_address(server, found.experiment_id, found.search_id)


def _host(args: argparse.Namespace) -> str:
    return f"[{args.host}]" if ":" in args.host else args.host  # IPv6


def _require_free(host: str, port: int) -> None:
    """MLflow itself would print a traceback."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"--port {port} on {host} cannot be used ({error.strerror}): give another") from error


@contextmanager
def _server(uri: str, host: str, port: int) -> Iterator[subprocess.Popen]:
    """MLflow's server in few processes, all of them ended at the end, whatever ends us."""
    options = ["--workers", "1", "--host", host, "--port", str(port), "--backend-store-uri", uri]
    with tempfile.TemporaryFile() as log:
        # Before the server exists: a signal in between would leave it behind.
        handlers = {n: signal.signal(n, lambda n, _: sys.exit(128 + n)) for n in (signal.SIGTERM, signal.SIGHUP)}
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            env=os.environ | LEAN,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C reaches us alone, and all of it can be ended as one
        )
        server.log = log
        try:
            yield server
        finally:
            _end(server)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _end(server: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _show(server: subprocess.Popen, address: str, args: argparse.Namespace) -> int:
    """Print and open the address once the server answers, and stay until it ends or somebody presses Ctrl-C."""
    try:
        if not _answers(server, _host(args), args.port):
            print(f"error: MLflow's server did not start: {_last_line(server)}", file=sys.stderr)
            return 1
        print(f"{address}\nCtrl-C ends the server", flush=True)
        if not args.no_browser and _has_screen():
            webbrowser.open(address)
        server.wait()
        print(f"error: MLflow's server broke off: {_last_line(server)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _answers(server: subprocess.Popen, host: str, port: int) -> bool:
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=2):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def _last_line(server: subprocess.Popen) -> str:
    server.log.seek(0)
    lines = server.log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _has_screen() -> bool:
    """Without one, a browser for terminals might take over this one."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main())
