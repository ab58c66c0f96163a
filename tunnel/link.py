"""One live connection in use: reading, answering, closing, and noticing its end.

A `Link` lives from the end of the upgrade to the end of the connection; a tunnel has many, one
after the other. Its reading thread is the tunnel's. `run` reads and delivers until there is a
reason to stop: somebody woke the thread, the time was up, or the link has ended, and then why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import cast

from tunnel.acknowledger import Acknowledger
from tunnel.clock import Clock
from tunnel.closing_handshake import ClosingHandshake, LinkEnd
from tunnel.config import TunnelConfig
from tunnel.delivery import Delivery
from tunnel.errors import ConnectionLostError
from tunnel.frames import (
    Close,
    FrameDecoder,
    FrameEncoder,
    Incoming,
    Ping,
    Pong,
    ProtocolViolation,
)
from tunnel.liveness import Liveness, Probe
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message, Outbox
from tunnel.request_queue import RequestQueue
from tunnel.secrets import scrub
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import ASK_FRAME
from tunnel.session_handshake import SessionHandshake
from tunnel.transport import Transport
from tunnel.turnstile import give
from tunnel.waker import Waker
from tunnel.websocket_heartbeat import TEXT_PING, TEXT_PONG, WebSocketHeartbeat
from tunnel.writer import Writer

# Also inside a large frame: what a larger read saves in calls costs more in memory that the system
# takes back after each message, and gives again page by page.
_READ_SIZE = 64 * 1024
_HEADER = 2  # bytes before the payload of a short frame that a server sends


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

    Attributes:
        writer: Writes on this connection.
        heartbeat: Watches it; None before `watch`, and if heartbeats are off.
    """

    __slots__ = (
        "_acknowledger",
        "_backlog",
        "_channel",
        "_clock",
        "_closing",
        "_decoder",
        "_delivery",
        "_encoder",
        "_end_in_sight",
        "_is_paused",
        "_last_word",
        "_liveness",
        "_metrics",
        "_on_activity",
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
    ) -> None:
        self._transport = transport
        self._delivery = delivery
        self._metrics = metrics
        self._clock = clock
        self._waker = waker
        self._on_activity = on_activity
        self._text_mode = config.ping_mode == "text"
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
        self._closing = ClosingHandshake(self._encoder, self.writer.write_control, config, clock)
        # What to do about the peer's close frame, or its mistake, once callbacks have had what came
        # before: what they answer goes out before our close frame.
        self._last_word: Callable[[], None] | None = None
        self._write_error: Exception | None = None
        self._is_paused = False
        self._end_in_sight = False  # the stream's end is there, behind bytes that are unread
        self._suspected = False  # by the watch: nothing was heard for too long
        self._undelivered = 0  # bytes read of messages since some were last delivered
        self._liveness = Liveness(self, config.ping_mode, clock, metrics, self._suspect)
        self.heartbeat: WebSocketHeartbeat | None = None

    def watch(self, config: TunnelConfig, log_context: LogContext | None) -> None:
        """Begin to ping the peer, and to judge its silence. Once.

        Not part of being made: the stack of a thread is as large as the deepest calls have made it.

        Args:
            config: How often to ping, and how long a silence may be.
            log_context: What the heartbeat's log lines carry; None: nothing.
        """
        self._liveness.start(config, log_context)
        self.heartbeat = self._liveness.heartbeat  # here, too: it hears of each chunk

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
                    return self._closing.outcome
                continue
            try:
                chunk = self._transport.receive(_READ_SIZE)
            except OSError as error:
                return self._closing.broken(self._write_error or error)
            if chunk:
                self._take(chunk)
                del chunk  # an idle tunnel must not hold on to the last thing that it has read
                if self._closing.is_time_up(deadline):  # a peer that floods us never lets us wait
                    return self._closing.outcome
                if self._delivery.has_callbacks:
                    return None
            elif chunk is not None:
                return self._closing.broken(self._write_error)
            elif not self._wait(read=True, deadline=deadline):
                return self._closing.outcome
        return None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake (RFC 6455, section 7.1.2); `run` returns its end."""
        self._closing.begin(code, reason)

    def dispose(self) -> None:
        """The link is over: stop the watch, close the socket, give what is unsent to the queue."""
        self._liveness.stop()
        if self._acknowledger is not None:
            self._acknowledger.stop()
        self._transport.abort()
        try:
            self.writer.stop()  # may fail if the application has closed its queue
        finally:
            self._transport.close()
            self._liveness.abandon_probes()

    def challenge(self) -> None:
        """Ask for a sign of life within a moment, not within a whole pong time-out."""
        self._liveness.challenge()

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
        """Send a ping whose answer finishes the probe. Never waits."""
        return self._liveness.probe()

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
        if decoder.violation is not None and self._closing.end is None:
            self._last_word = functools.partial(self._closing.fail, decoder.violation)
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
        if session is None:
            return
        if session.violation is not None:
            if self._closing.end is None:
                self._closing.fail(ProtocolViolation(1002, str(session.violation)))
        elif session.ended_by_peer is not None and not self._channel.is_ended:  # by us, first
            self._end_of_session(session.ended_by_peer)

    def _end_of_session(self, reason: str) -> None:
        if self._closing.end is None:
            self._closing.begin(1000)
            text = f"the peer ended the session: {scrub(reason) or 'no reason'}"
            self._closing.decide(LinkEnd(ConnectionLostError(text), clean=False))

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
            self._last_word = functools.partial(self._closing.answer, close)

    def _is_text_beat(self, message: Message) -> bool:
        if message == TEXT_PONG:
            self._liveness.note_pong(None)
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
            self._liveness.note_pong(frame.payload)

    # Waiting

    def _wait(self, *, read: bool, deadline: float | None) -> bool:
        """Wait for something to do; False if the time was up first."""
        deadline = self._closing.earlier(deadline)
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
        self._suspected = False
        if self._closing.end is not None:
            return None
        silence = self._liveness.judge(self._transport.has_unread)
        return None if silence is None else LinkEnd(silence, clean=False)

    def _note_write_error(self, error: Exception) -> None:
        self._write_error = error
        self._waker.wake()

    def _suspect(self) -> None:
        self._suspected = True
        self._waker.wake()
