from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import (
    AuthenticationFailedError,
    ConnectRefusedError,
    ProxyError,
    TunnelError,
)
from tunnel.proxy import Proxy
from tunnel.proxy_handshake import MAX_ANSWER_SIZE, conversation

PASSWORD = "s3cr3t"


class Talk:
    """Holds a conversation over an answer that comes in pieces."""

    def __init__(self, answer: bytes, piece: int = 1_000_000) -> None:
        self.left = answer
        self.piece = piece
        self.said = b""

    def __call__(self, url: str, host: str = "server.test", port: int = 443) -> bytes:
        """Returns what was said."""
        talk = conversation(Proxy.parse(url), host, port)
        wanted = next(talk)
        try:
            while True:
                if isinstance(wanted, int):
                    size = min(wanted, self.piece)
                    data, self.left = self.left[:size], self.left[size:]
                    wanted = talk.send(data)
                else:
                    self.said += wanted
                    wanted = next(talk)
        except StopIteration:
            return self.said


# HTTP


def test_connect_is_asked_for() -> None:
    """The server's name and port, nothing about us, and what follows is not read."""
    talk = Talk(b"HTTP/1.1 200 Connection established\r\n\r\n")
    assert talk("http://proxy.test") == (
        b"CONNECT server.test:443 HTTP/1.1\r\nHost: server.test:443\r\n\r\n"
    )


def test_credentials_are_sent_as_basic_authentication() -> None:
    """In the header for proxies (RFC 9110, section 11.7.2); IPv6 addresses stand in brackets."""
    talk = Talk(b"HTTP/1.0 200 OK\r\nX-Y: z\r\n\r\n")
    said = talk(f"https://me:{PASSWORD}@proxy.test", "::1", 80)
    assert said == (
        b"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n"
        b"Proxy-Authorization: Basic bWU6czNjcjN0\r\n\r\n"
    )


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_an_answer_may_come_in_pieces(piece: int) -> None:
    """Interim answers are passed over, and any 2xx opens the way."""
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Fine\r\nA: b\r\n\r\n"
    assert Talk(answer, piece)("http://proxy.test")


@pytest.mark.parametrize(
    ("answer", "error", "is_retryable", "words"),
    [
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 9\r\n\r\n",
            AuthenticationFailedError,
            False,
            "HTTP 407",
        ),
        (b"HTTP/1.1 502 No\r\n\r\nbody", ProxyError, True, "HTTP 502"),
        (b"HTTP/1.1 404 No\r\n\r\n", ProxyError, False, "HTTP 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ProxyError, False, "no HTTP"),
        (b"\x05\x00", ProxyError, False, "no HTTP"),
        (b"HTTP/1.1 200 O", ProxyError, True, "hung up"),
        (b"", ProxyError, True, "hung up"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101", ProxyError, False, "something follows"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ProxyError, False, "come to an end"),
        (b"X" * 100_000, ProxyError, False, "come to an end"),
        (b"HTTP/1.1 100 Go\r\n\r\n" * 9_000, ProxyError, False, "come to an end"),
    ],
)
def test_an_http_proxy_that_does_not_open_the_way(
    answer: bytes, error: type[TunnelError], is_retryable: bool, words: str
) -> None:
    """The status decides; what is no answer, or has no end, is an error as well."""
    talk = Talk(answer)
    with pytest.raises(error, match=words) as caught:
        talk("http://proxy.test")
    assert caught.value.is_retryable == is_retryable
    assert len(answer) - len(talk.left) <= MAX_ANSWER_SIZE


# SOCKS5

OPEN = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
NAME = b"\x05\x01\x00\x03\x0bserver.test\x01\xbb"


@pytest.mark.parametrize("piece", [1, 3, 100])
@pytest.mark.parametrize(
    "reply",
    [OPEN, b"\x05\x00\x00\x03\x02ab\x00\x01", b"\x05\x00\x00\x04" + 18 * b"x"],
)
def test_socks5_without_credentials(reply: bytes, piece: int) -> None:
    """No authentication is offered alone; of the reply every byte is read, and none after it."""
    talk = Talk(b"\x05\x00" + reply + b"server", piece)
    assert talk("socks5h://proxy.test") == b"\x05\x01\x00" + NAME
    assert talk.left == b"server"


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("10.0.0.1", b"\x01\x0a\x00\x00\x01"),
        ("::1", b"\x04" + 15 * b"\x00" + b"\x01"),
        ("a.b", b"\x03\x03a.b"),
    ],
)
def test_socks5_names_the_server_by_its_kind(host: str, sent: bytes) -> None:
    """Addresses go as addresses, names as names."""
    said = Talk(b"\x05\x00" + OPEN)("socks5://proxy.test", host, 80)
    assert said == b"\x05\x01\x00" + b"\x05\x01\x00" + sent + b"\x00\x50"


@pytest.mark.parametrize("version", [b"\x01", b"\x05"])
def test_socks5_with_credentials(version: bytes) -> None:
    """User name and password are sent if the proxy wants them (RFC 1929)."""
    talk = Talk(b"\x05\x02" + version + b"\x00" + OPEN)
    said = talk(f"socks5h://me:{PASSWORD}@proxy.test")
    assert said == b"\x05\x02\x00\x02" + b"\x01\x02me\x06" + PASSWORD.encode() + NAME
    assert Talk(b"\x05\x00" + OPEN)(f"socks5h://me:{PASSWORD}@proxy.test") == (
        b"\x05\x02\x00\x02" + NAME
    )


@pytest.mark.parametrize("credentials", ["", f"me:{PASSWORD}@"])
@pytest.mark.parametrize(
    ("answer", "error", "is_retryable"),
    [
        (b"\x05\xff", AuthenticationFailedError, False),
        (b"\x04\x00", ProxyError, False),
        (b"\x05\x01", ProxyError, False),
        (b"HTTP/1.1 400 Bad", ProxyError, False),
        (b"\x05", ProxyError, True),
        (b"", ProxyError, True),
        (b"\x05\x00" + b"\x04\x00\x00\x01", ProxyError, False),
        (b"\x05\x00" + b"\x05\x00\x00\x09", ProxyError, False),
        (b"\x05\x00" + b"\x05\x02\x00\x01", ProxyError, False),
        (b"\x05\x00" + b"\x05\x05\x00\x01", ConnectRefusedError, True),
        (b"\x05\x00" + OPEN[:-1], ProxyError, True),
    ],
)
def test_a_socks5_proxy_that_does_not_open_the_way(
    credentials: str, answer: bytes, error: type[TunnelError], is_retryable: bool
) -> None:
    """Refusals, other protocols, and an end in the middle."""
    with pytest.raises(error) as caught:
        Talk(answer)(f"socks5://{credentials}proxy.test")
    assert caught.value.is_retryable == is_retryable
    assert PASSWORD not in repr(caught.value.to_dict())


def test_socks5_refuses_the_credentials() -> None:
    """Wrong ones are not tried again."""
    with pytest.raises(AuthenticationFailedError, match="refused user name") as caught:
        Talk(b"\x05\x02\x01\x01")(f"socks5://me:{PASSWORD}@proxy.test")
    assert not caught.value.is_retryable


def test_credentials_that_were_not_given_are_not_sent() -> None:
    """A proxy cannot choose what was not offered."""
    with pytest.raises(ProxyError, match="not offered"):
        Talk(b"\x05\x02\x01\x00" + OPEN)("socks5://proxy.test")


# SOCKS4


@pytest.mark.parametrize(
    ("url", "host", "said"),
    [
        ("socks4://proxy.test", "10.0.0.1", b"\x04\x01\x01\xbb\x0a\x00\x00\x01\x00"),
        ("socks4://me@proxy.test", "10.0.0.1", b"\x04\x01\x01\xbb\x0a\x00\x00\x01me\x00"),
        ("socks4a://proxy.test", "10.0.0.1", b"\x04\x01\x01\xbb\x0a\x00\x00\x01\x00"),
        ("socks4a://me@proxy.test", "a.b", b"\x04\x01\x01\xbb\x00\x00\x00\xffme\x00a.b\x00"),
    ],
)
def test_socks4(url: str, host: str, said: bytes) -> None:
    """An address goes as SOCKS4, a name as SOCKS4a, with the user if there is one."""
    talk = Talk(b"\x00\x5a\x00\x00\x00\x00\x00\x00server", 3)
    assert talk(url, host) == said
    assert talk.left == b"server"


@pytest.mark.parametrize(
    ("answer", "error", "is_retryable"),
    [
        (b"\x00\x5b" + 6 * b"\x00", ProxyError, True),
        (b"\x00\x5d" + 6 * b"\x00", AuthenticationFailedError, False),
        (b"\x05\x5a" + 6 * b"\x00", ProxyError, False),
        (b"\x00\x5a", ProxyError, True),
    ],
)
def test_a_socks4_proxy_that_does_not_open_the_way(
    answer: bytes, error: type[TunnelError], is_retryable: bool
) -> None:
    """Refusals, other protocols, and an end in the middle."""
    with pytest.raises(error) as caught:
        Talk(answer)("socks4a://proxy.test")
    assert caught.value.is_retryable == is_retryable


@given(
    st.sampled_from(["http", "socks4a", "socks5h", "socks5h://a:b@"]),
    st.binary(max_size=60),
    st.integers(1, 60),
)
def test_whatever_a_proxy_says_the_talk_ends(scheme: str, answer: bytes, piece: int) -> None:
    """It opens the way or raises a `TunnelError`, and no other exception."""
    url = scheme + ("proxy.test" if "@" in scheme else "://proxy.test")
    with contextlib.suppress(TunnelError):
        Talk(answer, piece)(url)


def test_h11_is_as_expected() -> None:
    """What is relied on: after a 2xx to CONNECT the bytes behind the headers are given back."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a:1")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(b"HTTP/1.1 200 OK\r\n\r\nmore")
    assert isinstance(connection.next_event(), h11.Response)
    assert connection.trailing_data == (b"more", False)
