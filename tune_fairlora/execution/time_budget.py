"""Time in a search: the budget of ``--time-budget``, and which trials have been silent for too long."""

import time
from collections import deque
from statistics import median

CLOSING_SECONDS = 15.0  # for the record, MLflow and Ray to be closed in
CLOSING_SHARE = 0.1  # of a budget, at most
SILENT_EPOCHS = 20  # as long as these many of the longest epochs, a trial may be silent
SILENT_SECONDS = 600.0  # and never less than this


class Clock:
    """``budget`` seconds (None: no limit) from ``started`` (a ``time.monotonic()``), closing included; ``timeout``: how
    long a trial may be silent, in seconds; None: ``SILENT_EPOCHS`` times the longest epoch that was seen."""

    def __init__(self, budget: float | None = None, timeout: float | None = None, started: float | None = None):
        self.timeout = timeout
        started = time.monotonic() if started is None else started
        self.end = None if budget is None else started + budget - min(CLOSING_SECONDS, CLOSING_SHARE * budget)
        self._epochs: deque[float] = deque(maxlen=50)  # seconds of the last epochs
        self._longest = 0.0
        self._heard: dict[int, float] = {}  # when each running trial was last heard of

    def is_over(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    def suffices(self, epochs: int) -> bool:
        """Whether ``epochs`` more epochs of a new trial would end in time, as far as the last ones tell."""
        if self.end is None:
            return True
        expected = epochs * median(self._epochs) if self._epochs else 0.0
        return time.monotonic() + expected < self.end

    def started(self, number: int) -> None:
        self._heard[number] = time.monotonic()

    def saw(self, number: int, seconds: float) -> None:
        """An epoch of trial ``number`` was reported, which took ``seconds``."""
        self._heard[number] = time.monotonic()
        self.learn(seconds)

    def learn(self, seconds: float) -> None:
        """How long an epoch took, now or before the search was resumed."""
        self._epochs.append(seconds)
        self._longest = max(self._longest, seconds)

    def forget(self, number: int) -> None:
        self._heard.pop(number, None)

    def limit(self) -> float | None:
        """Seconds that a trial may be silent; None while nothing is known."""
        if self.timeout is not None:
            return self.timeout
        return max(SILENT_SECONDS, SILENT_EPOCHS * self._longest) if self._longest else None

    def silent(self) -> list[int]:
        """The trials that have been silent for too long."""
        limit = self.limit()
        if limit is None:
            return []
        return [number for number, heard in self._heard.items() if time.monotonic() - heard > limit]
