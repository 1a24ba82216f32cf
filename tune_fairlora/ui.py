"""Opens MLflow's pages at the newest search's Pareto front.

python -m tune_fairlora.ui                                        MLflow on mlflow.db, on this machine only
python -m tune_fairlora.ui --search NAME --port 5001              another search than the newest
python -m tune_fairlora.ui --tracking-uri http://server:5000      prints the address alone
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("ui")  # imports this file again, under its own name

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from trainables.config import ConfigError
from tune_fairlora import cli
from tune_fairlora.tracking import tracking_uri

START_SECONDS = 120  # a first start on a busy machine takes 30
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def parser() -> cli.Parser:
    p = cli.Parser("ui", "Start MLflow on a search's store and open it at the Pareto front; Ctrl-C ends it.", "")
    p.add_argument("--search", metavar="NAME", help="the search to show; default: the newest")
    p.add_argument("--port", type=cli.port, default=5000, help="of the page; default: %(default)s")
    p.add_argument("--host", default="127.0.0.1", help="who may see it; default: %(default)s, this machine alone")
    p.add_argument("--tracking-uri", default=tracking_uri.DEFAULT, metavar="URI", help="MLflow's; default: %(default)s")
    p.add_argument("--no-browser", action="store_true", help="only print the address")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 1 the server broke off, 2 the user's mistake."""
    from tune_fairlora.tracking import ui_views
    from tune_fairlora.tracking.client import newest_search

    uri = tracking_uri.absolute_uri(args.tracking_uri)
    search = newest_search(uri, args.search)

    def front_at(server: str) -> str:
        return ui_views.front_address(server, search.experiment_id, search.search_id)

    if uri.startswith(tracking_uri.SERVERS):
        print(front_at(uri))
        return 0
    _require_free(args.host, args.port)
    print("starting MLflow …", file=sys.stderr, flush=True)
    host = f"[{args.host}]" if ":" in args.host else args.host  # IPv6
    with _server(uri, args.host, args.port) as server:
        return _show(server, f"http://{host}:{args.port}", front_at, not args.no_browser)


def _require_free(host: str, port: int) -> None:
    """Raise ConfigError where MLflow itself would print a traceback."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"--port {port} on {host} cannot be used ({error.strerror}): give another") from error


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def answers(self, address: str) -> bool:
        """Wait until the server answers; returns False if it ends before, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    return True
            except OSError:
                time.sleep(0.2)
        return False

    def last_line(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@contextmanager
def _server(uri: str, host: str, port: int) -> Iterator[Server]:
    """Run MLflow's server, in few processes, which end with the block, whatever ends this process."""
    options = ["--workers", "1", "--host", host, "--port", str(port), "--backend-store-uri", uri]
    with tempfile.TemporaryFile() as log:
        # Before the server exists: a signal in between would leave it behind.
        handlers = {n: signal.signal(n, lambda n, _: sys.exit(128 + n)) for n in (signal.SIGTERM, signal.SIGHUP)}
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            env=os.environ | LEAN,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C reaches us alone, and all of it can be ended as one
        )
        try:
            yield Server(process, log)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(5)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _show(server: Server, address: str, front_at: Callable[[str], str], browser: bool) -> int:
    """Print and open the front's address once the server answers; stay until it ends or somebody presses Ctrl-C."""
    # Without a screen, a browser for terminals might take over this one.
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    try:
        if not server.answers(address):
            print(f"error: MLflow's server did not start: {server.last_line()}", file=sys.stderr)
            return 1
        print(f"{front_at(address)}\nCtrl-C ends the server", flush=True)
        if browser and screen:
            webbrowser.open(front_at(address))
        server.process.wait()
        print(f"error: MLflow's server broke off: {server.last_line()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
