"""Whatever is accepted as an argument, the request on the wire says that and nothing else."""

from __future__ import annotations

import re
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunnel.addresses import TunnelUrl, validate_headers, validate_subprotocols
from tunnel.arguments import checked_text, checked_token
from tunnel.dial import Dial
from tunnel.errors import ConfigurationError, TunnelError
from tunnel.requests import Target
from tunnel.stream import Stream
from tunnel.transport import WebSocketTransport
from tunnel.waker import Waker

OURS = {"upgrade", "connection", "host", "sec-websocket-key", "sec-websocket-version"}
LINE_ENDS = (
    "\r\nX-Injected: yes",
    "\nX-Injected: yes",
    "\rX-Injected: yes",
    "\r\n\r\nGET / HTTP/1.1",
    "\x00",
    "\x0b",
)
INJECTIONS = (
    *LINE_ENDS,
    "\x85",
    "\u2028",
    "\u010d\u010a",  # whose low bytes are CR and LF
    "\udc0d\udc0a",
    "%0d%0a",
    " HTTP/1.1\r\n",
    "\t",
    ": ",
)
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
nasty = st.one_of(
    words,
    words,
    st.text(max_size=12),
    st.tuples(words, st.sampled_from(INJECTIONS), words).map("".join),
)
tokens = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
names = st.one_of(tokens, tokens, nasty)


def sent(target: Target) -> tuple[str, list[tuple[str, str]]]:
    """The request line and the headers that a dial to a target writes; nothing may follow them."""
    near, far = socket.socketpair()
    waker = Waker()
    with pytest.MonkeyPatch.context() as patch, near, far:
        patch.setattr(Dial, "open_stream", lambda self, *where: Stream(near, waker))
        far.shutdown(socket.SHUT_WR)  # there will be no answer
        with pytest.raises(TunnelError):
            WebSocketTransport(waker).open(
                target.dial_request(5.0, wants_session=True), lambda: False
            )
        near.close()
        data = b""
        while chunk := far.recv(65536):
            data += chunk
    waker.close()
    head, end, rest = data.partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    first, *lines = head.decode("latin-1").split("\r\n")
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", "".join([first, *lines]))
    return first, [
        (name, value.strip(" \t")) for name, _, value in (x.partition(":") for x in lines)
    ]


def check(target: Target, first: str, fields: list[tuple[str, str]]) -> None:
    """The request is exactly what the target asks for."""
    assert re.fullmatch(r"GET /[!-~]* HTTP/1\.1", first)
    assert first == f"GET {target.url.resource} HTTP/1.1"
    ours = [(name, value) for name, value in fields if name.lower() in OURS]
    assert sorted(name.lower() for name, _ in ours) == sorted(OURS)
    assert ("Host", target.url.host_header) in ours
    expected = list(target.headers)
    if target.subprotocols:
        expected.append(("Sec-WebSocket-Protocol", ",".join(target.subprotocols)))
    if target.token is not None:
        assert not callable(target.token)
        expected.append(("Authorization", f"Bearer {target.token.reveal()}"))
    elif target.url.authorization is not None:
        expected.append(("Authorization", target.url.authorization.reveal()))
    others = [field for field in fields if field not in ours]
    assert {n.lower(): v for n, v in others if n.lower() == "tunnel-resume"} != {}
    others = [field for field in others if field[0].lower() != "tunnel-resume"]
    assert sorted(others) == sorted(expected)


@pytest.mark.fault("header-injection")
@example("", "", "", None, [("X-A", "b\r\nX-Injected: yes")], [])
@example("x\r\nX-Injected: yes", "", "", None, [], [])
@example("", "a\r\nb", "", None, [], [])
@example("", "", "", "token\r\nX: y", [], [])
@example("", "a%0d%0aX:b", "", None, [], [])
@example("", "", "", None, [("X-A", "\u010d\u010aX: y")], [])
@example("", "", "", None, [("A\r\nB", "c")], ["a\r\nb"])
@example("", "u", "", "token", [("Authorization", "other")], ["chat", "b"])
@given(
    resource=nasty,
    user=st.one_of(st.just(""), nasty),
    user_id=nasty,
    token=st.one_of(st.none(), names),
    headers=st.lists(st.tuples(names, nasty), max_size=3),
    subprotocols=st.lists(names, max_size=2),
)
@settings(max_examples=60)
def test_the_request_says_what_was_asked_for(
    resource: str,
    user: str,
    user_id: str,
    token: str | None,
    headers: list[tuple[str, str]],
    subprotocols: list[str],
) -> None:
    """An argument is refused, or its value is on the wire as it is, where it belongs, and alone."""
    credentials = f"{user}@" if user else ""

    def made() -> Target:
        return Target(
            url=TunnelUrl.parse(f"ws://{credentials}127.0.0.1:1/{resource}"),
            user_id=checked_text("user_id", user_id),
            token=checked_token(token),
            headers=validate_headers(headers),
            subprotocols=validate_subprotocols(subprotocols),
        )

    try:
        target = made()
    except ConfigurationError:
        return
    check(target, *sent(target))


@pytest.mark.fault("header-injection")
@pytest.mark.parametrize("injection", LINE_ENDS)
def test_line_ends_are_refused(injection: str) -> None:
    """A line end or a NUL is refused in each argument that goes into the request."""
    bad = f"a{injection}b"
    for call in (
        lambda: TunnelUrl.parse(f"ws://{bad}/"),
        lambda: TunnelUrl.parse(f"ws://{bad}@host/"),
        lambda: TunnelUrl.parse(f"ws://host/{bad}"),
        lambda: checked_token(bad),
        lambda: validate_headers({bad: "x"}),
        lambda: validate_headers({"X-A": bad}),
        lambda: validate_subprotocols([bad]),
    ):
        with pytest.raises(ConfigurationError):
            call()


@pytest.mark.fault("header-injection")
@given(host=st.one_of(nasty, st.text(max_size=30)))
@example("a\r\nX-Injected: yes")
@example("[fe80::1%25\r\n]")
@example("[::1%25a b]")
def test_the_host_is_one_word(host: str) -> None:
    """A host is refused, or the value of `Host` has nothing in it but a host and a port."""
    try:
        url = TunnelUrl.parse(f"ws://{host}")
    except ConfigurationError:
        return
    assert re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", url.host_header)
    assert re.fullmatch(r"/[!-~]*", url.resource)
