"""The fault proxy does what it says, to the byte: what other tests prove rests on it."""

from __future__ import annotations

import contextlib
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import freezegun
import pytest
from peers import frame

from tunnel.errors import InvalidStateError
from tunnel.testing import DOWN, UP, FaultProxy

DATA = random.Random(1).randbytes(1000)
PATIENCE = 10.0


class Wire:
    """A proxy with a listener behind it, and connections through it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.proxy = FaultProxy(self.listener.getsockname()[1])
        self.opened: list[socket.socket] = [self.listener]

    def dial(self) -> socket.socket:
        """A client's end."""
        return self._keep(socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE))

    def accept(self) -> socket.socket:
        """A server's end."""
        return self._keep(self.listener.accept()[0])

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends."""
        client = self.dial()
        return client, self.accept()

    def _keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened.append(sock)
        return sock


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A proxy and a listener."""
    wire = Wire()
    with wire.proxy:
        yield wire
    for sock in wire.opened:
        sock.close()


def read(sock: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def rest(sock: socket.socket) -> tuple[bytes, str]:
    """All that is still to come, and whether it ends by "fin" or "reset"."""
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionError:
            return data, "reset"
        if not more:
            return data, "fin"
        data += more


def is_quiet(sock: socket.socket, seconds: float) -> bool:
    """Whether nothing comes for so long."""
    sock.settimeout(seconds)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)


def in_direction(
    direction: str, client: socket.socket, server: socket.socket
) -> tuple[socket.socket, socket.socket]:
    """Who sends and who receives."""
    return (client, server) if direction == UP else (server, client)


both_ways = pytest.mark.parametrize("direction", [UP, DOWN])


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_all_connections_end(wire: Wire, how: str) -> None:
    """`reset` and `fin` end every connection, as they are called."""
    pairs = [wire.connect() for _ in range(3)]
    assert wire.proxy.live == 3
    assert not wire.proxy.wait_idle(0.0)
    assert (wire.proxy.reset if how == "reset" else wire.proxy.fin)() == 3
    for client, server in pairs:
        assert rest(client) == (b"", how)
        assert rest(server) == (b"", how)
        client.close()
    assert wire.proxy.wait_idle()


@both_ways
def test_silence_holds_and_loses_nothing(wire: Wire, direction: str) -> None:
    """What is sent into a silence comes behind it; the other direction goes on."""
    source, sink = in_direction(direction, *wire.connect())
    with wire.proxy.silent(direction):
        source.sendall(DATA)
        sink.sendall(b"back")
        assert read(source, 4) == b"back"
        assert is_quiet(sink, 0.05)
    assert read(sink, len(DATA)) == DATA


def test_refusing(wire: Wire) -> None:
    """New connections are refused, and old ones live on."""
    client, server = wire.connect()
    with wire.proxy.refusing(), pytest.raises(ConnectionRefusedError):
        wire.dial()
    client.sendall(b"x")
    assert read(server, 1) == b"x"
    wire.connect()


def test_ignoring(wire: Wire) -> None:
    """New connections are accepted and reach nobody, old ones live on; later ones are served."""
    client, server = wire.connect()
    with wire.proxy.ignoring():
        ignored = wire.dial()
        ignored.sendall(b"is anybody there")
        client.sendall(b"x")
        assert read(server, 1) == b"x"
        assert is_quiet(ignored, 0.05)
        assert wire.proxy.live == 1
    assert rest(ignored) == (b"", "reset")
    client, server = wire.connect()  # the listener has not heard of the other one
    client.sendall(b"y")
    assert read(server, 1) == b"y"


@both_ways
@pytest.mark.parametrize("how", ["reset", "fin"])
@pytest.mark.parametrize("after", [0, 1, 300, 1000])
def test_cut_at_a_byte(wire: Wire, direction: str, how: str, after: int) -> None:
    """Exactly so many bytes pass, also if they were all; then both ends see the end."""
    strike = wire.proxy.cut(direction, after, how)
    source, sink = in_direction(direction, *wire.connect())
    source.sendall(DATA)
    assert strike.wait()
    assert rest(sink) == (DATA[:after], how)
    assert rest(source)[0] == b""
    wire.connect()[0].sendall(DATA)  # it strikes once
    assert wire.proxy.live >= 1


@both_ways
def test_bytes_count_from_now(wire: Wire, direction: str) -> None:
    """On a connection that is there, what has passed before does not count."""
    source, sink = in_direction(direction, *wire.connect())
    source.sendall(DATA)
    assert read(sink, 1000) == DATA
    strike = wire.proxy.cut(direction, 10, "fin")
    assert not strike.has_happened
    source.sendall(DATA)
    assert rest(sink) == (DATA[:10], "fin")


@both_ways
@pytest.mark.parametrize("after", [0, 499, 999])
@pytest.mark.parametrize("drips", [False, True])
def test_flip_and_insert_at_a_byte(wire: Wire, direction: str, after: int, drips: bool) -> None:
    """The byte at that place is changed, or something put before it, and nothing else."""
    source, sink = in_direction(direction, *wire.connect())
    with wire.proxy.dripping(0.0) if drips else wire.proxy.delaying(0.0):
        strike = wire.proxy.flip(direction, after, 0x21)
        source.sendall(DATA)
        changed = bytes([DATA[after] ^ 0x21])
        assert read(sink, 1000) == DATA[:after] + changed + DATA[after + 1 :]
        assert strike.has_happened
        wire.proxy.insert(direction, after, b"garbage")
        source.sendall(DATA)
        assert read(sink, 1007) == DATA[:after] + b"garbage" + DATA[after:]
    source.sendall(DATA)
    assert read(sink, 1000) == DATA


def test_two_strikes_and_one_that_is_called_off(wire: Wire) -> None:
    """Several strikes wait at once, each for its byte; one that is called off does nothing."""
    client, server = wire.connect()
    wire.proxy.cut(UP, 5)
    wire.proxy.disarm()
    wire.proxy.flip(UP, 20, 1)
    wire.proxy.flip(UP, 10, 1)
    client.sendall(bytes(30))
    assert read(server, 30) == bytes(10) + b"\1" + bytes(9) + b"\1" + bytes(9)


def masked(payload: bytes) -> bytes:
    """A client's frame, with a mask that changes nothing."""
    made = frame(2, payload)
    head = len(made) - len(payload)
    return made[:1] + bytes([made[1] | 0x80]) + made[2:head] + bytes(4) + payload


@pytest.mark.parametrize("make", [frame, lambda opcode, payload: masked(payload)])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_the_beginning_of_the_next_frame(
    wire: Wire, make: Callable[[int, bytes], bytes], size: int, before: int
) -> None:
    """Without a count, the first byte of the next frame is struck, however long the last is."""
    client, server = wire.connect()
    head = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n"
    first, second = make(2, bytes(size)), make(1, b"second")
    before = min(before, len(first))
    server.sendall(head[:-2])
    assert read(client, len(head) - 2) == head[:-2]
    server.sendall(head[-2:] + first[:before])  # it may be in the midst of one
    assert read(client, 2 + before) == head[-2:] + first[:before]
    strike = wire.proxy.flip(DOWN, None, 0x70)
    server.sendall(first[before:] + second)
    end = read(client, len(first) - before + len(second))
    assert strike.has_happened
    expected = bytearray((first + second)[before:])
    expected[(len(first) if before else 0) - before] ^= 0x70
    assert end == bytes(expected)


def test_there_are_no_frames_in_the_head(wire: Wire) -> None:
    """What looks like one before the upgrade is over is not struck."""
    client, server = wire.connect()
    wire.proxy.flip(UP, None)
    request = b"GET / HTTP/1.1\r\nHost: \x81\x05\r\n\r\n"
    client.sendall(request + b"\x81\x80")
    assert read(server, len(request) + 2) == request + b"\x7e\x80"


@both_ways
def test_delay(wire: Wire, direction: str) -> None:
    """Bytes and the end are late in one direction, in order, and the other one is as it was."""
    source, sink = in_direction(direction, *wire.connect())
    with wire.proxy.delaying(0.3, direction):
        began = time.perf_counter()
        source.sendall(DATA[:500])
        sink.sendall(b"back")
        assert read(source, 4) == b"back"
        assert time.perf_counter() - began < 0.3
        source.sendall(DATA[500:])
        assert read(sink, 1000) == DATA
        assert time.perf_counter() - began >= 0.3
        began = time.perf_counter()
        source.shutdown(socket.SHUT_WR)
        assert rest(sink) == (b"", "fin")
        assert time.perf_counter() - began >= 0.3


@both_ways
def test_throttling(wire: Wire, direction: str) -> None:
    """So many bytes a second pass, and no more; all of them, in order."""
    source, sink = in_direction(direction, *wire.connect())
    with wire.proxy.throttling(5_000, direction):
        began = time.perf_counter()
        source.sendall(DATA * 10)
        sink.sendall(DATA * 10)
        assert read(source, 10_000) == DATA * 10
        assert wire.proxy.forwarded[direction] < 10_000  # that would take 2 s
        assert read(sink, 1000) == DATA
        assert time.perf_counter() - began >= 0.19
    assert read(sink, 9_000) == DATA * 9


@both_ways
def test_dripping(wire: Wire, direction: str) -> None:
    """Bytes come one by one, each by itself."""
    source, sink = in_direction(direction, *wire.connect())
    with wire.proxy.dripping(0.002, direction):
        began = time.perf_counter()
        source.sendall(DATA[:50])
        pieces = []
        while sum(map(len, pieces)) < 50:
            pieces.append(sink.recv(100))
        assert b"".join(pieces) == DATA[:50]
        assert time.perf_counter() - began >= 49 * 0.002
        assert max(map(len, pieces)) < 25  # 1, but that this machine may be busy
        source.sendall(DATA)
    assert read(sink, 1000) == DATA  # what is left comes at once


def test_duplicating(wire: Wire) -> None:
    """The server gets a second connection that says the same, and whose answers nobody gets."""
    with wire.proxy.duplicating():
        client = wire.dial()
        ends = [wire.accept(), wire.accept()]  # its own one first
    client.sendall(DATA)
    assert [read(end, 1000) for end in ends] == [DATA, DATA]
    ends[1].sendall(b"unheard")
    ends[0].sendall(b"heard")
    assert read(client, 5) == b"heard"
    assert is_quiet(client, 0.05)
    client.sendall(b"more")
    assert [read(end, 4) for end in ends] == [b"more", b"more"]
    assert wire.proxy.live == 1
    client.close()
    assert all(rest(end)[0] == b"" for end in ends)
    wire.connect()
    wire.listener.settimeout(0.05)
    with pytest.raises(TimeoutError):  # the connections after it are single again
        wire.accept()


def test_a_late_duplicate(wire: Wire) -> None:
    """A late one says everything later, also when its client has gone."""
    with wire.proxy.duplicating(0.2):
        client = wire.dial()
        own, twin = wire.accept(), wire.accept()
    began = time.perf_counter()
    client.sendall(DATA)
    assert read(own, 1000) == DATA
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert rest(own) == (b"", "reset")
    assert read(twin, 1000) == DATA
    assert time.perf_counter() - began >= 0.2
    assert rest(twin)[0] == b""


def test_a_duplicate_that_the_server_does_not_want(wire: Wire) -> None:
    """The server may hang up on one; the client's own connection lives on."""
    with wire.proxy.duplicating(0.1):
        client = wire.dial()
        own, twin = wire.accept(), wire.accept()
    client.sendall(b"x")
    twin.close()
    assert is_quiet(client, 0.2)
    client.sendall(b"y")
    assert read(own, 2) == b"xy"
    own.sendall(b"z")
    assert read(client, 1) == b"z"


def lengths(wire: Wire, connections: int) -> list[tuple[int, str]]:
    """How much passes of each of some connections, and how it ends."""
    found = []
    for _ in range(connections):
        client, server = wire.connect()
        client.sendall(DATA)
        data, how = rest(server)
        assert DATA.startswith(data)
        found.append((len(data), how))
    return found


def test_cutting_is_repeatable(wire: Wire) -> None:
    """Chance cuts connections in the midst, and what has passed before the cut is right."""
    with wire.proxy.cutting((0.0, 0.0), seed=3):
        found = lengths(wire, 10)
    assert wire.proxy.cuts == 10
    assert len(set(found)) > 5
    with wire.proxy.cutting((0.0, 0.0), seed=3):
        assert lengths(wire, 10) == found
    client, server = wire.connect()
    client.sendall(DATA)
    assert read(server, 1000) == DATA


def test_cutting_after_is_repeatable(wire: Wire) -> None:
    """Each connection lives for the bytes that the seed gives it, in the direction it gives it."""

    def run(seed: int) -> list[tuple[int, int]]:
        found = []
        with wire.proxy.cutting_after((1, 999), seed=seed):
            for _ in range(8):
                client, server = wire.connect()
                client.sendall(DATA)
                up = 0
                with contextlib.suppress(ConnectionError):  # of a connection that was cut
                    while up < 1000 and (data := server.recv(1000)):
                        up += len(data)
                    server.sendall(DATA)
                found.append((up, len(rest(client)[0])))
        return found

    first = run(1)
    assert run(1) == first != run(2)
    assert all(sum(passed) < 2000 for passed in first)
    assert {passed[0] == 1000 for passed in first} == {True, False}  # both directions are cut
    assert wire.proxy.cuts == 24
    with wire.proxy.cutting_after((10, 10), seed=1):
        client, server = wire.connect()
    client.sendall(DATA)
    server.sendall(DATA)
    assert (read(server, 1000), read(client, 1000)) == (DATA, DATA)  # it is called off


def test_passing_bytes_and_ends(wire: Wire) -> None:
    """Bytes pass both ways, and the end of one side becomes that of the other."""
    client, server = wire.connect()
    client.sendall(b"there")
    assert read(server, 5) == b"there"
    client.shutdown(socket.SHUT_WR)
    assert rest(server) == (b"", "fin")
    server.sendall(b"and back")
    server.close()
    assert rest(client) == (b"and back", "fin")
    assert wire.proxy.wait_idle()
    assert (wire.proxy.accepted, wire.proxy.forwarded) == (1, {UP: 5, DOWN: 8})


def test_a_black_hole(wire: Wire) -> None:
    """Nothing arrives; afterwards what was sent on new connections does, and old ones are reset."""
    client, server = wire.connect()
    with wire.proxy.blackhole():
        client.sendall(b"lost")
        later, its_server = wire.connect()
        later.sendall(b"late")
        assert is_quiet(server, 0.05)
        assert is_quiet(its_server, 0.05)
    assert read(its_server, 4) == b"late"
    assert rest(server) == (b"", "reset")
    assert rest(client) == (b"", "reset")


def test_nested_faults(wire: Wire) -> None:
    """A fault holds until the last one of its kind is over, in whatever order they end."""
    client, server = wire.connect()
    faults = [contextlib.ExitStack() for _ in range(2)]
    for stack in faults:
        for make in (wire.proxy.silent, wire.proxy.refusing, wire.proxy.ignoring):
            stack.enter_context(make())
    client.sendall(b"x")
    faults[0].close()
    assert is_quiet(server, 0.05)
    with pytest.raises(ConnectionRefusedError):
        wire.dial()
    faults[1].close()
    assert read(server, 1) == b"x"
    wire.connect()


def test_delays_while_time_is_frozen(wire: Wire) -> None:
    """Delays are real, also while freezegun holds the time of the test still."""
    with freezegun.freeze_time("2026-03-01"):
        client, server = wire.connect()
        with wire.proxy.delaying(0.05), wire.proxy.dripping(0.001):
            client.sendall(DATA[:20])
            assert read(server, 20) == DATA[:20]


def test_nobody_behind_it(wire: Wire) -> None:
    """While nobody listens behind the proxy, clients are reset."""
    wire.proxy.target = 1
    assert wire.proxy.target == 1
    with pytest.raises(ConnectionResetError):
        wire.dial().recv(1)


def test_a_silent_proxy_can_be_stopped(wire: Wire) -> None:
    """Stopping does not wait for what is held back; what lasted is over then, too."""
    client, _ = wire.connect()
    with wire.proxy.silent(), wire.proxy.refusing(), wire.proxy.blackhole():
        client.sendall(b"?")
        wire.proxy.stop()
        assert rest(client) == (b"", "reset")
    wire.proxy.stop()  # twice does no harm
    with pytest.raises(InvalidStateError, match="has been stopped"):
        wire.proxy.reset()
    with pytest.raises(InvalidStateError, match="started before"):
        wire.proxy.start()


def test_a_proxy_that_was_not_started() -> None:
    """It has no faults to make, and says so; stopping it does no harm."""
    proxy = FaultProxy(1)
    with pytest.raises(InvalidStateError, match="use it in a with statement"):
        proxy.reset()
    with pytest.raises(InvalidStateError), proxy.silent():
        pytest.fail("nothing is silent")
    proxy.stop()


@pytest.mark.parametrize("call", ["listen", "bind"])
def test_a_proxy_that_cannot_listen_leaves_nothing(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the port cannot be had, the error is raised, and no thread is there."""

    def refuse(*args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, call, refuse)
    before = threading.active_count()
    with pytest.raises(OSError, match="Too many open files"), FaultProxy(1):
        pytest.fail("it listens")
    assert threading.active_count() == before


def test_what_makes_no_sense_is_refused(wire: Wire) -> None:
    """Each argument is checked where it is given."""
    proxy: Any = wire.proxy
    for call, sentence in {
        lambda: proxy.silent("sideways"): 'a direction is "up"',
        lambda: proxy.cut("both", 1): 'a direction is "up"',
        lambda: proxy.cut("up", 1, "fun"): 'by "reset" or "fin", not \'fun\'',
        lambda: proxy.cut("up", -1): "after is a whole number of bytes",
        lambda: proxy.cut("up", 1.5): "after is a whole number of bytes",
        lambda: proxy.insert("up", 0, "text"): "what is inserted are bytes, not 'text'",
        lambda: proxy.cutting_after((1, 2.5), seed=1): "a size is a whole number of bytes",
        lambda: proxy.flip("up", 0, 256): "1 to 255, not 256",
        lambda: proxy.delaying(-1): "a delay is a finite number",
        lambda: proxy.throttling(0): "a rate in bytes per second is a positive",
        lambda: proxy.dripping(math.nan): "a pause is a finite number",
        lambda: proxy.duplicating(-1): "late is a finite number",
        lambda: proxy.cutting((2, 1), seed=1): "every is the least and the most",
        lambda: proxy.cutting_after((1,), seed=1): "sizes is the least and the most",
        lambda: setattr(proxy, "target", "here"): "a port on 127.0.0.1, or a URL",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
    assert proxy.silent("down", "up", "up") is not None
