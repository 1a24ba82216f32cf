"""Time in a search: the budget of ``--time-budget``, and which trials have been silent for too long."""

import time
from collections import deque
from statistics import median

CLOSING_SECONDS = 15.0  # of a budget, for closing the record, MLflow and Ray
CLOSING_SHARE = 0.1  # of a budget, at most
SILENT_EPOCHS = 20  # a trial may be silent as long as so many of the longest epochs
SILENT_SECONDS = 600.0  # and never less than this


class TimeBudget:
    """``seconds`` (None: no limit) from ``started`` (a ``time.monotonic()``), closing included."""

    def __init__(self, seconds: float | None = None, started: float | None = None):
        started = self.started = time.monotonic() if started is None else started
        self.end = None if seconds is None else started + seconds - min(CLOSING_SECONDS, CLOSING_SHARE * seconds)
        self._epochs: deque[float] = deque(maxlen=50)  # seconds of the last epochs

    def learn(self, seconds: float) -> None:
        """An epoch took ``seconds``, now or before the search was resumed."""
        self._epochs.append(seconds)

    def spent(self, reserve: float = 0.0) -> float:
        """The share of the time that is over, but for ``reserve`` seconds at its end; 0 without a limit."""
        if self.end is None:
            return 0.0
        return (time.monotonic() - self.started) / max(1e-9, self.end - reserve - self.started)

    def is_over(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    def suffices(self, epochs: int, reserve: float = 0.0) -> bool:
        """Whether ``epochs`` more epochs of a new trial would end in time, but for ``reserve`` seconds, as far as the
        last ones tell."""
        if self.end is None:
            return True
        expected = epochs * median(self._epochs) if self._epochs else 0.0
        return time.monotonic() + expected + reserve < self.end


class HangDetector:
    """``timeout``: how many seconds a trial may be silent; None: ``SILENT_EPOCHS`` times the longest epoch seen."""

    def __init__(self, timeout: float | None = None):
        self.timeout = timeout
        self._longest = 0.0
        self._heard: dict[int, float] = {}  # when each running trial was last heard of

    def learn(self, seconds: float) -> None:
        """An epoch took ``seconds``, now or before the search was resumed."""
        self._longest = max(self._longest, seconds)

    def heard(self, number: int) -> None:
        self._heard[number] = time.monotonic()

    def forget(self, number: int) -> None:
        self._heard.pop(number, None)

    def limit(self) -> float | None:
        """Seconds that a trial may be silent; None until an epoch has been seen."""
        if self.timeout is not None:
            return self.timeout
        return max(SILENT_SECONDS, SILENT_EPOCHS * self._longest) if self._longest else None

    def silent(self) -> list[int]:
        limit = self.limit()
        if limit is None:
            return []
        return [number for number, heard in self._heard.items() if time.monotonic() - heard > limit]
