"""Where an epoch's time goes, by kind of work."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Seconds by kind of work. On a GPU work is only handed over, so its seconds fall on whatever waits for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """What is done inside counts as ``kind``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """The ``items``; the time that it takes to make them counts as ``kind``, what is done with them does not."""
        iterator = iter(items)
        while True:
            with self.on(kind):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds
