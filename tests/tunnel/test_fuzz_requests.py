"""Payloads of requests, answers and cancellations that hold anything: read whole, or refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import ConfigurationError
from tunnel.request_frames import (
    MalformedRequest,
    decode_cancel,
    decode_request,
    decode_response,
    encode_cancel,
    encode_request,
    encode_response,
)

texts = st.text(max_size=12) | st.sampled_from(
    ["GET", "/", "/a?b", "/\r\nX: y", "a:b", "\ud800", ""]
)
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
names = st.sampled_from(["method", "path", "headers", "status"]) | texts
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)
headers = st.lists(st.tuples(texts, texts).map(list) | anything, max_size=3) | anything
heads = st.fixed_dictionaries(
    {},
    optional={
        "method": st.just("GET") | anything,
        "path": st.just("/") | anything,
        "status": st.integers(0, 1100) | anything,
        "headers": headers,
    },
)
JSON = (heads | anything).map(json.dumps).map(str.encode) | st.sampled_from(
    [b"[" * 5000, b'{"a":' * 900, b"9" * 5000, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"NaN"]
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """A payload, of which a length may be wrong or a byte changed."""
    head = draw(JSON)
    size = max(0, len(head) + draw(st.sampled_from([0, 0, 0, 1, -1, 2**31])))
    number = draw(st.integers(0, 2**64 - 1))
    payload = bytearray(struct.pack(">QI", number, size) + head + draw(st.binary(max_size=9)))
    for place in draw(st.lists(st.integers(0, len(payload) - 1), max_size=2)):
        payload[place] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.none() | st.integers(0, len(payload)))])


@pytest.mark.fault("any-request-payload")
@pytest.mark.parametrize(
    ("decode", "encode"),
    [
        (decode_request, encode_request),
        (decode_response, encode_response),
        (decode_cancel, encode_cancel),
    ],
)
@given(payload=payloads() | st.binary(max_size=40))
def test_what_is_read_can_be_written(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes], payload: bytes
) -> None:
    """Any bytes are refused by the documented error, or stand for what can be written again."""
    known: int | None = None
    try:
        read = decode(payload)
    except MalformedRequest as refusal:
        read, known = None, refusal.request_id
    if read is None:
        assert known is None or payload[:8] == known.to_bytes(8, "big")
        return
    try:
        written = encode(read)
    except ConfigurationError:
        assert len(payload) > 2**15  # another spelling of the same may be too long
        return
    assert decode(written) == read
