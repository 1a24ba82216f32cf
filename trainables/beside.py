"""One piece of work at a time in a thread of its own, beside what its caller does meanwhile."""

import threading
from collections.abc import Callable


class Beside:
    """Checkpoints are written this way: training goes on while the disk is at work. An error shows in the next call."""

    def __init__(self):
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], object]) -> None:
        """Start ``work`` once the one before it is done; raises what that one raised."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=[work], name="beside", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Return when nothing is at work any more; raises what the last work raised, once."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error
