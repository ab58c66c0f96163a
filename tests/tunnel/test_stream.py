from __future__ import annotations

import contextlib
import errno
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from tunnel.stream import TLS_PIECE, Readiness, Stream, wait_for, wait_for_any
from tunnel.waker import Waker

LONG = 20.0
"""Seconds that something may take which is certain to happen."""

SHORT = 0.05
"""Seconds that a wait gets which is to end without anything."""

pytestmark = pytest.mark.usefixtures("no_leaks")

linux_only = pytest.mark.skipif(
    not hasattr(select, "POLLRDHUP"), reason="only Linux shows an end behind unread bytes"
)


@pytest.fixture(params=["poll", "select"])
def _either_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With poll, and as on Windows without."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


either_system = pytest.mark.usefixtures("_either_system")


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our socket and the peer's; ours does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(LONG)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return client, server


def in_tls(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], ours: socket.socket, theirs: socket.socket
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    client, server = contexts
    accepted: list[ssl.SSLSocket] = []
    thread = threading.Thread(
        target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    ours.settimeout(LONG)
    wrapped = client.wrap_socket(ours, server_hostname="localhost")
    thread.join(LONG)
    return wrapped, accepted[0]


Connected = tuple[Stream, socket.socket]


@pytest.fixture(params=["plain", "tls"])
def connected(request: pytest.FixtureRequest, waker: Waker, contexts: Any) -> Iterator[Connected]:
    """A stream and the peer's socket."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(LONG)
    if request.param == "tls":
        ours, theirs = in_tls(contexts, ours, theirs)
    stream = Stream(ours, waker)
    while request.param == "tls" and stream.wait(read=True, write=False, timeout=0).readable:
        assert stream.receive(1) is None  # the session tickets
    yield stream, theirs
    stream.close()
    theirs.close()


@pytest.fixture
def tls(waker: Waker, contexts: Any) -> Iterator[tuple[Stream, ssl.SSLSocket]]:
    ours, theirs = in_tls(contexts, *socket.socketpair())
    stream = Stream(ours, waker)
    assert stream.receive(1) is None
    yield stream, theirs
    stream.close()
    theirs.close()


def fill(stream: Stream) -> int:
    """Write until the kernel takes no more; how many bytes it took."""
    total = 0
    while taken := stream.send(bytes(TLS_PIECE)):
        total += taken
    return total


# Waiting


@either_system
def test_a_wait_ends_for_what_was_asked_only(
    pair: tuple[socket.socket, socket.socket], waker: Waker
) -> None:
    """Readable, writable and woken are told apart; without any the time is up."""
    ours, theirs = pair
    nothing = Readiness(False, False, False, False)
    assert wait_for(ours, waker, read=True, write=False, timeout=SHORT) == nothing
    assert wait_for(ours, None, read=False, write=False, timeout=SHORT) == nothing
    assert wait_for(ours, None, read=False, write=True, timeout=0) == (False, True, False, False)
    assert wait_for(ours, waker, read=True, write=True, timeout=LONG).writable
    theirs.send(b"x")
    assert wait_for(ours, waker, read=True, write=False, timeout=LONG) == (
        True,
        False,
        False,
        False,
    )
    assert not wait_for(ours, waker, read=False, write=True, timeout=0).readable
    waker.wake()
    ready = wait_for(ours, waker, read=True, write=True, timeout=None)
    assert ready == (True, True, True, False)


@either_system
def test_a_wait_lasts_no_shorter_than_it_should(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A time-out is not rounded down, so that no wait is repeated for its last millisecond."""
    start = time.monotonic()
    wait_for(pair[0], None, read=True, write=False, timeout=0.0105)
    assert time.monotonic() - start >= 0.0105


@either_system
@pytest.mark.parametrize("timeout", [-1.0, 0.0])
def test_a_time_out_that_is_over_only_looks(
    pair: tuple[socket.socket, socket.socket], timeout: float
) -> None:
    """Without time left a wait does not wait, and is not taken for an endless one."""
    assert not any(wait_for(pair[0], None, read=True, write=False, timeout=timeout))


@either_system
@pytest.mark.parametrize("timeout", [3e6, 1e12, math.inf])
def test_a_wait_may_be_as_long_as_one_likes(
    pair: tuple[socket.socket, socket.socket], timeout: float
) -> None:
    """Time-outs beyond what the system takes are no error."""
    assert wait_for(pair[0], None, read=True, write=True, timeout=timeout).writable


@either_system
def test_a_wait_for_a_closed_socket_ends_at_once(
    pair: tuple[socket.socket, socket.socket], waker: Waker
) -> None:
    """The next call on it says what is wrong; the wait itself is no error."""
    pair[0].close()
    assert wait_for(pair[0], waker, read=True, write=False, timeout=None) == (
        True,
        False,
        False,
        True,
    )


@either_system
def test_another_thread_ends_a_wait_at_once(
    pair: tuple[socket.socket, socket.socket], waker: Waker
) -> None:
    """`wake` ends the reading thread's wait."""
    thread = threading.Thread(target=waker.wake)
    thread.start()
    assert wait_for(pair[0], waker, read=True, write=False, timeout=LONG).woken
    thread.join()


def test_a_broken_socket_shows_as_ended_without_poll(
    pair: tuple[socket.socket, socket.socket], waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows reports a failed connect as an exceptional condition: all there is to wait for."""
    monkeypatch.delattr(select, "poll")
    monkeypatch.setattr(select, "select", lambda r, w, x, timeout: ([], [], x))
    ready = wait_for(pair[0], waker, read=True, write=True, timeout=None)
    assert ready == (True, True, False, True)


# Waiting for several


def fill_up(sock: socket.socket) -> None:
    """Send until there is no room."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)


@either_system
def test_one_of_several_ends_a_wait(waker: Waker) -> None:
    """Those that are ready are named, whether they are connected or have failed to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as refused,
        socket.socket() as connected,
    ):
        names = {refused: closed, connected: listener.getsockname()}
        seen: set[socket.socket] = set()
        for sock, name in names.items():
            sock.setblocking(False)
            sock.connect_ex(name)
        while len(seen) < 2:
            ready, woken = wait_for_any(names.keys() - seen, waker, LONG)
            assert ready
            assert not woken
            seen.update(ready)


@either_system
def test_the_waker_or_the_time_ends_a_wait_for_several(
    pair: tuple[socket.socket, socket.socket], waker: Waker
) -> None:
    """Neither a socket nor the waker: the time was up, and not too early."""
    ours = pair[0]
    fill_up(ours)  # then it is not ready
    start = time.monotonic()
    assert wait_for_any([ours], waker, 0.0105) == ([], False)
    assert time.monotonic() - start >= 0.0105
    assert wait_for_any([ours], waker, -1.0) == ([], False)
    assert wait_for_any([], waker, 0.0) == ([], False)
    waker.wake()
    assert wait_for_any([ours], waker, math.inf) == ([], True)


# Reading and writing


def test_bytes_go_both_ways(connected: Connected) -> None:
    """What one end sends the other receives; None says that there is nothing now."""
    stream, peer = connected
    assert stream.is_tls == isinstance(peer, ssl.SSLSocket)
    assert stream.receive(100) is None
    peer.sendall(b"hello")
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.receive(3) == b"hel"
    assert stream.receive(100) == b"lo"
    assert stream.receive(100) is None
    assert stream.send(memoryview(b"there")) == 5
    assert peer.recv(100) == b"there"


def test_what_tls_does_not_need_is_given_back_unseen(connected: Connected) -> None:
    """The peer gets nothing by it, and what follows arrives whole; a broken stream is no error."""
    stream, peer = connected
    for text in (b"one", b"two"):
        stream.shed()
        assert stream.send(text) == 3
        assert peer.recv(100) == text
    stream.shed()
    stream.close()
    stream.shed()
    assert peer.recv(100) == b""


def test_the_socket_does_not_block(connected: Connected) -> None:
    """A stream makes its socket non-blocking, and gives it away for its options."""
    stream, _ = connected
    assert stream.socket.gettimeout() == 0


def test_the_end_of_the_stream_reads_as_no_bytes(connected: Connected) -> None:
    """After the peer's end `receive` returns b"", again and again."""
    stream, peer = connected
    peer.close()
    assert stream.wait(read=True, write=False, timeout=LONG).ended
    assert stream.receive(100) == b""
    assert stream.receive(100) == b""


def test_a_full_kernel_takes_no_bytes_and_later_the_same(connected: Connected) -> None:
    """After a 0 the same bytes are taken once the peer has read; nothing is lost or doubled."""
    stream, peer = connected
    sent = fill(stream)
    assert not stream.wait_writable(SHORT)
    received = 0
    while received < sent:
        received += len(peer.recv(65536))
    assert stream.wait_writable(LONG)
    piece = memoryview(b"\0" * TLS_PIECE)  # the very same as those which were refused
    while piece:
        piece = piece[stream.send(piece) :]
    rest = 0
    while rest < TLS_PIECE:
        rest += len(peer.recv(65536))
    assert rest == TLS_PIECE


def test_tls_takes_one_record_at_a_time(tls: tuple[Stream, ssl.SSLSocket]) -> None:
    """A big write offers OpenSSL no more than one record, of which it takes all or nothing."""
    stream, _ = tls
    assert stream.send(bytes(10 * TLS_PIECE)) == TLS_PIECE


def test_bytes_within_openssl_count_as_unread(tls: tuple[Stream, ssl.SSLSocket]) -> None:
    """What OpenSSL has read ahead does not show in a poll, but in `has_unread`."""
    stream, peer = tls
    assert not stream.has_unread()
    peer.sendall(b"hello")
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.has_unread()
    assert stream.receive(1) == b"h"
    assert not stream.wait(read=True, write=False, timeout=0).readable
    assert stream.has_unread()
    assert stream.receive(10) == b"ello"
    assert not stream.has_unread()


def test_unread_bytes_and_the_end_are_seen(connected: Connected) -> None:
    """`has_unread` is true for bytes and for the end of the stream, and takes nothing away."""
    stream, peer = connected
    assert not stream.has_unread()
    peer.sendall(b"x")
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.has_unread()
    assert stream.receive(10) == b"x"
    assert not stream.has_unread()
    peer.close()
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.has_unread()


class StubSocket(socket.socket):
    """A socket whose calls fail as told."""

    error: BaseException

    def recv(self, *arguments: Any) -> bytes:
        raise self.error

    def send(self, *arguments: Any) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_a_plain_socket_that_cannot_now_is_no_error(waker: Waker, error: OSError) -> None:
    """Would-block and an interrupted call mean: later."""
    sock = StubSocket()
    sock.error = error
    stream = Stream(sock, waker)
    assert stream.receive(10) is None
    assert stream.send(b"x") == 0
    stream.close()


@pytest.mark.parametrize("error", [ssl.SSLWantReadError(), ssl.SSLWantWriteError()])
def test_a_tls_socket_that_cannot_now_is_no_error(
    tls: tuple[Stream, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch, error: ssl.SSLError
) -> None:
    """Either direction may have to wait for either."""
    stream, _ = tls

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(stream.socket, "recv", fail)
    monkeypatch.setattr(stream.socket, "send", fail)
    assert stream.receive(10) is None
    assert stream.send(b"x") == 0


@pytest.mark.fault("renegotiation")
def test_a_write_that_waits_for_the_peers_words_does_not_spin(
    tls: tuple[Stream, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the peer renegotiates there is room, and still nothing can be written."""
    stream, _ = tls

    def fail(*arguments: object) -> None:
        raise ssl.SSLWantReadError

    with monkeypatch.context() as patched:
        patched.setattr(stream.socket, "send", fail)
        assert stream.send(b"x") == 0
    for wait in (
        lambda: stream.wait_writable(None),
        lambda: stream.wait_writable(LONG),
        lambda: stream.wait(read=False, write=True, timeout=LONG).writable,
    ):
        begun = time.monotonic()
        assert wait()  # it may be tried again, after a moment
        assert 0.03 < time.monotonic() - begun < LONG / 2
    assert stream.send(b"x") == 1
    assert stream.wait(read=False, write=True, timeout=LONG).writable


def test_the_peers_end_of_tls_reads_as_no_bytes(
    tls: tuple[Stream, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception by which `ssl` may report a closed TLS connection is the end of the stream."""
    stream, _ = tls

    def fail(size: int) -> bytes:
        raise ssl.SSLZeroReturnError

    monkeypatch.setattr(stream.socket, "recv", fail)
    assert stream.receive(10) == b""


@pytest.mark.parametrize("call", ["receive", "send"])
def test_a_broken_connection_raises(connected: Connected, call: str) -> None:
    """Any other error is the connection's end, for whoever calls."""
    stream, _ = connected
    stream.close()
    with pytest.raises(OSError, match=r".") as caught:
        _ = stream.receive(10) if call == "receive" else stream.send(b"x")
    assert caught.value.errno == errno.EBADF


# The end


@linux_only
def test_the_end_shows_behind_unread_bytes(connected: Connected) -> None:
    """A paused reading learns of the peer's end without reading, and what is unread stays."""
    stream, peer = connected
    peer.sendall(b"last words")
    peer.close()
    assert stream.wait(read=False, write=False, timeout=LONG) == (False, False, False, True)
    assert stream.receive(10) == b"last words"
    assert stream.receive(100) == b""


@pytest.mark.parametrize("connected", ["plain"], indirect=True)
def test_after_a_short_read_the_kernel_is_not_asked_at_once(connected: Connected) -> None:
    """What a read has left room for is not there: the next one says so, and then it is asked."""
    stream, peer = connected
    peer.sendall(b"one")
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.receive(100) == b"one"
    peer.sendall(b"two")
    assert stream.receive(100) is None
    assert stream.wait(read=True, write=False, timeout=LONG).readable
    assert stream.receive(3) == b"two"
    peer.close()
    assert stream.wait(read=True, write=False, timeout=LONG).ended
    assert stream.receive(3) == b""
    assert stream.receive(3) == b""


@linux_only
def test_a_peer_that_only_reads_on_does_not_make_writers_spin(connected: Connected) -> None:
    """The peer's half-closed side is no room: a writer waits for the kernel all the same."""
    stream, peer = connected
    fill(stream)
    socket.socket.shutdown(peer, socket.SHUT_WR)
    assert not stream.wait_writable(SHORT)
    assert stream.wait(read=False, write=True, timeout=LONG) == (False, False, False, True)
    while not stream.wait_writable(0):
        assert peer.recv(65536)


def test_an_abort_ends_the_waits_of_reader_and_writer(connected: Connected) -> None:
    """Both threads are woken at once; reading finds the end, and writing fails."""
    stream, _ = connected
    fill(stream)
    found: dict[str, bool] = {}

    def read() -> None:
        found["read"] = stream.wait(read=True, write=False, timeout=LONG).readable

    def write() -> None:
        found["write"] = stream.wait_writable(LONG)

    threads = [threading.Thread(target=target) for target in (read, write)]
    for thread in threads:
        thread.start()
    stream.abort()
    for thread in threads:
        thread.join(LONG)
    assert found == {"read": True, "write": True}
    assert stream.receive(10) == b""
    with pytest.raises(OSError, match=r"."):
        fill(stream)


def test_an_abort_keeps_the_descriptor(connected: Connected) -> None:
    """Nobody who still uses it can meet another file under its number."""
    stream, _ = connected
    descriptor = stream.socket.fileno()
    stream.abort()
    assert stream.socket.fileno() == descriptor


def test_aborting_what_has_ended_does_nothing(connected: Connected) -> None:
    """An abort may come twice, and after `close`."""
    stream, peer = connected
    peer.close()
    stream.abort()
    stream.abort()
    stream.close()
    stream.abort()


def test_an_abort_never_hits_a_descriptor_that_was_given_back(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an abort is at work the socket stays open, whoever closes it."""
    stream, _ = connected
    closing = threading.Thread(target=stream.close)
    seen: list[int] = []

    def shutdown(sock: socket.socket, how: int) -> None:
        closing.start()
        closing.join(SHORT)  # it must not get through
        seen.append(sock.fileno())

    monkeypatch.setattr(socket.socket, "shutdown", shutdown, raising=False)
    stream.abort()
    closing.join(LONG)
    assert seen[0] >= 0
    assert stream.socket.fileno() == -1


@pytest.mark.requirement("1.1")
def test_reading_and_writing_at_once_is_safe_on_tls(tls: tuple[Stream, ssl.SSLSocket]) -> None:
    """Two threads on one TLS connection, whole speed both ways: no false end, no loss."""
    stream, peer = tls
    size = 4 * 2**20
    errors: list[BaseException] = []

    def echo() -> None:
        try:
            left = size
            while left:
                data = peer.recv(65536)
                left -= len(data)
                peer.sendall(data)
        except BaseException as error:
            errors.append(error)

    def write() -> None:
        try:
            piece = memoryview(bytes(range(256)) * (size // 256))
            while piece:
                taken = stream.send(piece)
                piece = piece[taken:]
                if not taken:
                    stream.wait_writable(LONG)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (echo, write)]
    for thread in threads:
        thread.start()
    received = bytearray()
    while len(received) < size:
        chunk = stream.receive(65536)
        if chunk is None:
            assert stream.wait(read=True, write=False, timeout=LONG).readable
            continue
        assert chunk, "a false end of the stream"
        received += chunk
    for thread in threads:
        thread.join(LONG)
    assert errors == []
    assert received == bytes(range(256)) * (size // 256)
