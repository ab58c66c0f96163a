"""The payloads of requests, responses and cancellations, byte for byte and against nonsense."""

from __future__ import annotations

import contextlib
import enum
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnel.errors import ConfigurationError
from tunnel.request_frames import (
    MAX_HEADER_SIZE,
    MalformedRequest,
    TunnelRequest,
    decode_cancel,
    decode_request,
    decode_response,
    encode_cancel,
    encode_request,
    encode_response,
)
from tunnel.responses import MAX_REQUEST_ID, Headers, TunnelResponse
from tunnel.session_frames import FrameKind, Parcel

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE = [c for c in map(chr, range(256)) if c == "\t" or (c >= " " and c != "\x7f")]
PATH = [chr(c) for c in range(0x21, 0x7F) if chr(c) != "#"]

ids = st.integers(0, MAX_REQUEST_ID)
tokens = st.text(TOKEN, min_size=1, max_size=20)
fields = st.lists(st.tuples(tokens, st.text(st.sampled_from(VALUE), max_size=30)), max_size=8)
headers = fields.map(Headers)
paths = st.text(st.sampled_from(PATH), max_size=40).map(lambda rest: "/" + rest)
bodies = st.binary(max_size=100)
requests = st.builds(TunnelRequest, ids, tokens, paths, headers, bodies)
responses = st.builds(TunnelResponse, ids, st.integers(100, 999), headers, bodies)

DECODERS: list[Callable[[bytes], object]] = [decode_request, decode_response, decode_cancel]
both = pytest.mark.parametrize("decode", [decode_request, decode_response])


def frame(header: object, body: bytes = b"", request_id: int = 5) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">QI", request_id, len(encoded)) + encoded + body


# Requests


def test_a_request_byte_for_byte() -> None:
    """Id, length of the header, the header as JSON in UTF-8, and the body as it is."""
    request = TunnelRequest(
        0x0102030405060708, "PUT", "/a?b=c", Headers([("X", "é"), ("x", "2")]), b"\0body"
    )
    header = '{"method":"PUT","path":"/a?b=c","headers":[["X","é"],["x","2"]]}'.encode()
    prefix = b"\1\2\3\4\5\6\7\x08" + bytes([0, 0, 0, len(header)])
    assert encode_request(request) == prefix + header + b"\0body"


@given(requests)
def test_the_header_is_what_json_makes_of_it(request: TunnelRequest) -> None:
    """The header, which is written by hand, is to the byte what the standard library writes."""
    fields = list(request.headers.multi_items())
    header = {"method": request.method, "path": request.path, "headers": fields}
    expected = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded = encode_request(request)
    assert encoded[12 : len(encoded) - len(request.payload)] == expected


def test_a_method_may_be_a_member_of_an_enumeration() -> None:
    """What is written is the string that such a member is, not its name."""

    class Method(str, enum.Enum):
        GET = "GET"

    request = TunnelRequest(5, Method.GET, "/", Headers({Method.GET: Method.GET}))
    header = b'{"method":"GET","path":"/","headers":[["GET","GET"]]}'
    assert encode_request(request)[12:] == header


@pytest.mark.parametrize("text", [' {"status":200,"headers":[]}', '{"status":200,"headers":[]}\n '])
def test_white_space_around_a_header_means_nothing(text: str) -> None:
    """It belongs to JSON, as it does anywhere else."""
    assert decode_response(frame(text.encode(), b"body")).payload == b"body"


@given(requests)
def test_a_request_comes_back(request: TunnelRequest) -> None:
    """What was encoded is decoded to the same, and its body to plain bytes."""
    decoded = decode_request(Parcel(FrameKind.REQUEST, encode_request(request)))
    assert decoded == request
    assert decoded.headers.multi_items() == request.headers.multi_items()
    assert type(decoded.payload) is bytes


@pytest.mark.parametrize("method", ["", "GET ", "GET /x", "G\r\nT", "GÉT", "a:b"])
def test_a_method_is_a_token(method: str) -> None:
    """RFC 9110, section 5.6.2: nothing else is sent as a method."""
    with pytest.raises(ConfigurationError, match="not a token"):
        TunnelRequest(1, method, "/")


@pytest.mark.parametrize("path", ["", "x", "http://host/", "*", " /"])
def test_a_path_begins_with_a_slash(path: str) -> None:
    """Anything else is no path."""
    with pytest.raises(ConfigurationError, match="must begin with /"):
        TunnelRequest(1, "GET", path)


@pytest.mark.parametrize(
    "path", ["/a b", "/a\r\nHost: x", "/\0", "/é", "/\ud800", "/a#b", "/\x7f", "/ HTTP/1.1", "/\n"]
)
def test_a_path_cannot_break_a_request_line(path: str) -> None:
    """Spaces, control characters, fragments and what is not ASCII are refused."""
    with pytest.raises(ConfigurationError, match="percent-encode"):
        TunnelRequest(1, "GET", path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("1", "GET", "/"),
        (True, "GET", "/"),
        (1, b"GET", "/"),
        (1, "GET", None),
        (1, "GET", "/", {}),
        (1, "GET", "/", Headers(), "text"),
        (1, "GET", "/", Headers(), None),
    ],
)
def test_a_request_of_wrong_types(arguments: Any) -> None:
    """A wrong type is refused where the request is made."""
    with pytest.raises(TypeError, match="must be"):
        TunnelRequest(*arguments)


def test_repr_of_a_request_shows_no_secret() -> None:
    """Neither the body, nor the query, nor credentials."""
    request = TunnelRequest(
        3, "GET", "/login?token=hush", Headers({"Authorization": "hush"}), b"hush"
    )
    assert "hush" not in repr(request)
    assert repr(TunnelRequest(3, "GET", "/a", payload=b"abc")) == (
        "TunnelRequest(3, GET /a, Headers([]), 3 bytes)"
    )


# Responses


def test_a_response_byte_for_byte() -> None:
    """As a request, with the status in the header."""
    header = b'{"status":404,"headers":[["A","b"]]}'
    expected = b"\0" * 7 + b"\x09" + bytes([0, 0, 0, len(header)]) + header + b"gone"
    assert encode_response(TunnelResponse(9, 404, Headers({"A": "b"}), b"gone", 1.5)) == expected


@given(responses)
def test_a_response_comes_back(response: TunnelResponse) -> None:
    """What was encoded is decoded to the same; the latency is not the other end's business."""
    decoded = decode_response(encode_response(response))
    assert decoded == response
    assert decoded.headers.multi_items() == response.headers.multi_items()
    assert decoded.latency == 0.0


# Both


def test_the_header_is_bounded() -> None:
    """At most 64 KiB come before the body, exactly; the body is not counted."""
    room = MAX_HEADER_SIZE - len(b'{"status":200,"headers":[["a",""]]}')
    full = TunnelResponse(1, 200, Headers({"a": "x" * room}), b"b" * 100_000)
    assert decode_response(encode_response(full)) == full
    with pytest.raises(ConfigurationError, match=f"takes 65537 bytes, of {MAX_HEADER_SIZE}"):
        encode_response(TunnelResponse(1, 200, Headers({"a": "x" * (room + 1)})))
    with pytest.raises(ConfigurationError, match="at most"):
        encode_request(TunnelRequest(1, "GET", "/" + "x" * MAX_HEADER_SIZE))


@both
def test_a_length_beyond_the_bound_is_refused(decode: Callable[[bytes], object]) -> None:
    """Even if there are as many bytes: nothing is parsed."""
    with pytest.raises(MalformedRequest, match="over 65536") as caught:
        decode(frame(b" " * (MAX_HEADER_SIZE + 1)))
    assert caught.value.request_id == 5


@both
def test_what_is_cut_is_malformed(decode: Callable[[bytes], object]) -> None:
    """A frame that ends before its header does is refused; the id is told if it is there."""
    whole = frame({"method": "GET", "path": "/", "status": 200, "headers": []})
    decode(whole)
    for size in range(len(whole)):
        with pytest.raises(MalformedRequest) as caught:
            decode(whole[:size])
        assert caught.value.request_id == (5 if size >= 8 else None)


@both
@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * MAX_HEADER_SIZE, "not JSON"),
        ([], "no JSON object"),
        ("x", "no JSON object"),
        (None, "no JSON object"),
    ],
)
def test_a_header_is_a_json_object(
    decode: Callable[[bytes], object], header: object, text: str
) -> None:
    """In UTF-8 and not nested beyond reason; anything else is refused."""
    with pytest.raises(MalformedRequest, match=text):
        decode(frame(header))


GOOD_REQUEST: dict[str, object] = {"method": "GET", "path": "/", "headers": []}
GOOD_RESPONSE: dict[str, object] = {"status": 200, "headers": []}
BAD_HEADERS: list[object] = [
    None,
    {},
    {"a": "b"},
    ["ab"],
    [["a"]],
    [["a", "b", "c"]],
    [["a", 1]],
    [[1, "a"]],
    [["a", "b\r\nc: d"]],
    [["a\r\n", "b"]],
    [["a", "\u20ac"]],
    [["a", "\ud800"]],
]


@pytest.mark.parametrize(
    "change",
    [
        *({"method": method} for method in (None, 1, "", "G T", "G\nT")),
        *({"path": path} for path in (None, 1, "", "x", "/ x", "/\r\n", "/\ud800", ["/"])),
        *({"headers": bad} for bad in BAD_HEADERS),
    ],
)
def test_a_request_that_is_not_valid_is_malformed(change: dict[str, object]) -> None:
    """What could not be made as a request is not decoded to one; the text names the id."""
    with pytest.raises(MalformedRequest) as caught:
        decode_request(frame({**GOOD_REQUEST, **change}))
    assert caught.value.request_id == 5


@pytest.mark.parametrize(
    "change",
    [
        *({"status": status} for status in (None, "200", 20, 1000, 200.0, True, -1, 10**300)),
        *({"headers": bad} for bad in BAD_HEADERS),
    ],
)
def test_a_response_that_is_not_valid_is_malformed(change: dict[str, object]) -> None:
    """What could not be made as a response is not decoded to one; the text names the id."""
    with pytest.raises(MalformedRequest) as caught:
        decode_response(frame({**GOOD_RESPONSE, **change}))
    assert caught.value.request_id == 5


@pytest.mark.parametrize("name", ["method", "path", "headers"])
def test_nothing_may_be_missing_from_a_request(name: str) -> None:
    """Each of the three has to be said."""
    rest = {key: value for key, value in GOOD_REQUEST.items() if key != name}
    with pytest.raises(MalformedRequest, match=f"{name} is missing"):
        decode_request(frame(rest))


@pytest.mark.parametrize("name", ["status", "headers"])
def test_nothing_may_be_missing_from_a_response(name: str) -> None:
    """Both have to be said."""
    rest = {key: value for key, value in GOOD_RESPONSE.items() if key != name}
    with pytest.raises(MalformedRequest, match=f"{name} is missing"):
        decode_response(frame(rest))


def test_what_a_later_version_adds_is_let_pass() -> None:
    """Names that mean nothing here do no harm."""
    assert decode_request(frame({**GOOD_REQUEST, "new": [1]}, b"x")).payload == b"x"
    assert decode_response(frame({**GOOD_RESPONSE, "new": {}}, b"x")).payload == b"x"


def test_errors_show_no_values() -> None:
    """What is said of a malformed frame may be logged: no value is in it."""
    bad = {**GOOD_REQUEST, "headers": [["Authorization", "Bearer hush\n"]]}
    with pytest.raises(MalformedRequest, match="'Authorization' contains a control") as caught:
        decode_request(frame(bad))
    assert "hush" not in str(caught.value)
    assert "TUNNEL" not in str(caught.value)
    assert caught.value.__suppress_context__


# Cancellations


@given(ids)
def test_a_cancellation_comes_back(request_id: int) -> None:
    """Eight bytes, big-endian."""
    encoded = encode_cancel(request_id)
    assert encoded == request_id.to_bytes(8, "big")
    assert decode_cancel(encoded) == request_id


def test_a_cancellation_has_eight_bytes() -> None:
    """Any other number of them is malformed; and other ids cannot be said."""
    for size in (0, 7, 9, 100):
        with pytest.raises(MalformedRequest, match=f"{size} bytes, not 8"):
            decode_cancel(b"x" * size)
    with pytest.raises(ConfigurationError, match="request_id"):
        encode_cancel(MAX_REQUEST_ID + 1)


# Nonsense

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
near = st.fixed_dictionaries(
    {},
    optional={
        "method": st.just("GET") | json_values,
        "path": st.just("/") | json_values,
        "status": st.just(200) | json_values,
        "headers": st.lists(st.lists(st.text(max_size=5), min_size=2, max_size=2)) | json_values,
    },
)


@given(st.binary(max_size=200) | near.map(frame) | st.binary(max_size=60).map(frame))
@example(frame(b'{"status": ' + b"9" * 60_000 + b', "headers": []}'))
@example(frame(b'{"headers": ' + b'{"a":' * 10_000))
def test_nonsense_is_malformed_and_nothing_else(data: bytes) -> None:
    """Whatever comes, the decoders raise `MalformedRequest` or give what can be encoded again."""
    for decode in DECODERS:
        with contextlib.suppress(MalformedRequest):
            decoded = decode(data)
            if isinstance(decoded, TunnelRequest):
                assert decode_request(encode_request(decoded)) == decoded
            elif isinstance(decoded, TunnelResponse):
                assert decode_response(encode_response(decoded)) == decoded
            else:
                assert isinstance(decoded, int)
