"""One live connection in use: reading, answering, closing, and noticing its end.

A `Link` lives from the end of the upgrade to the end of the connection; a tunnel has many, one
after the other. Its reading thread is the tunnel's. `run` reads and delivers until there is a
reason to stop: somebody woke the thread, the time was up, or the link has ended, and then why.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from tunnel.acknowledger import Acknowledger
from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.delivery import Delivery
from tunnel.errors import (
    ConnectionLostError,
    HeartbeatTimeoutError,
    MessageTooBigError,
    ProtocolError,
    TunnelError,
    error_for_close,
)
from tunnel.frames import (
    Close,
    FrameDecoder,
    FrameEncoder,
    Incoming,
    Ping,
    Pong,
    ProtocolViolation,
)
from tunnel.interruptible import Event
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message, Outbox
from tunnel.request_queue import RequestQueue
from tunnel.secrets import scrub
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import ASK_FRAME
from tunnel.session_handshake import SessionHandshake
from tunnel.timers import TimerHandle, timers_of
from tunnel.transport import Transport
from tunnel.turnstile import give
from tunnel.waker import Waker
from tunnel.websocket_heartbeat import TEXT_PING, TEXT_PONG, WebSocketHeartbeat
from tunnel.writer import Writer

# Also inside a large frame: what a larger read saves in calls costs more in memory that the system
# takes back after each message, and gives again page by page.
_READ_SIZE = 64 * 1024
_HEADER = 2  # bytes before the payload of a short frame that a server sends
_CHALLENGE = 2.0  # seconds for a sign of life after the network has changed (requirement 1.8)
_LINGER = 1.0  # seconds that the peer gets to close the connection once we have nothing more to say


class LinkEnd(NamedTuple):
    """Why a link has ended.

    Attributes:
        error: What went wrong; None if we closed it ourselves and the peer agreed.
        clean: Both close frames were exchanged (RFC 6455, section 7.1.4).
    """

    error: TunnelError | None
    clean: bool


class Probe:
    """A ping that somebody waits for.

    Args:
        sent_at: When it goes out, on the clock's `monotonic()`.

    Attributes:
        sent_at: The same.
        done: Set when the answer is there, or will never be.
        answered: Whether it is there.
    """

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.done: threading.Event = Event()
        self.answered = False

    def finish(self, answered: bool) -> None:
        """Tell whoever waits."""
        self.answered = answered
        self.done.set()


class Link:
    """One connection and everything that belongs to it alone.

    `run`, `open_queue`, `close` and `dispose` are for the tunnel's thread; the rest for any.

    Args:
        transport: Opened.
        queue: Where messages wait that cannot be written at once.
        delivery: Where messages go that were read.
        config: Limits and intervals.
        metrics: Counts what passes.
        clock: The source of time.
        waker: The tunnel's.
        on_activity: Called for each chunk that was read.
        channel: Numbers and keeps messages, with a peer that can resume; None: a plain peer.
        handshake: Has opened the session; None with a plain peer.
        log_context: What the heartbeat's log lines carry; None: nothing.

    Attributes:
        writer: Writes on this connection.
        heartbeat: Watches it; None if heartbeats are off.
    """

    __slots__ = (
        "_acknowledger",
        "_backlog",
        "_challenges",
        "_channel",
        "_clock",
        "_close_sent",
        "_decoder",
        "_delivery",
        "_disposed",
        "_encoder",
        "_end",
        "_end_in_sight",
        "_fatal_close_codes",
        "_is_paused",
        "_last_word",
        "_linger_until",
        "_lost_pings",
        "_max_message_size",
        "_metrics",
        "_on_activity",
        "_probes",
        "_session",
        "_suspected",
        "_text_mode",
        "_transport",
        "_undelivered",
        "_waker",
        "_write_error",
        "heartbeat",
        "writer",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        queue: RequestQueue,
        delivery: Delivery,
        config: TunnelConfig,
        metrics: MetricsCollector,
        clock: Clock,
        waker: Waker,
        on_activity: Callable[[], None],
        channel: SessionChannel | None = None,
        handshake: SessionHandshake | None = None,
        log_context: LogContext | None = None,
    ) -> None:
        self._transport = transport
        self._delivery = delivery
        self._metrics = metrics
        self._clock = clock
        self._waker = waker
        self._on_activity = on_activity
        self._text_mode = config.ping_mode == "text"
        self._fatal_close_codes = config.fatal_close_codes
        self._max_message_size = config.max_message_size
        self._encoder = FrameEncoder()
        self._channel = channel
        self._session = None if channel is None else channel.session
        self._acknowledger: Acknowledger | None = None
        self._backlog: Sequence[Incoming] = ()  # came with the handshake, and is not looked at
        if channel is None or handshake is None:
            self._decoder = FrameDecoder(
                max_message_size=config.max_message_size, max_fragments=config.max_fragments
            )
        else:
            self._decoder, self._backlog = handshake.decoder, handshake.backlog
            self._acknowledger = Acknowledger(channel, delivery, self._write_own, clock)
        self.writer = self._make_writer(queue)
        self._close_sent = False
        # What to do about the peer's close frame, or its mistake, once callbacks have had what came
        # before: what they answer goes out before our close frame.
        self._last_word: Callable[[], None] | None = None
        self._end: LinkEnd | None = None  # decided; the peer is only given time to hang up first
        self._linger_until = 0.0
        self._write_error: Exception | None = None
        self._is_paused = False
        self._end_in_sight = False  # the stream's end is there, behind bytes that are unread
        self._suspected = False  # the heartbeat has heard nothing for too long
        self._lost_pings = 0  # as far as they were counted
        self._undelivered = 0  # bytes read of messages since some were last delivered
        self._challenges: list[tuple[Probe, TimerHandle]] = []
        self._probes: dict[bytes, Probe] = {}
        self._disposed = False  # set before the probes are looked through
        self.heartbeat = self._start_heartbeat(config, log_context)

    def _make_writer(self, queue: RequestQueue) -> Writer:
        channel, sent = self._channel, self._metrics.record_messages_sent
        return Writer(
            self._transport,
            Outbox(
                queue if channel is None else channel,
                self._encoder,
                sent if channel is None else channel.note_written,
            ),
            self._encoder,
            on_stalled=self._waker.wake,
            on_failed=self._note_write_error,
            on_sent=sent if channel is None else channel.note_written,
            number=None if channel is None else channel.send_directly,
            is_direct=not queue.is_durable,  # what is accepted has to be on disk first
            clock=self._clock,
        )

    # For the tunnel's thread

    def open_queue(self) -> None:
        """The greeting is out: now what is queued may follow."""
        if self._channel is not None:
            self._delivery.deliver([], 0)  # what a callback has kept an earlier link from
        self.writer.open()
        self.writer.flush(may_wait=False)

    def run(self, deadline: float | None = None) -> LinkEnd | None:
        """Read, deliver and answer.

        Args:
            deadline: When to return at the latest, on the clock's `monotonic()`; None: no limit.

        Returns:
            Why the link has ended; None if it has not: the thread was woken, callbacks are waiting
            for it, or the time is up.
        """
        give()  # what is read may be for callbacks
        if self._acknowledger is not None:
            self._acknowledger.look()  # a consumer has woken us, perhaps
        while not self._waker.event.is_set():
            if self._backlog:
                self._take_backlog()
                if self._delivery.has_callbacks:
                    return None
            if self._last_word is not None:
                self._last_word()
                self._last_word = None
            if self._suspected and (end := self._judge_silence()) is not None:
                return end
            if not self._may_read():
                if not self._wait(read=False, deadline=deadline):
                    return self._time_up()
                continue
            try:
                chunk = self._transport.receive(_READ_SIZE)
            except OSError as error:
                return self._broken(error)
            if chunk:
                self._take(chunk)
                del chunk  # an idle tunnel must not hold on to the last thing that it has read
                if self._is_time_up(deadline):  # a peer that floods us never lets us wait
                    return self._time_up()
                if self._delivery.has_callbacks:
                    return None
            elif chunk is not None:
                return self._broken(None)
            elif not self._wait(read=True, deadline=deadline):
                return self._time_up()
        return None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake (RFC 6455, section 7.1.2); `run` returns its end."""
        if not self._close_sent:
            self._close_sent = True
            self.writer.write_control(self._encoder.close(code, reason))

    def dispose(self) -> None:
        """The link is over: stop the watch, close the socket, give what is unsent to the queue."""
        self._disposed = True
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self._acknowledger is not None:
            self._acknowledger.stop()
        for _, timer in self._challenges:
            timer.cancel()
        self._transport.abort()
        try:
            self.writer.stop()  # may fail if the application has closed its queue
        finally:
            self._transport.close()
            for probe in tuple(self._probes.values()):
                probe.finish(False)

    def challenge(self) -> None:
        """Ask for a sign of life within a moment, not within a whole pong time-out."""
        probe = self.probe()
        if self.heartbeat is not None:
            when = self._clock.monotonic() + _CHALLENGE
            timer = timers_of(self._clock).call_at(when, self._suspect)
            self._challenges.append((probe, timer))

    # For any thread

    def abort(self) -> None:
        """End the connection at once; the reading thread notices."""
        self._transport.abort()

    def ping(self, payload: bytes) -> None:
        """Send a ping frame (RFC 6455, section 5.5.2). Never waits."""
        self.writer.write_control(self._encoder.ping(payload))

    def send(self, data: Message) -> None:
        """Send a message that belongs to this link alone, such as a heartbeat. Never waits."""
        self._write_own(data)

    def send_first(self, data: Message) -> None:
        """Send a message of the application before the queue. Never waits.

        With a plain peer it belongs to this link alone; a session keeps it as any other, also when
        the link is over. With another session there is another greeting: then it is dropped.
        """
        if self._channel is not None:
            self._channel.send_first(data, self._session)
        else:
            self._write_own(data)

    def ask(self) -> None:
        """Have the peer of a session acknowledge at once. Never waits."""
        if self._channel is not None:
            self._write_own(ASK_FRAME)

    def end_session(self, frame: bytes) -> None:
        """Tell the peer that its session is over, and before that all that was taken.

        Never waits. For the tunnel's thread.
        """
        assert self._acknowledger is not None
        self._acknowledger.tell()
        self._write_own(frame)

    def _write_own(self, data: Message) -> None:
        self.writer.write_own(self._encoder.message(data))

    def probe(self) -> Probe:
        """Send a ping whose answer finishes the probe."""
        payload, probe = os.urandom(8), Probe(self._clock.monotonic())
        self._probes[payload] = probe
        if self._disposed:
            probe.finish(False)
        if self._text_mode:
            self._write_own(TEXT_PING)
        else:
            self.ping(payload)
        return probe

    # Reading

    def _take(self, chunk: bytes) -> None:
        if self.heartbeat is not None:
            self.heartbeat.on_data()
        self._on_activity()
        self._undelivered += len(chunk)
        decoder = self._decoder
        received = decoder.feed(chunk)
        if received:
            if decoder.saw_control or self._text_mode:
                self._sort(received)
            else:
                self._deliver(cast("list[Message]", received))
        self._finish_chunk()

    def _take_backlog(self) -> None:
        received = list(self._backlog)
        self._backlog = ()
        self._sort(received)
        self._finish_chunk()

    def _finish_chunk(self) -> None:
        """Whatever was read, see what is to be done about it."""
        decoder = self._decoder
        if decoder.violation is not None and self._end is None:
            self._last_word = functools.partial(self._refuse, decoder.violation)
        if self.writer.is_stalled:
            self.writer.flush(may_wait=False)

    def _deliver(self, messages: list[Message]) -> None:
        if self._channel is None:
            self._hand_over(messages)
            return
        assert self._acknowledger is not None
        messages = self._channel.receive(messages)
        if messages:
            self._acknowledger.expect()  # callbacks may take long
            self._hand_over(messages)
        self._judge_session()

    def _judge_session(self) -> None:
        """Acknowledge; and see whether the peer has ended the session, or broken its protocol."""
        assert self._channel is not None
        assert self._acknowledger is not None
        if not self._delivery.has_callbacks:  # else it is time when those are done
            self._acknowledger.look()
        session = self._channel.session
        if session is None or self._end is not None:
            return
        if session.violation is not None:
            self._refuse(ProtocolViolation(1002, str(session.violation)))
        elif session.ended_by_peer is not None and not self._channel.is_ended:  # by us, first
            self.close(1000)
            reason = scrub(session.ended_by_peer)
            error = ConnectionLostError(f"the peer ended the session: {reason or 'no reason'}")
            self._finish(LinkEnd(error, clean=False))

    def _hand_over(self, messages: list[Message]) -> None:
        self._metrics.record_messages_received(len(messages))
        # All bytes of messages count once: with those that are finished next.
        size, self._undelivered = max(0, self._undelivered), 0
        self._delivery.deliver(messages, size)

    def _sort(self, received: list[Incoming]) -> None:
        """Deliver messages, and obey control frames.

        Pings are answered first: RFC 6455, section 5.5.2, wants that soon, and puts them into no
        order with messages. Behind a close frame nothing comes.
        """
        messages: list[Message] = []
        close: Close | None = None
        for item in received:
            if isinstance(item, (str, bytes)):
                if self._text_mode and self._is_text_beat(item):
                    self._undelivered -= _HEADER + len(item)
                else:
                    messages.append(item)
            elif isinstance(item, Close):
                close = item
            else:
                self._obey(item)
        if messages:
            self._deliver(messages)
        if close is not None:
            self._last_word = functools.partial(self._closed_by_peer, close)

    def _is_text_beat(self, message: Message) -> bool:
        if message == TEXT_PONG:
            self._note_pong(None)
        elif message == TEXT_PING:
            self.writer.write_beat(self._encoder.message(TEXT_PONG))
        else:
            return False
        return True

    def _obey(self, frame: Ping | Pong) -> None:
        self._undelivered -= _HEADER + len(frame.payload)
        if isinstance(frame, Ping):
            self.writer.write_control(self._encoder.pong(frame.payload))
        else:
            self._note_pong(frame.payload)

    def _note_pong(self, payload: bytes | None) -> None:
        sent_at = -math.inf  # when the ping went out that is answered, if it is known
        if self.heartbeat is not None:
            round_trip = self.heartbeat.on_pong(payload)
            if round_trip is not None:
                self._metrics.record_latency(round_trip)
                sent_at = self._clock.monotonic() - round_trip
            self._count_lost_pings(self.heartbeat.missed_pongs)
        for key in self._answered_probes(payload, sent_at):
            self._probes.pop(key).finish(True)

    def _answered_probes(self, payload: bytes | None, sent_at: float) -> list[bytes]:
        """The probes that a pong answers: a peer may answer only the latest of several pings.

        See RFC 6455, section 5.5.3. The latest may also be one of the heartbeat's.
        """
        probes = list(self._probes)  # oldest first; other threads may add some
        if payload is None:  # in text mode nobody knows which
            return probes
        if payload in probes:
            return probes[: probes.index(payload) + 1]
        return [key for key in probes if self._probes[key].sent_at < sent_at]

    def _count_lost_pings(self, missed: int) -> None:
        for _ in range(missed - self._lost_pings):
            self._metrics.record_ping_lost()
        self._lost_pings = max(missed, self._lost_pings)

    # Waiting

    def _wait(self, *, read: bool, deadline: float | None) -> bool:
        """Wait for something to do; False if the time was up first."""
        deadline = self._earlier(deadline)
        timeout = None
        if deadline is not None:
            timeout = deadline - self._clock.monotonic()
            if timeout <= 0:
                return False
        ready = self._transport.wait(read=read, write=self.writer.is_stalled, timeout=timeout)
        if ready.writable:
            self.writer.flush(may_wait=False)
        if ready.ended:
            self._end_in_sight = True
        return any(ready)

    def _earlier(self, deadline: float | None) -> float | None:
        """The deadline, or the end of the lingering if that is earlier."""
        if self._end is None:
            return deadline
        return self._linger_until if deadline is None else min(deadline, self._linger_until)

    def _is_time_up(self, deadline: float | None) -> bool:
        deadline = self._earlier(deadline)
        return deadline is not None and self._clock.monotonic() >= deadline

    def _may_read(self) -> bool:
        """Whether the application keeps up; if not, the bytes stay where they are.

        Behind the end of the stream there is no more to come than the kernel holds: that is read
        even so, since only then it is known that the link is lost.
        """
        if self._channel is not None:  # its window bounds what the peer may send
            return True
        if self._delivery.is_full and not self._end_in_sight:
            if not self._is_paused:
                self._is_paused = True
                self._delivery.note_pause()
            return False
        if self._is_paused:
            self._is_paused = False
            if self.heartbeat is not None:
                self.heartbeat.on_data()  # a full time-out from now: the peer was not to blame
        return True

    # Ending

    def _judge_silence(self) -> LinkEnd | None:
        """The heartbeat has heard nothing for too long, but bytes may prove it wrong.

        Those that wait unread; and those that were read since, while the suspicion was on its way.
        """
        self._suspected = False
        if self.heartbeat is None or self._end is not None:
            return None
        now, silence = self._clock.monotonic(), self.heartbeat.silence
        is_silent = self.heartbeat.is_silent
        for challenge in tuple(self._challenges):
            probe = challenge[0]
            if now - probe.sent_at >= 0.99 * _CHALLENGE:  # less, since points in time are rounded
                self._challenges.remove(challenge)
                # Any byte since then is an answer.
                is_silent |= not probe.answered and now - silence <= probe.sent_at
        if not is_silent or self._transport.has_unread():
            self.heartbeat.start()
            return None
        self._count_lost_pings(self.heartbeat.missed_pongs)
        silence = self.heartbeat.silence
        return LinkEnd(HeartbeatTimeoutError(f"no sign of life for {silence:.1f} s"), clean=False)

    def _closed_by_peer(self, frame: Close) -> None:
        """Answer the peer's close frame with its code (RFC 6455, section 5.5.1)."""
        if self._end is not None:
            return  # the answer to ours, which has said what was wrong
        if self._close_sent:
            error = None
        else:
            error = error_for_close(frame.code, frame.reason, self._fatal_close_codes)
            self._close_sent = True
            code = None if frame.code == 1005 else frame.code
            self.writer.write_control(self._encoder.close(code))
        self._finish(LinkEnd(error, clean=True))

    def _refuse(self, violation: ProtocolViolation) -> None:
        """Fail the connection (RFC 6455, section 7.1.7)."""
        self.close(violation.close_code, violation.reason)
        message = f"the peer broke the protocol: {violation.reason}"
        error: TunnelError
        if violation.close_code == 1009:
            error = MessageTooBigError(message, limit=self._max_message_size)
        else:
            error = ProtocolError(message, close_code=violation.close_code)
        self._finish(LinkEnd(error, clean=False))

    def _finish(self, end: LinkEnd) -> None:
        """Give the peer, as the server, time to close the connection first (RFC 6455, 7.1.1)."""
        self._end = end
        self._linger_until = self._clock.monotonic() + _LINGER

    def _time_up(self) -> LinkEnd | None:
        if self._end is not None and self._clock.monotonic() >= self._linger_until:
            return self._end
        return None

    def _broken(self, error: Exception | None) -> LinkEnd:
        """The stream has ended, by itself or by a failed read or write."""
        if self._end is not None:
            return self._end
        cause = self._write_error or error
        if cause is None:
            return LinkEnd(error_for_close(1006), clean=False)
        lost = TunnelError.from_exception(cause)
        if not isinstance(lost, ConnectionLostError):
            lost = ConnectionLostError(f"the connection broke: {lost.message}")
            lost.__cause__ = cause
        return LinkEnd(lost, clean=False)

    def _note_write_error(self, error: Exception) -> None:
        self._write_error = error
        self._waker.wake()

    # The watch

    def _start_heartbeat(
        self, config: TunnelConfig, log_context: LogContext | None
    ) -> WebSocketHeartbeat | None:
        if config.ping_interval is None:
            return None
        heartbeat = WebSocketHeartbeat(
            self,
            ping_interval=config.ping_interval,
            pong_timeout=config.pong_timeout,
            mode=config.ping_mode,
            on_connection_lost=self._suspect,
            clock=self._clock,
            log_context=log_context,
        )
        heartbeat.start()
        return heartbeat

    def _suspect(self) -> None:
        self._suspected = True
        self._waker.wake()
