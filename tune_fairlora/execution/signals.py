"""What a search does with the process that it runs in: its signals, and where the output of libraries goes."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

FILE_WIDTH = 100  # columns of output that goes to no terminal: the front's table fits


class Signals:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and the first is remembered.

    The exception itself cannot carry the signal: Ray's compiled code replaces it by a new one. Once there is a record,
    a signal waits (``hold``) until the search is between two events (``check``): raised anywhere, it could part an
    event in the log from what has to follow it. A second signal does not wait: it is raised at once.
    """

    def __init__(self) -> None:
        self.exit_status = 128 + signal.SIGINT  # as shells have it
        self._held = self._pending = False

    def __enter__(self) -> "Signals":
        self._before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def install(self) -> None:
        """Put the handlers in place, once more after Ray's start, which puts its own there."""
        for each in self._before:
            signal.signal(each, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._pending:
            self.exit_status, self._pending = 128 + number, True
            if self._held:
                return
        self.check()

    def hold(self) -> None:
        """Let signals wait for ``check``."""
        self._held = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self._pending:
            self.ignore()
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Let signals do nothing from here on."""
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)


class _LibraryOutput(io.TextIOBase):
    """Writes to standard error as long as that works: it may lead to a file on a full disk, and a search must not end
    because Ray could not print something."""

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
    """Send what libraries and their processes print to ``path``; the console that is yielded writes where stdout
    was."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptors, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = sys.stderr = _LibraryOutput()
    try:
        out = os.fdopen(os.dup(descriptors[0]), "w", encoding="utf-8", errors="replace")
        yield Console(file=out, highlight=False, width=None if out.isatty() else FILE_WIDTH)
    finally:
        with contextlib.suppress(OSError):  # a reader that has gone away
            out.close()
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.flush()
        for number, descriptor in zip((1, 2), descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
