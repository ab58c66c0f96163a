"""Which session a tunnel has: opened, resumed, given up, taken over from another process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from loguru import logger

from tunnel.addresses import TunnelUrl
from tunnel.config import TunnelConfig
from tunnel.delivery import CallbackDelivery
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    ProtocolError,
    ProtocolVersionError,
    SessionLostError,
)
from tunnel.frames import FrameEncoder
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestQueue
from tunnel.session import Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import FrameKind, Parcel
from tunnel.session_handshake import SessionHandshake
from tunnel.session_keeper import SessionKeeper
from tunnel.session_lifecycle import SessionState
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker

S = SessionState
HERE, THERE = "wss://example.com/a", "wss://example.com/b"


class Bench:
    """A keeper, and a gateway for it."""

    def __init__(self, path: Path | None = None, **settings: object) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.gateway = ScriptedGateway(self.network)
        self.queue = RequestQueue(1000, path=path, clock=self.clock)
        self.config = TunnelConfig(**settings)  # type: ignore[arg-type]
        self.received: list[Message] = []
        self.delivery = CallbackDelivery(self.received.append)
        self.channel = SessionChannel(
            self.queue, MetricsCollector(), on_answer=lambda _: None, on_settled=lambda: None
        )
        self.keeper = SessionKeeper(self.queue, self.channel, self.delivery, self.clock)
        self.waker = Waker()
        self.transport: Transport | None = None
        self.is_called_off = False

    def open(self) -> Transport:
        transport = self.transport = self.network(self.waker)
        request = DialRequest(TunnelUrl.parse(HERE), timeout=10.0)
        transport.open(request, lambda: False)
        return transport

    def agree(self, server: str = HERE) -> SessionHandshake | None:
        self.keeper.head_for(server, self.config)
        return self.keeper.agree(
            self.open(), self.config, self.clock.monotonic() + 10.0, lambda: self.is_called_off
        )

    def write(self, *, is_whole: bool = True) -> None:
        """Write what waits, as a link does."""
        assert self.transport is not None
        encoder = FrameEncoder()
        while self.channel.waiting:
            frames = self.channel.take_many(512, 65536)
            self.transport.send(encoder.messages(frames))
            self.channel.note_written(len(frames) if is_whole else 0)

    def read(self, handshake: SessionHandshake) -> None:
        """Take what has come, as a link does."""
        assert self.transport is not None
        while chunk := self.transport.receive(65536):
            self.channel.receive(handshake.decoder.feed(chunk))  # type: ignore[arg-type]

    def cut(self) -> None:
        """The link is lost."""
        self.network.cut()
        self.channel.restore()
        self.keeper.detach()

    @property
    def session(self) -> Session:
        session = self.channel.session
        assert session is not None
        return session


@pytest.fixture
def bench() -> Bench:
    return Bench()


# With a peer that can


def test_opens_a_session(bench: Bench) -> None:
    """The first link opens one, and tells the peer what may be held here."""
    handshake = bench.agree()
    assert handshake is not None
    assert bench.session.state == S.ATTACHED
    assert not bench.keeper.is_resumed
    assert bench.gateway.sessions_opened == 1
    assert bench.gateway.session is not None
    limits = bench.gateway.session.peer_limits
    assert limits == bench.session.limits
    assert limits is not None
    # Together, what the receiving side may hold by its settings.
    high_water = bench.config.receive_high_water
    assert limits.bytes + 64 * limits.messages <= high_water
    assert limits.bytes + 64 * limits.messages > 0.9 * high_water
    assert limits.message_size == bench.config.max_message_size


def test_the_log_names_the_session(bench: Bench) -> None:
    """By the beginning of its id, as the gateway's log does; so that both can be laid together."""
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="INFO")
    logger.enable("tunnel")
    bench.agree()
    bench.cut()
    bench.agree()
    logger.disable("tunnel")
    logger.remove(sink)
    name = bench.session.id.hex()[:8]
    assert told == [f"session {name} is opened", f"session {name} is resumed"]


def test_the_least_that_may_be_held() -> None:
    """The smallest setting still makes a session that works."""
    bench = Bench(receive_high_water=1024, max_unacknowledged=1, max_unacknowledged_bytes=1024)
    bench.agree()
    bench.queue.enqueue_many(["a", "b"])
    bench.gateway.acknowledges = False
    bench.write()
    assert bench.gateway.received == ["a"]


@pytest.mark.requirement("1.7")
def test_resumes_it(bench: Bench) -> None:
    """The next link resumes it: it is the same session, and what was missed is sent again."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue_many(["a", "b"])
    bench.write()
    session = bench.session
    bench.cut()
    assert session.state == S.DETACHED
    assert not bench.keeper.is_resumed
    bench.queue.enqueue("c")
    assert bench.agree() is not None
    assert bench.keeper.is_resumed
    assert bench.session is session
    bench.write()
    assert bench.gateway.received == ["a", "b", "c"]
    assert (bench.gateway.sessions_opened, bench.gateway.resumptions) == (1, 1)
    assert bench.keeper.pop_loss() is None


def test_what_comes_with_the_answer(bench: Bench) -> None:
    """Frames that arrive together with the answer are in the handshake's backlog."""
    bench.agree()
    bench.cut()
    bench.gateway.send("while", "away")
    handshake = bench.agree()
    assert handshake is not None
    assert bench.transport is not None
    frames = list(handshake.backlog)
    while chunk := bench.transport.receive(2**16):
        frames += handshake.decoder.feed(chunk)
    assert bench.channel.receive(frames) == ["while", "away"]  # type: ignore[arg-type]


@pytest.mark.requirement("1.7")
def test_a_session_that_is_gone(bench: Bench) -> None:
    """A new one is opened on the same link; the loss is told, and nothing is sent twice."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue_many(["written", Parcel(FrameKind.REQUEST, b"?")])
    bench.write()
    bench.queue.enqueue_many(["half", Parcel(FrameKind.REQUEST, b"??")])
    bench.channel.take_many(512, 65536)
    bench.queue.enqueue("later")
    bench.cut()
    bench.gateway.forget()
    bench.gateway.received.clear()
    assert bench.agree() is not None
    assert not bench.keeper.is_resumed
    assert bench.gateway.sessions_opened == 2
    bench.write()
    assert bench.gateway.received == ["half", "later"]
    loss = bench.keeper.pop_loss()
    assert isinstance(loss, SessionLostError)
    assert loss.unacknowledged == ("written",)
    assert "does not know the session any more; 1 message unacknowledged" in str(loss)
    assert bench.keeper.pop_loss() is None


def test_two_losses_before_one_could_be_told(bench: Bench) -> None:
    """What the first one left is in the second one's, in order."""
    for number in range(2):
        bench.agree()
        bench.gateway.acknowledges = False
        bench.queue.enqueue(f"{number}")
        bench.write()
        bench.cut()
        bench.gateway.forget()
    bench.agree()
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("0", "1")
    assert "2 messages unacknowledged" in str(loss)


def test_messages_of_before_do_not_count(bench: Bench) -> None:
    """A new session begins to count with what is delivered from then on."""
    bench.delivery.deliver(["a", "b"], 2)
    bench.agree()
    assert bench.channel.delivered_before == 2


# Giving up


def test_another_server(bench: Bench) -> None:
    """A session, and its token, are for one server: elsewhere a new one is opened."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    bench.cut()
    greetings: list[object] = []
    arrived = bench.network.on_message
    assert arrived is not None

    def note(frame: Message) -> None:
        assert isinstance(frame, bytes)
        greetings.append(frame[0])
        arrived(frame)

    bench.network.on_message = note
    bench.agree(THERE)
    assert greetings == [FrameKind.OPEN]
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a",)
    assert "another server" in str(loss)


def test_the_same_server_again(bench: Bench) -> None:
    """After a disconnect the session may still be there."""
    bench.agree()
    bench.cut()
    bench.keeper.head_for(HERE, bench.config)
    assert bench.session.state == S.DETACHED


@pytest.mark.parametrize("resume", ["auto", "off"])
def test_a_plain_peer_after_a_session(resume: str) -> None:
    """A server that resumes nothing, or that we do not want it from, ends the session."""
    bench = Bench()
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    bench.cut()
    if resume == "auto":
        bench.network.response_headers.clear()
    bench.config = bench.config.replace(resume=resume)
    assert bench.agree() is None
    assert bench.channel.session is None
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a",)


def test_a_plain_peer_from_the_beginning(bench: Bench) -> None:
    """There is no session, and nothing is lost."""
    bench.network.response_headers.clear()
    assert bench.agree() is None
    assert bench.channel.session is None
    bench.keeper.detach()
    assert bench.keeper.end() is None
    assert bench.keeper.pop_loss() is None


def test_a_session_is_required(bench: Bench) -> None:
    """Then a server without sessions will not do; the one that there was is kept."""
    bench.agree()
    bench.cut()
    headers = dict(bench.network.response_headers)
    bench.network.response_headers.clear()
    bench.config = bench.config.replace(resume="required")
    with pytest.raises(ProtocolVersionError):
        bench.agree()
    bench.keeper.detach()
    bench.network.response_headers.update(headers)
    bench.agree()
    assert bench.keeper.is_resumed


@pytest.mark.parametrize("version", ["2", "", "yes"])
def test_another_version(bench: Bench, version: str) -> None:
    """A server that resumes sessions in another way is not understood."""
    bench.network.response_headers["tunnel-resume"] = version
    with pytest.raises(ProtocolVersionError):
        bench.agree()


def test_a_version_with_blanks(bench: Bench) -> None:
    """Blanks around a header's value mean nothing (RFC 9110, section 5.5)."""
    bench.network.response_headers["tunnel-resume"] = " 1\t"
    assert bench.agree() is not None


# A handshake that fails


def silent(bench: Bench) -> None:
    bench.network.on_message = lambda _: None


def test_no_answer_to_the_first_greeting(bench: Bench) -> None:
    """There was no session, and there is none."""
    silent(bench)
    with pytest.raises(ConnectTimeoutError):
        bench.agree()
    bench.keeper.detach()
    assert bench.channel.session is None
    assert bench.keeper.pop_loss() is None


@pytest.mark.parametrize("end", ["silence", "called off", "cut"])
def test_no_answer_to_a_later_one(bench: Bench, end: str) -> None:
    """The session is kept, with all that is in it, and resumed on the next link."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    bench.cut()
    arrived = bench.network.on_message
    silent(bench)
    when = bench.clock.monotonic() + 1.0
    if end == "called off":
        bench.is_called_off = True
        bench.clock.call_at(when, bench.waker.wake)
    elif end == "cut":
        bench.clock.call_at(when, bench.network.cut)
    with pytest.raises((ConnectTimeoutError, DialInterrupted, ConnectionLostError)):
        bench.agree()
    bench.keeper.detach()
    assert bench.session.state == S.DETACHED
    bench.network.on_message = arrived
    bench.is_called_off = False
    bench.waker.clear()
    bench.agree()
    assert bench.keeper.is_resumed
    assert bench.channel.unacknowledged_messages() == ("a",)


def test_an_answer_that_cannot_be(bench: Bench) -> None:
    """A server that claims to have what was never sent has lost the session, and our trust."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    bench.cut()
    assert bench.gateway.session is not None
    bench.gateway.session.received = 100
    with pytest.raises(ProtocolError) as caught:
        bench.agree()
    assert caught.value.close_code == 1002
    assert bench.channel.session is None
    bench.keeper.detach()
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a",)
    bench.agree()
    assert bench.gateway.sessions_opened == 2


def test_the_link_is_lost_between_gone_and_open(bench: Bench) -> None:
    """The loss is remembered; the next link opens a session, and then it is told."""
    bench.agree()
    bench.cut()
    bench.gateway.forget()
    arrived = bench.network.on_message
    assert arrived is not None

    def cut_after_gone(frame: Message) -> None:
        assert isinstance(frame, bytes)
        if frame[0] == FrameKind.RESUME:
            arrived(frame)
        else:
            bench.network.cut()

    bench.network.on_message = cut_after_gone
    with pytest.raises(ConnectionLostError):
        bench.agree()
    bench.keeper.detach()
    assert bench.channel.session is None
    bench.network.on_message = arrived
    bench.agree()
    assert not bench.keeper.is_resumed
    assert bench.keeper.pop_loss() is not None


# The end of a link


def test_a_peer_that_broke_the_protocol_has_lost_the_session(bench: Bench) -> None:
    """What it says it has cannot be relied on any more."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    bench.channel.receive([b"\x63\0\0\0\0"])
    bench.cut()
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a",)
    assert "broke" in str(loss)


def test_a_peer_that_ended_the_session(bench: Bench) -> None:
    """The peer has said that it is over."""
    bench.agree()
    bench.gateway.end("too many")
    assert bench.transport is not None
    bench.channel.receive([bench.transport.receive(100)[2:]])  # type: ignore[index]
    bench.cut()
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert "the server ended the session; 0 messages" in str(loss)


def test_ends_when_all_is_acknowledged(bench: Bench) -> None:
    """Then nothing is lost, whatever comes; and the next link opens a new one."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("a")
    bench.write()
    assert bench.keeper.end() is None
    bench.gateway.acknowledge()
    assert bench.transport is not None
    bench.channel.receive([bench.transport.receive(100)[2:]])  # type: ignore[index]
    frame = bench.keeper.end()
    assert frame is not None
    assert bench.keeper.end() is None
    bench.cut()
    bench.keeper.head_for(THERE, bench.config)
    assert bench.keeper.pop_loss() is None
    bench.agree()
    assert bench.gateway.sessions_opened == 2


# On file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a queue is kept."""
    return tmp_path / "queue"


def killed(bench: Bench) -> None:
    """The process is gone; its file is free."""
    bench.network.cut()
    bench.queue.close()


def again(bench: Bench, path: Path) -> Bench:
    """Another process with the same file, and the same gateway."""
    other = Bench(path)
    other.clock, other.network, other.gateway = bench.clock, bench.network, bench.gateway
    other.keeper = SessionKeeper(other.queue, other.channel, other.delivery, bench.clock)
    return other


@pytest.mark.requirement("1.7")
def test_another_process_goes_on(file: Path) -> None:
    """What was not acknowledged is sent again if the peer has not got it; nothing comes twice."""
    first = Bench(file)
    first.agree()
    first.gateway.acknowledges = False
    first.queue.enqueue_many(["a", "b"])
    first.write()
    first.queue.enqueue("c")
    first.channel.take_many(512, 65536)  # and is killed before it is written
    first.queue.enqueue("d")
    killed(first)
    second = again(first, file)
    second.agree()
    assert second.keeper.is_resumed
    second.write()
    assert first.gateway.received == ["a", "b", "c", "d"]
    assert first.gateway.sessions_opened == 1
    assert second.keeper.pop_loss() is None
    second.queue.close()


def test_another_process_elsewhere(file: Path) -> None:
    """The session on file belongs to its server; what it had numbered is handed out as lost."""
    first = Bench(file)
    first.agree()
    first.gateway.acknowledges = False
    first.queue.enqueue("a")
    first.write()
    first.queue.enqueue("b")
    killed(first)
    second = again(first, file)
    second.agree(THERE)
    assert not second.keeper.is_resumed
    loss = second.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a",)
    second.write()
    assert first.gateway.received == ["a", "b"]
    second.queue.close()


def test_the_file_is_looked_at_once(file: Path) -> None:
    """What a tunnel has given up does not come back from its file."""
    first = Bench(file)
    first.agree()
    killed(first)
    second = again(first, file)
    second.agree()
    assert second.keeper.is_resumed
    second.cut()
    second.agree(THERE)
    second.cut()
    second.agree(HERE)
    assert not second.keeper.is_resumed
    second.queue.close()


def test_what_was_agreed_to_be_over_is_not_on_file(file: Path) -> None:
    """A session that has ended is not resumed by the next process."""
    first = Bench(file)
    first.agree()
    assert first.keeper.end() is not None
    killed(first)
    second = again(first, file)
    second.agree()
    assert not second.keeper.is_resumed
    assert second.keeper.pop_loss() is None
    second.queue.close()


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("arrived", [True, False])
def test_first_words_and_another_process(file: Path, arrived: bool) -> None:
    """What the application said first on a link uses numbers, too; the next process copes."""
    first = Bench(file)
    first.agree()
    first.gateway.acknowledges = False
    first.channel.send_first("hello", first.channel.session)
    if arrived:
        first.write()
    else:
        first.channel.take_many(512, 65536)
    killed(first)
    second = again(first, file)
    first.gateway.acknowledges = True
    handshake = second.agree()
    assert handshake is not None
    assert second.keeper.is_resumed
    second.channel.send_first("hello again", second.channel.session)
    second.queue.enqueue("a")
    second.write()  # that the number of the first words stands for nothing any more
    second.read(handshake)
    second.write()
    expected = ["hello"] if arrived else []
    assert first.gateway.received == [*expected, "hello again", "a"]
    second.queue.close()


def test_requests_of_a_lost_session_leave_the_queue(bench: Bench) -> None:
    """Nobody waits for their answers: they take no room, and go to no other session."""
    bench.agree()
    bench.queue.enqueue_many(["a", Parcel(FrameKind.REQUEST, b"?"), "b"])
    bench.cut()
    bench.keeper.lose("a test")
    assert bench.queue.snapshot() == ("a", "b")


def test_a_loss_with_a_closed_queue(bench: Bench) -> None:
    """What was not acknowledged is told all the same."""
    bench.agree()
    bench.gateway.acknowledges = False
    bench.queue.enqueue("written")
    bench.write()
    bench.queue.enqueue_many([Parcel(FrameKind.REQUEST, b"?")])
    bench.queue.close()
    bench.cut()
    bench.keeper.lose("a test")
    loss = bench.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("written",)


def test_a_file_that_a_loss_of_power_has_set_back(file: Path, tmp_path: Path) -> None:
    """The server has more than the file knows of: the session is lost and told, and another opened.

    On the same link; what the server sends of the old session meanwhile is skipped.
    """
    first = Bench(file)
    first.agree()
    first.gateway.acknowledges = False
    first.queue.enqueue_many(["a", "b"])
    first.write()
    older = tmp_path / "older"
    first.queue._journal._group.read("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    shutil.copy(file, older)
    first.queue.enqueue("c")
    first.write()
    first.gateway.send("to be replayed")
    killed(first)
    second = again(first, older)
    handshake = second.agree()
    assert handshake is not None
    assert not second.keeper.is_resumed
    assert len(first.network.dials) == 2
    assert first.gateway.sessions_opened == 2
    loss = second.keeper.pop_loss()
    assert loss is not None
    assert loss.unacknowledged == ("a", "b")
    assert "more than the queue's file knows of; 2 messages unacknowledged" in str(loss)
    first.gateway.acknowledges = True
    second.queue.enqueue("d")
    second.write()
    second.read(handshake)
    assert first.gateway.received[-1] == "d"
    assert second.received == []
    assert second.channel.unacknowledged == 0
    second.queue.close()


def test_once_resumed_a_server_is_taken_at_its_word(file: Path) -> None:
    """A session of another process that was resumed here knows its numbers: more is a lie."""
    first = Bench(file)
    first.agree()
    killed(first)
    second = again(first, file)
    second.agree()
    assert second.keeper.is_resumed
    second.cut()
    assert first.gateway.session is not None
    first.gateway.session.received = 100
    with pytest.raises(ProtocolError):
        second.agree()
    second.queue.close()


def test_a_server_that_closes_after_the_end(bench: Bench, file: Path) -> None:
    """One that opens nothing on a link with an END: the next link opens a session."""
    first = Bench(file)
    first.agree()
    killed(first)
    second = again(first, file)
    assert first.gateway.session is not None
    first.gateway.session.received = 5
    arrived = first.network.on_message
    assert arrived is not None

    def close_after_end(frame: Message) -> None:
        assert isinstance(frame, bytes)
        arrived(frame)
        if frame[0] == FrameKind.END:
            first.network.close(1000, "")

    first.network.on_message = close_after_end
    with pytest.raises(ConnectionLostError):
        second.agree()
    second.keeper.detach()
    second.agree()
    assert second.session.state == S.ATTACHED
    assert len(first.network.dials) == 3
    assert second.keeper.pop_loss() is not None
    second.queue.close()
