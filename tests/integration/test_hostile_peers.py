"""Peers that break RFC 6455, byte by byte: what goes out, which error it is, and what it costs."""

from __future__ import annotations

import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest
from peers import BINARY, CLOSE, DEADLINE, PING, PONG, TEXT, Collector, Peer, RawServer, frame

from tunnel import (
    ConnectionLostError,
    MessageTooBigError,
    ProtocolError,
    TunnelConnectionState,
    TunnelErrorCategory,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
MEBIBYTE = 2**20
BEGUN = frame(TEXT, b"be", final=False)  # a message whose next fragments are to come

MASKED = b"\x81\x82\x01\x02\x03\x04\x69\x6b"
OFFENCES: dict[str, dict[str, bytes]] = {
    "masked": {"text": MASKED, "ping": b"\x89\x80\x01\x02\x03\x04"},
    "reserved-bits": {
        f"bit {bit:#x}{name}": start + bytes((first | bit, 0))
        for bit in (0x40, 0x20, 0x10, 0x70)
        for name, start, first in (("", b"", 0x81), (" of a continuation", BEGUN, 0x80))
    },
    "unknown-opcodes": {
        f"opcode {opcode}": bytes((0x80 | opcode, 0))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "bad-control-frames": {
        "ping of 126 bytes": frame(PING, bytes(126)),
        "pong of 126 bytes": frame(PONG, bytes(126)),
        "close of 126 bytes": frame(CLOSE, b"\x03\xe8" + bytes(124)),
        "ping of 64 KiB": frame(PING, bytes(65536)),
        "fragmented ping": frame(PING, b"", final=False),
        "fragmented pong": frame(PONG, b"", final=False),
        "fragmented close": frame(CLOSE, b"\x03\xe8", final=False),
    },
    "invalid-text": {
        "wrong byte": frame(TEXT, b"a\xff"),
        "overlong": frame(TEXT, b"\xc0\x80"),
        "surrogate": frame(TEXT, b"\xed\xa0\x80"),
        "too high": frame(TEXT, b"\xf4\x90\x80\x80"),
        "cut by the end": frame(TEXT, b"\xe2\x82"),
        "cut by the last fragment": frame(TEXT, b"\xe2", final=False) + frame(0, b"\x82"),
        "wrong across fragments": frame(TEXT, b"\xe2\x82", final=False) + frame(0, b"\x28"),
        "wrong among tiny fragments": frame(TEXT, b"", final=False)
        + b"".join(frame(0, bytes((byte,)), final=False) for byte in b"abc\xe2\x82\x28abc"),
        "wrong at once in a long frame": b"\x81\x7f" + struct.pack(">Q", 2**20) + b"\xff",
    },
    "invalid-close-reason": {
        "wrong byte": frame(CLOSE, b"\x03\xe8\xff"),
        "cut inside a character": frame(CLOSE, b"\x03\xe8\xe2\x82"),
    },
    "lengths": {
        "highest bit": b"\x82\x7f" + struct.pack(">Q", 2**63),
        "all bits": b"\x82\x7f" + b"\xff" * 8,
        "eight bytes for 65535": b"\x82\x7f" + struct.pack(">Q", 65535),
        "eight bytes for 0": b"\x81\x7f" + bytes(8),
        "two bytes for 125": b"\x82\x7e\x00\x7d",
        "two bytes for 0": b"\x82\x7e\x00\x00",
    },
    "too-big": {
        "2^63 - 1": b"\x82\x7f" + struct.pack(">Q", 2**63 - 1),
        "one over the limit": b"\x82\x7f" + struct.pack(">Q", 16 * MEBIBYTE + 1),
        "with what came before": frame(BINARY, b"x", final=False)
        + b"\x80\x7f"
        + struct.pack(">Q", 16 * MEBIBYTE),
    },
    "fragment-order": {
        "continuation of nothing": frame(0, b"x"),
        "first fragment of nothing": frame(0, b"x", final=False),
        "text inside a message": BEGUN + frame(TEXT, b"x"),
        "binary inside a message": BEGUN + frame(BINARY, b"x"),
    },
    "close-codes": {
        f"close code {code}": frame(CLOSE, struct.pack(">H", code))
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    },
    "close-of-one-byte": {"close of one byte": frame(CLOSE, b"\x03")},
}
CODES = {"invalid-text": 1007, "invalid-close-reason": 1007, "too-big": 1009}
CASES = [
    pytest.param(CODES.get(slug, 1002), offence, id=f"{slug}, {name}")
    for slug, offences in OFFENCES.items()
    for name, offence in offences.items()
]


class Answers(Collector):
    """The close frames with which clients have answered: code and reason."""

    def read(self, peer: Peer) -> None:
        while True:
            opcode, payload = peer.receive()
            if opcode == CLOSE:
                self((struct.unpack(">H", payload[:2])[0] if payload else None, payload[2:]))
                return


class Errors(Collector):
    """The errors with which connections have ended; called on each change of state."""

    def __call__(self, record: object) -> None:
        error = record.data.get("error")
        if error is not None:
            super().__call__(error)


def assert_refused(
    service: TunnelService, errors: Errors, answers: Answers, code: int, server: RawServer
) -> None:
    """The connection was failed with this code, and nobody has tried again."""
    assert service.wait_for(S.ERROR, timeout=DEADLINE)
    assert answers.wait(1)
    ((sent, reason),) = answers.items
    assert sent == code
    assert b"RFC 6455, section" in reason
    assert len(reason) <= 123
    assert errors.wait(1)
    (error,) = errors.items
    assert type(error) is (MessageTooBigError if code == 1009 else ProtocolError)
    assert error.code == ("TUNNEL_027" if code == 1009 else "TUNNEL_009")
    assert error.close_code == code
    assert error.category is TunnelErrorCategory.PROTOCOL
    assert not error.is_retryable
    assert server.accepted == 1


@pytest.mark.fault(
    "masked",
    "reserved-bits",
    "unknown-opcodes",
    "bad-control-frames",
    "invalid-text",
    "invalid-close-reason",
    "lengths",
    "too-big",
    "fragment-order",
    "close-codes",
    "close-of-one-byte",
)
@pytest.mark.requirement("2.2", "6.7")
@pytest.mark.parametrize(("code", "offence"), CASES)
def test_each_offence_is_answered_and_final(
    make_service: MakeService, code: int, offence: bytes
) -> None:
    """What came before is delivered, the close code goes out, and the error is not retried."""
    answers, received, errors = Answers(), Collector(), Errors()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(frame(TEXT, b"before") + offence + frame(TEXT, b"behind"))
        answers.read(peer)

    with RawServer(script) as server:
        service = make_service(on_message=received, on_state_change=errors)
        service.connect(server.url, timeout=DEADLINE)
        assert_refused(service, errors, answers, code, server)
        assert received.items == ["before"]


@pytest.mark.parametrize("slug", OFFENCES)
def test_each_kind_of_offence_byte_by_byte(make_service: MakeService, slug: str) -> None:
    """The same if every byte comes alone."""
    answers, received, errors = Answers(), Collector(), Errors()
    offence = next(iter(OFFENCES[slug].values()))

    def script(peer: Peer) -> None:
        peer.upgrade()
        for byte in frame(TEXT, "€".encode()) + offence:
            peer.sock.sendall(bytes((byte,)))
        answers.read(peer)

    with RawServer(script) as server:
        service = make_service(on_message=received, on_state_change=errors)
        service.connect(server.url, timeout=DEADLINE)
        assert_refused(service, errors, answers, CODES.get(slug, 1002), server)
        assert received.items == ["€"]


def test_characters_may_be_cut_anywhere(make_service: MakeService) -> None:
    """Text that is valid as a whole arrives, though every read and fragment cuts a character."""
    received = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(TEXT, b"", final=False)
        for byte in "aé€😀".encode():
            peer.send(0, bytes((byte,)), final=False)
        peer.send(0, b"")
        peer.echo()

    with RawServer(script) as server:
        service = make_service(on_message=received)
        service.connect(server.url, timeout=DEADLINE)
        assert received.wait(1)
        assert received.items == ["aé€😀"]
        service.disconnect()


# The end


@pytest.mark.fault("data-after-close")
@pytest.mark.parametrize("code", [1001, 4000])
def test_what_follows_a_close_frame_is_not_looked_at(make_service: MakeService, code: int) -> None:
    """Neither messages nor offences behind it count; its code is echoed, and it is a loss."""
    answers, received, errors = Answers(), Collector(), Errors()

    def script(peer: Peer) -> None:
        peer.upgrade()
        close = frame(CLOSE, struct.pack(">H", code))
        peer.sock.sendall(frame(TEXT, b"before") + close + frame(TEXT, b"behind") + b"\xff" * 1000)
        answers.read(peer)

    with RawServer(script) as server:
        service = make_service(
            on_message=received, on_state_change=errors, enable_auto_reconnect=False
        )
        service.connect(server.url, timeout=DEADLINE)
        assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)
        assert answers.wait(1)
        assert answers.items == [(code, b"")]
        assert received.items == ["before"]
        assert errors.wait(1)
        assert isinstance(errors.items[0], ConnectionLostError)
        assert errors.items[0].is_retryable


def flood(peer: Peer, data: bytes) -> None:
    """Send it again and again, until the client has gone."""
    while True:
        peer.sock.sendall(data)


@pytest.mark.fault("close-without-end", "offence-without-end", "garbage-after-close")
@pytest.mark.parametrize(
    ("first", "state"),
    [(frame(CLOSE, b"\x03\xe9"), S.DISCONNECTED), (MASKED, S.ERROR)],
    ids=["close", "offence"],
)
@pytest.mark.parametrize(
    "then",
    [Peer.wait_until_gone, lambda peer: flood(peer, b"\xff" * 10_000)],
    ids=["silence", "flood"],
)
def test_a_peer_that_does_not_hang_up(
    make_service: MakeService, first: bytes, state: S, then: Callable[[Peer], object]
) -> None:
    """After the close frames the peer gets a second to end the connection, whatever it sends."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(first)
        then(peer)

    with RawServer(script) as server:
        service = make_service(enable_auto_reconnect=False)
        service.connect(server.url, timeout=DEADLINE)
        began = time.perf_counter()
        assert service.wait_for(state, timeout=DEADLINE)
        assert time.perf_counter() - began < 3.0  # 1.0, and what a busy machine adds


@pytest.mark.fault("close-unanswered")
@pytest.mark.parametrize("floods", [False, True])
def test_a_peer_that_never_answers_our_close(make_service: MakeService, floods: bool) -> None:
    """`disconnect` takes no longer than its time-out."""
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        if floods:
            flood(peer, frame(TEXT, b"x") * 1000)
        while True:
            if peer.receive()[0] == CLOSE:
                closed.set()

    with RawServer(script) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        began = time.perf_counter()
        service.disconnect(timeout=0.3)
        assert time.perf_counter() - began < 2.0
        assert service.state is S.DISCONNECTED
        assert floods or closed.is_set()


# What it costs


class Cost:
    """Bytes of Python's memory that were in use at most, beyond those at the beginning."""

    def __enter__(self) -> Cost:
        tracemalloc.start()
        self._before, _ = tracemalloc.get_traced_memory()
        return self

    def __exit__(self, *exc: object) -> None:
        self.peak = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


BUFFER = 64 * 1024
"""Bytes for which there is room between a client that writes and a peer that does not read."""

PATIENCE = 10 * DEADLINE
"""Seconds that a flood may take: looking at memory makes it slow, and so does a busy machine."""


def run_flood(
    make_service: MakeService, data: bytes, times: int, **settings: object
) -> tuple[int, list[tuple[int, bytes]]]:
    """Flood a client that the peer does not read from, then read all that it has written.

    Returns:
        What it has cost the client, and the frames that it has written.
    """
    received, written = Collector(), []
    connected, flooded = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        connected.wait(DEADLINE)
        for _ in range(times):
            peer.sock.sendall(data)
        peer.text("done")
        flooded.wait(PATIENCE)  # what is read here costs memory, too, and must not be counted
        while (item := peer.receive())[0] != CLOSE:
            written.append(item)
        peer.send(*item)

    with RawServer(script) as server:
        service = make_service(on_message=received, **settings)
        small = (socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        service.connect(server.url, timeout=DEADLINE, socket_options=[small])
        connected.set()
        with Cost() as cost:
            assert received.wait(1, timeout=PATIENCE)
        flooded.set()
        service.disconnect()
        assert received.items == ["done"]
    return cost.peak, written


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.fault("ping-flood")
@pytest.mark.requirement("6.3")
def test_a_flood_of_pings_is_answered_in_part(make_service: MakeService) -> None:
    """Who pings and does not read costs no memory; the latest ping is answered in any case."""
    pings = [frame(PING, number.to_bytes(4, "big") + bytes(121)) for number in range(8192)]
    peak, written = run_flood(make_service, b"".join(pings), 1)
    assert peak < MEBIBYTE
    assert len(written) < 8192
    assert {opcode for opcode, _ in written} == {PONG}
    assert written[-1][1][:4] == (8191).to_bytes(4, "big")


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.fault("text-ping-flood")
def test_a_flood_of_text_pings_costs_no_memory(make_service: MakeService) -> None:
    """In text mode the same goes for messages "ping", how many pongs the kernel may take.

    That depends on its buffers: the peer's grows to some MiB, and one of a fixed size loses what
    acknowledges the peer's own flood when it is full, so that TCP stalls for minutes. What is
    dropped when the kernel takes no more is tested with a transport that takes nothing.
    """
    peak, written = run_flood(make_service, frame(TEXT, b"ping") * 8192, 8, ping_mode="text")
    assert peak < 1.2 * MEBIBYTE
    assert set(written) == {(TEXT, b"pong")}


@pytest.mark.fault("length-never-sent")
def test_an_announced_length_costs_nothing(make_service: MakeService) -> None:
    """A frame of 16 MiB that never comes takes no more than the buffer of one read."""
    received = Collector()
    announced = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("first")
        announced.wait(DEADLINE)
        peer.sock.sendall(b"\x82\x7f" + struct.pack(">Q", 16 * MEBIBYTE) + b"x")
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service(on_message=received, ping_interval=0.1, pong_timeout=0.4)
        service.connect(server.url, timeout=DEADLINE)
        assert received.wait(1)
        with Cost() as cost:
            announced.set()
            assert service.wait_for(S.DISCONNECTED, S.RECONNECTING, timeout=DEADLINE)  # by silence
        assert cost.peak < 1.2 * MEBIBYTE


@pytest.mark.fault("empty-fragments", "tiny-fragments")
@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "one byte"])
def test_a_flood_of_fragments_ends(make_service: MakeService, piece: bytes) -> None:
    """A message of more than `max_fragments` is refused with 1009, and has cost its bytes only."""
    limit = 2**16
    answers, errors = Answers(), Errors()
    data = frame(0, piece, final=False) * 8192

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(TEXT, b"", final=False)
        try:
            for _ in range(limit // 8192 + 1):
                peer.sock.sendall(data)
        except OSError:
            pass
        answers.read(peer)

    with RawServer(script) as server:
        service = make_service(on_state_change=errors, max_fragments=limit)
        with Cost() as cost:
            service.connect(server.url, timeout=DEADLINE)
            assert_refused(service, errors, answers, 1009, server)
        assert f"{limit} fragments" in errors.items[0].message
        assert cost.peak < MEBIBYTE


@pytest.mark.fault("tiny-fragments")
@pytest.mark.parametrize(
    "size", [MEBIBYTE // 32, pytest.param(4 * MEBIBYTE, marks=pytest.mark.slow)]
)
def test_a_message_in_single_bytes(make_service: MakeService, size: int) -> None:
    """Where so many fragments are allowed, a message of them takes the memory of its bytes."""
    received = Collector()
    data = frame(0, b"x", final=False) * 8192

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(BINARY, b"", final=False)
        for _ in range(size // 8192):
            peer.sock.sendall(data)
        peer.send(0, b"")
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service(on_message=received, max_fragments=2**25)
        with Cost() as cost:
            service.connect(server.url, timeout=DEADLINE)
            assert received.wait(1, timeout=100)
        assert received.items == [b"x" * size]
        assert cost.peak < 2.2 * size + MEBIBYTE
