"""A search in a process of its own, for the Python API.

Ray, signal handlers, redirected streams and the quick end (``startup.leave``) are that process's affair: the caller's
stays as it is, in a script without a main guard, in a notebook, in any thread, and for one search after the other.
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command(module="execution.search_process")  # imports this file again, under its own name

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from trainables.config import ConfigError
from tune_fairlora.startup import HOME

TICK_SECONDS = 1.0


class SearchProcess:
    """The caller's side. ``begin`` returns once the search has its folder, ``wait`` when it has ended; both show what
    it prints on ``sys.stdout``, whatever that is by then.

    The search ends, in order and to be resumed, when the caller's process does, however it dies.
    """

    def __init__(self, options: Mapping[str, Any], resumed: str | None = None):
        """``options`` are plain values by name; ``resumed`` is the search that is resumed with them."""
        terminal = sys.stdout is sys.__stdout__ and sys.stdout is not None and sys.stdout.isatty()
        receive, send = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tune_fairlora.execution.search_process", str(send)],
            env=_environment(),
            stdin=subprocess.PIPE,
            pass_fds=(send,),
            start_new_session=True,  # so that Ctrl-C comes from here, once, and not from the terminal as well
            stdout=None if terminal else subprocess.PIPE,  # a terminal gets the live view
            stderr=None if terminal else subprocess.STDOUT,
        )
        os.close(send)
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._open = 0
        self._read(os.fdopen(receive, "rb"), lambda line: ("message", json.loads(line)))
        if self._process.stdout is not None:
            self._read(self._process.stdout, lambda line: ("text", line.decode(errors="replace")))
        request = json.dumps({"options": dict(options), "resumed": resumed})
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()

    def _read(self, stream: IO[bytes], event: Callable[[bytes], tuple[str, Any]]) -> None:
        def work() -> None:
            with stream:
                for line in stream:
                    self._events.put(event(line))
            self._events.put(("end", None))

        self._open += 1
        threading.Thread(target=work, name="search-output", daemon=True).start()

    def begin(self) -> Path:
        """The search's folder, once its record is there. Raises ConfigError if the search was refused."""
        folder = Path()
        with self._interrupted_with_caller():
            while self._open:
                kind, content = self._next()
                if kind == "message" and "error" in content:
                    self._process.wait()
                    raise ConfigError(content["error"])
                if kind == "message":
                    folder = Path(content["folder"])
                if folder.is_absolute() and (folder / "search.json").exists():
                    return folder
        raise RuntimeError(f"the search ended before it began (exit status {self._process.wait()})")

    def wait(self, refresh: Callable[[], object]) -> int:
        """The exit status, once the search has ended; meanwhile ``refresh`` is called about once a second."""
        with self._interrupted_with_caller():
            while self._open:
                kind, content = self._next()
                if kind == "message" and "error" in content:  # of a resume, found once its folder was known
                    self._process.wait()
                    raise ConfigError(content["error"])
                refresh()
            return self._process.wait()

    @contextlib.contextmanager
    def _interrupted_with_caller(self) -> Iterator[None]:
        """Whatever breaks off the block, Ctrl-C above all, ends the search in order first; again, it ends at once."""
        try:
            yield
        except BaseException:
            while self._process.poll() is None or self._open:
                with contextlib.suppress(KeyboardInterrupt):
                    self._process.send_signal(signal.SIGINT)
                    while self._open:
                        self._next()
                    self._process.wait()
            raise

    def _next(self) -> tuple[str, Any]:
        """Show what the search prints next, and return it or what it tells; nothing after a second."""
        try:
            kind, content = self._events.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return "", None
        if kind == "text":
            print(content, end="", flush=True)
        elif kind == "end":
            self._open -= 1
        return kind, content


def _environment() -> dict[str, str]:
    """The caller's, and our packages' folder on the import path where the caller itself has put it there."""
    by_hand = str(HOME) in sys.path and HOME.name not in ("site-packages", "dist-packages")
    paths = [str(HOME)] * by_hand + list(filter(None, [os.environ.get("PYTHONPATH")]))
    return os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def main(argv: Sequence[str]) -> int:
    """The search's side: read the request, search, and tell folder or error."""
    from tune_fairlora.execution import runner

    number = int(argv[0])
    os.set_inheritable(number, False)  # not for Ray's processes
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_caller, daemon=True).start()

    def tell(**message: str) -> None:
        os.write(number, json.dumps(message).encode() + b"\n")

    try:
        return runner.search(request["options"], request["resumed"], lambda folder: tell(folder=str(folder)))
    except ConfigError as error:
        tell(error=str(error))
        return 2
    except KeyboardInterrupt:
        return 130


def _end_with_caller() -> None:
    """Standard input ends when the caller does."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
