"""What MLflow has not taken yet waits in the search's own log; ``mlflow.json`` says how far the log has been sent."""

import contextlib
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.config import ConfigError
from trainables.files import first_line, replace_atomically
from tune_fairlora.record.event_log import Record, read_events
from tune_fairlora.record.state import Event, State
from tune_fairlora.tracking.client import is_down
from tune_fairlora.tracking.tracking_uri import without_password

POSITION_FORMAT = 1
POSITION_FILE = "mlflow.json"
SAVE_SECONDS = 1.0  # between two writings of it; what lies between them is sent once more after a crash, without harm
LONGEST_PAUSE = 60.0  # between two attempts at a server that does not answer
LAST_ATTEMPTS = 2  # at such a server once the search is at its end
CLOSE_SECONDS = 60

Message = Callable[[], object]  # a call that sends something to MLflow

log = logging.getLogger(__name__)


@dataclass
class Position:
    """The first ``sent`` events are in ``experiment`` of the store ``uri``, which came into play at event ``since``.

    So run ids that the log holds from ``since`` on are this store's, and those before it may be another's.
    """

    uri: str
    experiment: str
    since: int
    sent: int
    format: int = POSITION_FORMAT


def read_position(folder: Path) -> Position | None:
    """Returns None if nothing was ever sent. Raises ConfigError if ``mlflow.json`` is damaged or foreign."""
    path = folder / POSITION_FILE
    if not path.exists():
        return None
    try:
        position = Position(**json.loads(path.read_bytes()))
        texts = isinstance(position.uri, str) and isinstance(position.experiment, str)
        counts = type(position.since) is type(position.sent) is int and min(position.since, position.sent) >= 0
    except (ValueError, TypeError, OSError):
        texts = counts = False
    if not (texts and counts and position.format == POSITION_FORMAT):
        raise ConfigError(f"{path} must be what the search wrote: delete it to send everything to MLflow again")
    return position


class Outbox(ABC):
    """Hands each event of ``record`` in order to a thread, which folds it into ``state`` and sends what it becomes.

    Build it before the record's first event is added, or after a record was opened again. A subclass says how to
    connect and which messages an event becomes. Where nobody answers, a message is sent again until it is taken, so
    sending it twice must do no harm. Any other error costs that message.
    """

    def __init__(self, uri: str, experiment: str, record: Record, retry_seconds: float = 5.0) -> None:
        self.uri, self.experiment, self.record, self.retry_seconds = uri, experiment, record, retry_seconds
        self.errors = 0
        self.silent = False  # whether nobody answers
        self.state = State()  # as it was when the event that is being sent came
        self._untried = False  # whether nobody can have tried to send that event before
        self._wake = threading.Condition()
        self._saving = threading.Lock()
        self._closing = self._stopped = False
        self._hurried = False  # what costs most is left out at a close that has little time
        self._last_failures = 0  # since the search is at its end
        with record.lock:  # no event may come between what is read here and what is fed
            events = read_events(record.folder)
            position, public = read_position(record.folder), without_password(uri)
            if position is None or (position.uri, position.experiment) != (public, experiment):
                position = Position(public, experiment, since=len(events), sent=0)  # another store has none of them
            # A crash of the machine may have cost the log its end.
            position.since, position.sent = min(position.since, len(events)), min(position.sent, len(events))
            self._position = position
            self._queue: deque[Event] = deque(events[self._position.sent :])
            record.listener = self._feed
        self._old = len(self._queue)  # of the events that wait: those of an earlier process
        for entry in events[: self._position.sent]:
            self.state.apply(entry)
        self._saved, self._dirty = 0.0, True
        self._save()
        earlier = events[self._position.since :]
        self._thread = threading.Thread(target=self._work, args=(earlier,), name="mlflow", daemon=True)
        self._thread.start()

    @abstractmethod
    def _connect(self, earlier: list[Event]) -> None:
        """Connect to the store, and take up what an earlier process wrote into the log about it."""

    @abstractmethod
    def _messages(self, entry: Event) -> Iterator[Message]:
        """What ``entry`` becomes; folds it into the state first."""

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def _feed(self, entry: Event) -> None:
        with self._wake:
            self._queue.append(entry)
            self._wake.notify_all()

    def close(self, seconds: float | None = CLOSE_SECONDS) -> int:
        """Wait until everything is sent, nobody answers or the time is over (None: never); how many events wait."""
        with self._wake:
            self._closing, self._hurried = True, seconds is not None and seconds < CLOSE_SECONDS
            self._wake.notify_all()
        try:
            self._thread.join(seconds)
        finally:
            self._stopped = True
            self._save()
        return self.waiting

    def _work(self, earlier: list[Event]) -> None:
        try:
            if not self._deliver(lambda: self._connect(earlier)) or self.errors:
                return  # who cannot even connect must not skip the events
            while (entry := self._next()) is not None:
                self._untried = self._old == 0
                if not all(self._deliver(message) for message in self._messages(entry)):
                    break
                with self._saving:
                    self._queue.popleft()
                    self._position.sent += 1
                    self._dirty = True
                self._old = max(0, self._old - 1)
                self._save_at_times()
        except Exception:  # a mistake of ours: the search goes on, and the events wait
            self.errors += 1
            log.exception("MLflow's thread broke off")

    def _next(self) -> Event | None:
        """The event whose turn it is, or None at the end."""
        while not self._queue and not self._closing:
            self._save_at_times()  # without the lock, on which the search would wait
            with self._wake:
                if not self._queue and not self._closing:
                    self._wake.wait(SAVE_SECONDS if self._dirty else None)
        return self._queue[0] if self._queue else None

    def _deliver(self, message: Message) -> bool:
        """Send ``message`` until it is taken or refused; False where that has to be left to a later process."""
        pause = self.retry_seconds
        while not self._stopped:
            try:
                message()
            except Exception as error:  # whatever the server or the network does, the search goes on
                if not is_down(error):
                    self.errors += 1
                    log.exception("MLflow refused a message; it is left out")
                    return True
                if not self.silent:
                    folder, reason = self.record.folder, first_line(error)
                    log.warning("MLflow at %s does not answer, so events wait in %s: %s", self.uri, folder, reason)
                self.silent = True
            else:
                if self.silent:
                    log.warning("MLflow at %s answers again", self.uri)
                self.silent, self._last_failures = False, 0
                return True
            self._untried = False  # the attempt may have done its work all the same
            if not self._pause(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        return False

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; False if there is to be none."""
        with self._wake:
            if not self._closing:
                self._wake.wait_for(lambda: self._closing, seconds)
                return True
            self._last_failures += 1
            if self._last_failures < LAST_ATTEMPTS:
                self._wake.wait_for(lambda: self._stopped, min(seconds, 1.0))
            return self._last_failures < LAST_ATTEMPTS

    def _save_at_times(self) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS and not self._stopped:
            self._save()

    def _save(self) -> None:
        """A disk that is full costs nothing but repeats after a crash."""
        with self._saving, contextlib.suppress(OSError):
            if self._dirty:
                text = json.dumps(asdict(self._position))
                replace_atomically(self.record.folder / POSITION_FILE, lambda path: path.write_text(text))
                self._saved, self._dirty = time.monotonic(), False
