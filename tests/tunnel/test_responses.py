"""Header fields and responses: what they take, what they say, and what they do not show."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnel.errors import ConfigurationError
from tunnel.responses import MAX_REQUEST_ID, Headers, TunnelResponse

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(TOKEN, min_size=1, max_size=20)
VALUE = [c for c in map(chr, range(256)) if c == "\t" or (c >= " " and c != "\x7f")]
values = st.text(st.sampled_from(VALUE), max_size=30).map(lambda v: v.strip(" \t"))
fields = st.lists(st.tuples(names, values), max_size=8)


def response(payload: bytes = b"", content_type: str | None = None) -> TunnelResponse:
    headers = Headers(None if content_type is None else {"content-type": content_type})
    return TunnelResponse(1, 200, headers, payload)


# Headers


def test_names_are_compared_without_regard_to_case() -> None:
    """A value is found under any spelling of its name, and only there."""
    headers = Headers({"Content-Type": "text/plain"})
    assert headers["content-TYPE"] == headers.get("Content-Type") == "text/plain"
    assert "CONTENT-type" in headers
    assert "content" not in headers
    assert not headers.__contains__(1)
    assert headers.get("x") is None
    with pytest.raises(KeyError):
        headers["x"]


def test_order_and_repeated_fields_are_kept() -> None:
    """Every field is there as it was given; as a mapping each name is there once."""
    pairs = [("B", "1"), ("a", "2"), ("b", "3"), ("B", "")]
    headers = Headers(pairs)
    assert headers.multi_items() == tuple(pairs)
    assert headers.get_all("b") == ("1", "3", "")
    assert headers.get_all("c") == ()
    assert list(headers) == ["B", "a"]
    assert len(headers) == 2
    assert dict(headers) == {"B": "1, 3, ", "a": "2"}  # RFC 9110, section 5.3


def test_cookies_are_not_joined() -> None:
    """Of several Set-Cookie the mapping has the first: a joined one would be another cookie."""
    headers = Headers([("Set-Cookie", "a=1"), ("set-cookie", "b=2")])
    assert headers["set-cookie"] == "a=1"
    assert headers.get_all("Set-Cookie") == ("a=1", "b=2")


@given(fields)
def test_headers_are_made_of_what_they_give(pairs: list[tuple[str, str]]) -> None:
    """Headers made of headers, or of their pairs, are equal, and have the same hash."""
    headers = Headers(pairs)
    assert headers.multi_items() == tuple(pairs)
    for other in (Headers(headers), Headers(headers.multi_items()), copy.deepcopy(headers)):
        assert other == headers
        assert hash(other) == hash(headers)
        assert other.multi_items() == headers.multi_items()
    assert pickle.loads(pickle.dumps(headers)) == headers


def test_equality() -> None:
    """Headers are equal if each name has the same values in the same order."""
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers == Headers([("B", "2"), ("a", "1"), ("A", "3")])
    assert headers != Headers([("A", "3"), ("b", "2"), ("a", "1")])
    assert headers != Headers([("A", "1, 3"), ("b", "2")])
    assert Headers({"a": "1"}) != {"a": "1"}


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    """Spaces and tabs around a value go; those within stay."""
    assert Headers({"a": " \tx \ty\t "})["a"] == "x \ty"


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", "a\r\nb", "\r\n", "ä", "a\0", "(a)", "Authorization: Bearer x"]
)
def test_a_name_is_a_token(name: str) -> None:
    """A name that is no token is refused, and of what may be a whole line little is shown."""
    with pytest.raises(ConfigurationError, match="is not a token") as caught:
        Headers({name: "v"})
    assert "Bearer" not in str(caught.value)


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\x7f", "\x1b", "\r\nSet-Cookie: a=b"])
def test_no_value_can_begin_another_header(bad: str) -> None:
    """A value with a control character is refused, without being shown."""
    with pytest.raises(ConfigurationError, match="'X-A' contains a control char") as caught:
        Headers({"X-A": f"secret{bad}x"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bad", ["€", "Ā", "\ud800"])
def test_a_value_is_latin_1(bad: str) -> None:
    """HTTP/1.1 cannot carry more than Latin-1; its upper half is fine."""
    with pytest.raises(ConfigurationError, match="'a' contains a character that is not in Latin-1"):
        Headers({"a": bad})
    assert Headers({"a": "é\xff"})["a"] == "é\xff"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("ab", "pairs"),
        ([("a", "b", "c")], "pairs"),
        ([1], "pairs"),
        ({1: "a"}, "name must be a str, not int"),
        ({"a": b"secret"}, "the value of the header 'a' must be a str"),
        ({"a": None}, "the value of the header 'a' must be a str"),
    ],
)
def test_wrong_types(fields: Any, text: str) -> None:
    """What is neither a mapping nor pairs of texts is a TypeError that shows no value."""
    with pytest.raises(TypeError, match=text) as caught:
        Headers(fields)
    assert "secret" not in str(caught.value)


def test_repr_hides_what_is_secret() -> None:
    """Values of headers for credentials are not shown; others are."""
    secret = [
        "Authorization",
        "proxy-authorization",
        "Cookie",
        "SET-COOKIE",
        "X-Api-Key",
        "x-auth-token",
    ]
    headers = Headers([*((name, "hush") for name in secret), ("Accept", "text/*")])
    assert "hush" not in repr(headers)
    assert all(name in repr(headers) for name in secret)
    assert repr(Headers({"Accept": "text/*"})) == "Headers([('Accept', 'text/*')])"
    assert "hush" not in repr(TunnelResponse(1, 200, headers))


# Responses


def test_a_response_is_what_was_given() -> None:
    """The attributes are there, with defaults for what an answer need not have."""
    answer = TunnelResponse(7, HTTPStatus.NOT_FOUND)
    assert (answer.request_id, answer.status_code) == (7, 404)
    assert (dict(answer.headers), answer.payload, answer.latency) == ({}, b"", 0.0)
    with pytest.raises(FrozenInstanceError):
        answer.status_code = 200  # type: ignore[misc]


def test_repr_leaves_the_payload_out() -> None:
    """A payload may be long, and may be secret."""
    assert "hush" not in repr(TunnelResponse(1, 200, Headers(), b"hush"))


@pytest.mark.parametrize("status", [99, 1000, -200, 0])
def test_a_status_has_three_digits(status: int) -> None:
    """Any other number is refused."""
    with pytest.raises(ConfigurationError, match="three digits"):
        TunnelResponse(1, status)


@pytest.mark.parametrize("request_id", [-1, MAX_REQUEST_ID + 1])
def test_an_id_has_eight_bytes(request_id: int) -> None:
    """A number that does not fit is refused; the bounds fit."""
    with pytest.raises(ConfigurationError, match="request_id"):
        TunnelResponse(request_id, 200)
    assert TunnelResponse(0, 200) != TunnelResponse(MAX_REQUEST_ID, 999)


@pytest.mark.parametrize(
    "arguments",
    [("1", 200), (1, "200"), (1, True), (1, 200.0), (1, 200, {}), (1, 200, Headers(), "text")],
)
def test_a_response_of_wrong_types(arguments: Iterable[Any]) -> None:
    """A wrong type is refused where the response is made."""
    with pytest.raises(TypeError, match=r"must be (int|bytes|Headers), not"):
        TunnelResponse(*arguments)


@pytest.mark.parametrize(
    ("content_type", "payload", "text"),
    [
        (None, "ä€".encode(), "ä€"),
        ("text/plain", "ä".encode(), "ä"),
        ("text/plain; charset=utf-8", "ä".encode(), "ä"),
        ("text/plain; charset=iso-8859-1", b"\xe4", "ä"),
        ("text/plain;CHARSET=Latin-1", b"\xe4", "ä"),
        ('text/plain; charset="latin-1"; x=y', b"\xe4", "ä"),
        ('text/plain; x="; charset=utf-16"; charset=latin-1', b"\xe4", "ä"),
        ("text/plain; charset=utf-16", "ä".encode("utf-16"), "ä"),
        ("text/plain; charset=", "ä".encode(), "ä"),
        ("text/plain; charset=nonsense", "ä".encode(), "ä"),
        ("text/plain; charset=hex", "ä".encode(), "ä"),
        ("text/plain; charset=punycode", "ä".encode(), "ä"),
        ("text/plain; charset=unicode_escape", b"\\n", "\\n"),
        ("charset=latin-1", "ä".encode(), "ä"),
        (None, b"a\xff", "a�"),
    ],
)
def test_text(content_type: str | None, payload: bytes, text: str) -> None:
    """The charset of Content-Type decodes the text; UTF-8 where it is missing or means nothing."""
    assert response(payload, content_type).text == text


@given(st.binary(max_size=50), values)
@example(b"x", "text/plain; charset=" + "\xe4")
@example(b"x", "text/plain; charset=idna")
@example(b"x", "text/plain; charset=undefined")
def test_text_never_raises(payload: bytes, value: str) -> None:
    """Whatever the peer says of the charset, there is a text."""
    assert isinstance(response(payload, value).text, str)
    assert isinstance(response(payload, f"text/plain; charset={value}").text, str)


def test_json() -> None:
    """JSON in any of its encodings, whatever the Content-Type; else a ValueError."""
    assert response(b'{"a": [1, null]}').json() == {"a": [1, None]}
    assert response('"ä"'.encode("utf-16"), "text/plain; charset=latin-1").json() == "ä"
    for payload in (b"", b"{", b"\xff\xff", b"[" * 200_000):
        with pytest.raises(ValueError):
            response(payload).json()
