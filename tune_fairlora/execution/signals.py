"""What a search does with the process that it runs in: its signals, and where the chatter of libraries goes."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

WIDTH = 100  # of what is no terminal: the front's table fits


class Signals:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and the first is remembered.

    The exception itself cannot carry the signal: Ray's compiled code replaces it by a new one. Once there is a record,
    a signal waits (``hold``) until the search is between two events (``check``): raised anywhere, it could part an
    event in the log from what has to follow it. Who signals again does not want to wait: then it is raised at once.
    """

    def __init__(self):
        self.exit_status = 128 + signal.SIGINT  # as shells have it
        self._held = self._pending = False

    def __enter__(self) -> "Signals":
        self._before = self.install()
        return self

    def install(self) -> dict:
        """Put its handlers in place, where Ray's start has put its own; returns those that were there."""
        return {each: signal.signal(each, self._interrupt) for each in (signal.SIGINT, signal.SIGTERM)}

    def _interrupt(self, number: int, frame) -> None:
        if self._pending:
            self._raise()
        self.exit_status, self._pending = 128 + number, True
        if not self._held:
            self._raise()

    def _raise(self) -> None:
        self.ignore()
        raise KeyboardInterrupt

    def hold(self) -> None:
        """Let signals wait for ``check``."""
        self._held = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come since ``hold``."""
        if self._pending:
            self._raise()

    def ignore(self) -> None:
        """From here on a signal does nothing."""
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)

    def __exit__(self, *error) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)


class _LibraryOutput(io.TextIOBase):
    """Writes to standard error as long as that takes it: where it leads to a file on a full disk, a search must not end
    for what Ray would have liked to say."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def redirect_output(path: Path) -> Iterator[Console]:
    """What libraries and their processes print goes to ``path``; the console given writes where stdout was."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = _LibraryOutput()
    try:
        out = os.fdopen(os.dup(kept[0]), "w", encoding="utf-8", errors="replace")
        yield Console(file=out, highlight=False, width=None if out.isatty() else WIDTH)
    finally:
        with contextlib.suppress(OSError):  # a reader that has gone away
            out.close()
        sys.stdout, sys.stderr = before
        for stream in before:
            with contextlib.suppress(OSError):
                stream.flush()
        for fd, old in zip((1, 2), kept):
            os.dup2(old, fd)
            os.close(old)
        os.close(log)
