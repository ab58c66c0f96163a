"""The parts of one tunnel, made and connected to each other.

Parts do not know each other more than they must; what one has to tell another comes through here.
Nothing here is on the way of a plain message.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from loguru import logger

from tunnel.callback_lane import CallbackLane, LaneDelivery
from tunnel.circuit_breaker import CircuitBreaker
from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.delivery import CallbackDelivery, Delivery, Inbox
from tunnel.driver import Driver
from tunnel.errors import SessionLostError
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.pending_requests import PendingRequests
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.requests import CallbackFailed
from tunnel.sender import Sender
from tunnel.session_frames import Parcel
from tunnel.transport import Transport
from tunnel.waker import Waker

_T = TypeVar("_T")


class Parts:
    """The parts of one tunnel.

    Args:
        config: The settings to begin with.
        queue: Where messages wait while there is no link.
        on_message: Called with each message; None: they go to the inbox.
        on_connected: Called on each new link with whether a session was resumed; or None.
        on_session_lost: Called with what was lost; or None.
        clock: The source of time.
        rng: The source of jitter; None: the system's.
        new_transport: Makes the transport of each dial.

    Attributes:
        metrics: Counts what happens.
        requests: Those that the peer has not answered.
        inbox: Where `messages()` finds what came; None: there is `on_message`.
        delivery: The inbox, or what calls `on_message`.
        driver: The work of the tunnel's thread.
        sender: The way of messages out.
    """

    __slots__ = (
        "_lane",
        "_on_session_lost",
        "_queue",
        "_waker",
        "delivery",
        "driver",
        "inbox",
        "metrics",
        "requests",
        "sender",
    )

    def __init__(
        self,
        config: TunnelConfig,
        *,
        queue: RequestQueue,
        on_message: Callable[[Message], object] | None,
        on_connected: Callable[[bool], object] | None,
        on_session_lost: Callable[[SessionLostError], object] | None,
        clock: Clock,
        rng: Random | None,
        new_transport: Callable[[Waker], Transport],
    ) -> None:
        log_context = LogContext()
        self._queue = queue
        self._on_session_lost = on_session_lost
        self._waker = Waker()
        self._lane = CallbackLane(log_context.renew)
        self.metrics = MetricsCollector(clock=clock)
        self.requests = PendingRequests(
            clock=clock,
            metrics=self.metrics,
            breaker=CircuitBreaker(clock=clock, log_context=log_context),
            post=self._post_parcel,
            discard=queue.discard,
            cancel=self._cancel_request,
            default_timeout=lambda: self.driver.config.request_timeout,
            log_context=log_context,
        )
        self.delivery, self.inbox = self._make_delivery(on_message, config.receive_high_water)
        self.driver = Driver(
            config,
            queue=queue,
            delivery=self.delivery,
            lane=self._lane,
            metrics=self.metrics,
            clock=clock,
            rng=rng,
            new_transport=new_transport,
            waker=self._waker,
            on_connected=on_connected,
            on_session_lost=self._lose_session,
            on_answer=self.guarded(self.requests.answered),
            on_start=self._start,
            on_rest=self._rest,
            log_context=log_context,
        )
        self.sender = Sender(self.driver, queue, clock)
        queue.bind(self.sender.check, self._signal_soon)

    def _make_delivery(
        self, on_message: Callable[[Message], object] | None, high_water: int
    ) -> tuple[Delivery, Inbox | None]:
        if on_message is None:
            inbox = Inbox(high_water, self._waker.wake)
            return inbox, inbox
        callbacks = CallbackDelivery(on_message)
        return LaneDelivery(callbacks, self._lane, high_water, self._waker.wake), None

    def guarded(self, callback: Callable[[_T], object]) -> Callable[[_T], None]:
        """The same for the midst of something: what ends a thread waits until that is done.

        In another thread than the tunnel's it is for whoever has called.
        """

        def call(argument: _T) -> None:
            try:
                callback(argument)
            except Exception:
                raise
            except BaseException as error:
                if not self.driver.worker.is_own_thread:
                    raise
                self.driver.post(CallbackFailed(error))

        return call

    def _lose_session(self, error: SessionLostError) -> None:
        self.guarded(self.requests.fail_all)(error)
        on_session_lost = self._on_session_lost
        if on_session_lost is None:
            return

        def tell() -> None:
            try:
                on_session_lost(error)
            except Exception:
                logger.exception("on_session_lost raised; its messages count as reported")

        self._lane.add(tell)

    def _post_parcel(
        self, parcel: Parcel, priority: RequestPriority, timeout: float | None
    ) -> None:
        self.sender.send_parcel(parcel, priority, timeout)

    def _cancel_request(self, parcel: Parcel) -> None:
        """Tell the peer that an answer is not wanted; at once, or on the next link."""
        link = self.driver.link
        if self.driver.channel.cancel(parcel) and link is not None:
            link.writer.nudge()

    def _signal_soon(self) -> None:
        """The queue has something to tell its subscribers: a callback as any other."""
        self._lane.add(self._queue.deliver_signals)
        self._waker.wake()

    def _start(self) -> None:
        if self.inbox is not None:
            self.inbox.open()

    def _rest(self) -> None:
        if self.inbox is not None:
            self.inbox.close()
