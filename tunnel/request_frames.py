"""The bytes of requests, their answers and cancellations: `docs/wire-protocol.rst` in code. Pure.

They travel as the payloads of numbered frames (`tunnel.session_frames`)::

    REQUEST   id (8 bytes)  length (4)  {"method", "path", "headers": [[name, value], ...]}  body
    RESPONSE  id (8 bytes)  length (4)  {"status", "headers": [[name, value], ...]}          body
    CANCEL    id (8 bytes)

Numbers are big-endian. `length` is that of the JSON, which is UTF-8; what it has besides these
names means nothing and is let pass. All after it is the body.

What is made here is valid, and what is decoded here was checked in the same way, so neither end can
be made to write headers or requests that are not its own. Decoding looks at 64 KiB at most besides
the body, which it only copies, and raises nothing but `MalformedRequest`.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from tunnel.errors import ConfigurationError
from tunnel.responses import (
    NO_HEADERS,
    Headers,
    TunnelResponse,
    check_fields,
    check_request_id,
    check_types,
    headers_of,
    is_token,
)

MAX_HEADER_SIZE = 65_536
"""Bytes of the JSON at most: method, path and headers, or status and headers."""

_PREFIX = struct.Struct(">QI")
_ID = struct.Struct(">Q")

# Written by hand, since setting an encoder up takes longer than the whole of a short header.
_quoted = json.encoder.encode_basestring
_decode = json.JSONDecoder().raw_decode

# RFC 3986 leaves nothing but visible ASCII; "#" would begin a fragment, which is never sent.
_PATH = re.compile(r"/[!\"$-~]*")


class MalformedRequest(Exception):
    """Bytes that are no request, response or cancellation. The text shows nothing secret of them.

    Attributes:
        request_id: The request that it is about, for an answer that says so; None if there are too
            few bytes even for that.
    """

    def __init__(self, message: str, request_id: int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


@dataclass(frozen=True, init=False)
class TunnelRequest:
    """What the client asks of the other end.

    Attributes:
        request_id: The number by which the answer is found.
        method: A token, such as GET (RFC 9110, section 5.6.2). Upper and lower case differ.
        path: With the query, if there is one; as in a URL, percent-encoded. It may begin with two
            slashes: append it to a base, never join it as a URL, or it may name another host.
        headers: The header fields.
        payload: The body.

    Raises:
        ConfigurationError: The id, the method or the path is not valid. The text shows neither.
        TypeError: A value has the wrong type.
    """

    request_id: int
    method: str
    path: str
    headers: Headers
    payload: bytes

    def __init__(
        self,
        request_id: int,
        method: str,
        path: str,
        headers: Headers = NO_HEADERS,
        payload: bytes = b"",
    ) -> None:
        check_fields(request_id, headers, payload)
        if type(method) is not str or type(path) is not str:
            check_types(("method", method, str), ("path", path, str))
        if not is_token(method):
            raise ConfigurationError(
                "the method is not a token (RFC 9110, 5.6.2), like GET or POST"
            )
        _check_path(path)
        self.__dict__.update(
            request_id=request_id, method=method, path=path, headers=headers, payload=payload
        )

    def __repr__(self) -> str:
        path, has_query, _ = self.path.partition("?")
        shown = f"{path}?..." if has_query else path  # a query may hold a token
        return (
            f"TunnelRequest({self.request_id}, {self.method} {shown}, {self.headers!r}, "
            f"{len(self.payload)} bytes)"
        )


def encode_request(request: TunnelRequest) -> bytes:
    """The payload of a REQUEST frame.

    Raises:
        ConfigurationError: Method, path and headers take more than `MAX_HEADER_SIZE` bytes.
    """
    method, path = _quoted(request.method), _quoted(request.path)
    header = f'{{"method":{method},"path":{path},"headers":[{_listed(request.headers)}]}}'
    return _joined(request.request_id, header, request.payload)


def decode_request(payload: bytes) -> TunnelRequest:
    """The request of a REQUEST frame.

    Raises:
        MalformedRequest: There is none, or it is not valid.
    """
    request_id, header, body = _split(payload)
    try:
        method, path, fields = header["method"], header["path"], header["headers"]
        return TunnelRequest(request_id, method, path, _headers_of(fields), body)
    except (ConfigurationError, TypeError, KeyError) as error:
        raise _malformed(error, request_id) from None


def encode_response(response: TunnelResponse) -> bytes:
    """The payload of a RESPONSE frame. The latency stays behind.

    Raises:
        ConfigurationError: The headers take more than `MAX_HEADER_SIZE` bytes.
    """
    header = f'{{"status":{response.status_code:d},"headers":[{_listed(response.headers)}]}}'
    return _joined(response.request_id, header, response.payload)


def decode_response(payload: bytes) -> TunnelResponse:
    """The response of a RESPONSE frame; its latency is 0.0.

    Raises:
        MalformedRequest: There is none, or it is not valid.
    """
    request_id, header, body = _split(payload)
    try:
        status, fields = header["status"], header["headers"]
        return TunnelResponse(request_id, status, _headers_of(fields), body)
    except (ConfigurationError, TypeError, KeyError) as error:
        raise _malformed(error, request_id) from None


def encode_cancel(request_id: int) -> bytes:
    """The payload of a CANCEL frame.

    Raises:
        ConfigurationError: The id is out of bounds.
    """
    check_request_id(request_id)
    return _ID.pack(request_id)


def decode_cancel(payload: bytes) -> int:
    """The id of the request that a CANCEL frame is about.

    Raises:
        MalformedRequest: There is none.
    """
    if len(payload) != _ID.size:
        raise MalformedRequest(f"{len(payload)} bytes, not {_ID.size}")
    request_id: int = _ID.unpack(payload)[0]
    return request_id


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise ConfigurationError("the path must begin with /")
    if not _PATH.fullmatch(path):
        raise ConfigurationError(
            "the path contains a space, a control character, a '#' or one that is not ASCII; "
            "percent-encode it (urllib.parse.quote)"
        )


def _listed(headers: Headers) -> str:
    fields = headers.multi_items()
    return ",".join([f"[{_quoted(n)},{_quoted(v)}]" for n, v in fields]) if fields else ""


def _joined(request_id: int, header: str, body: bytes) -> bytes:
    encoded = header.encode()
    if len(encoded) > MAX_HEADER_SIZE:
        raise ConfigurationError(
            f"what goes before the body takes {len(encoded)} bytes, of {MAX_HEADER_SIZE} at most"
        )
    return b"".join((_PREFIX.pack(request_id, len(encoded)), encoded, body))


def _split(payload: bytes) -> tuple[int, dict[str, Any], bytes]:
    if len(payload) < _PREFIX.size:
        known = _ID.unpack_from(payload)[0] if len(payload) >= _ID.size else None
        raise MalformedRequest(f"{len(payload)} bytes, not {_PREFIX.size} or more", known)
    request_id, size = _PREFIX.unpack_from(payload)
    if size > MAX_HEADER_SIZE:
        raise MalformedRequest(f"a header of {size} bytes, over {MAX_HEADER_SIZE}", request_id)
    end = _PREFIX.size + size
    if end > len(payload):
        raise MalformedRequest(
            f"a header of {size} bytes where {len(payload) - _PREFIX.size} follow", request_id
        )
    try:
        header = _parsed(payload[_PREFIX.size : end].decode())
    except (ValueError, RecursionError):
        raise MalformedRequest("a header that is not JSON in UTF-8", request_id) from None
    if not isinstance(header, dict):
        raise MalformedRequest("a header that is no JSON object", request_id)
    return request_id, header, payload[end:]


def _parsed(text: str) -> Any:
    """What the JSON says; with nothing around it, which is what we write, in half the time."""
    if text[:1] == "{":
        value, end = _decode(text)
        if end == len(text):
            return value
    return json.loads(text)


def _headers_of(fields: Any) -> Headers:
    if not isinstance(fields, list):  # an object could not repeat a name
        raise TypeError(f"headers must be a list, not {type(fields).__name__}")
    return headers_of(fields)


def _malformed(error: Exception, request_id: int) -> MalformedRequest:
    if isinstance(error, KeyError):
        return MalformedRequest(f"{error.args[0]} is missing", request_id)
    text = error.message if isinstance(error, ConfigurationError) else str(error)
    return MalformedRequest(text, request_id)
