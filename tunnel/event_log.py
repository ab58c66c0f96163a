"""The latest events of a connection, and those who want to know of them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from loguru import logger

from tunnel.events import ConnectionEvent

STREAM_LIMIT = 1000
"""How many unread events a stream holds before it lets go of the oldest."""


class EventStream(Iterator[ConnectionEvent]):
    """The events from now on, to be iterated over in a thread of one's own.

    ``next()`` waits for an event; after `close` it hands out what had arrived and then ends. Also a
    context manager that closes itself. A stream that is not read keeps the latest `STREAM_LIMIT`
    events and counts in `missed` those it had to let go. Safe to use from any thread; several
    threads that iterate over one stream share its events.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._condition = threading.Condition(self._lock)
        self._unread: deque[ConnectionEvent] = deque(maxlen=STREAM_LIMIT)
        self._closed = False
        self._missed = 0

    @property
    def missed(self) -> int:
        """How many events were let go because nobody read them in time."""
        with self._lock:
            return self._missed

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        with self._lock:
            return self._closed

    def close(self) -> None:
        """Take no more events, and wake whoever waits for one. Closing twice does no harm."""
        with self._lock:
            self._closed = True
            self._condition.notify_all()

    def __next__(self) -> ConnectionEvent:
        with self._lock:
            while not self._unread:
                if self._closed:
                    raise StopIteration
                self._condition.wait()
            return self._unread.popleft()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _feed(self, event: ConnectionEvent) -> bool:
        """Append an event. Returns whether the stream wants more."""
        with self._lock:
            if self._closed:
                return False
            if len(self._unread) == STREAM_LIMIT:
                self._missed += 1
            self._unread.append(event)
            self._condition.notify()
            return True


_Callback = Callable[[ConnectionEvent], object]


class EventLog:
    """The latest events of one connection, and those who listen to them. Safe from any thread.

    Recording and telling are two steps, so that nobody is called while the owner of the log holds
    a lock: `record` puts an event down (and into the streams), `deliver` calls the subscribers.
    Each subscriber gets every event in the order in which they were recorded, one at a time, by
    whichever thread delivers; one that comes while another delivers leaves its events to that.

    Args:
        max_history: How many events are kept; the oldest are dropped first.
        events: What is in the history from the start.
    """

    def __init__(self, max_history: int, events: Iterable[ConnectionEvent] = ()) -> None:
        self._lock = threading.Lock()  # guards all below
        self._max_history = max_history
        # A list, which takes what it holds, until it is full; a deque, 0.7 KiB at least, after.
        self._history: list[ConnectionEvent] | deque[ConnectionEvent]
        self._history = list(deque(events, maxlen=max_history))
        self._subscribers: dict[int, _Callback] = {}  # never changed, only replaced
        self._subscriptions = 0
        self._streams: list[weakref.ref[EventStream]] = []
        self._untold: list[tuple[ConnectionEvent, dict[int, _Callback]]] = []
        self._delivering = False

    @property
    def events(self) -> tuple[ConnectionEvent, ...]:
        """What is kept, oldest first."""
        with self._lock:
            return tuple(self._history)

    @property
    def max_history(self) -> int:
        """How many events are kept."""
        return self._max_history

    def subscribe(self, callback: _Callback) -> Callable[[], None]:
        """Have `callback` called with every event that is recorded from now on.

        It is called without any lock held, in the thread that records or in one that is delivering
        already. What it raises is logged and keeps nobody else from being called.

        Returns:
            A function that ends the subscription. A call that has begun is not waited for.
        """
        with self._lock:
            self._subscriptions += 1
            token = self._subscriptions
            self._subscribers = {**self._subscribers, token: callback}

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = {k: v for k, v in self._subscribers.items() if k != token}

        return unsubscribe

    def stream(self) -> EventStream:
        """Return a stream of the events from now on. One that nobody holds any more is dropped."""
        stream = EventStream()
        with self._lock:
            self._streams.append(weakref.ref(stream))
        return stream

    def record(self, event: ConnectionEvent) -> None:
        """Append an event to the history and to the streams; `deliver` tells the subscribers."""
        with self._lock:
            history = self._history
            if len(history) >= self._max_history and isinstance(history, list):
                history = self._history = deque(history, maxlen=self._max_history)
            history.append(event)
            if self._streams:
                self._streams = [ref for ref in self._streams if _feed(ref, event)]
            if self._subscribers:
                self._untold.append((event, self._subscribers))

    def deliver(self) -> None:
        """Tell the subscribers what they were not told yet. To be called without any lock held."""
        while True:
            is_mine = False
            try:
                with self._lock:
                    if self._delivering or not self._untold:
                        return
                    self._delivering = is_mine = True
                    event, subscribers = self._untold.pop(0)
                for token, callback in subscribers.items():
                    if token in self._subscribers:
                        _call(callback, event)
            finally:  # also if Ctrl-C comes on the way out of the lock
                if is_mine:
                    with self._lock:
                        self._delivering = False


def _feed(reference: weakref.ref[EventStream], event: ConnectionEvent) -> bool:
    stream = reference()
    return stream is not None and stream._feed(event)


def _call(callback: _Callback, event: ConnectionEvent) -> None:
    try:
        callback(event)
    except Exception:
        logger.exception("a subscriber failed at the event {}", event.type.value)
