"""What is said to a proxy before the connection is ours, without sockets and clocks.

h11 speaks HTTP (CONNECT: RFC 9110, section 9.3.6), socksio SOCKS 4, 4a and 5 (RFC 1928 and 1929).
Both are sans-I/O, so the talk stands under the dial's deadline, and nothing of it blocks. They are
imported when a proxy is used: only the extra ``proxy`` installs them.

Nothing is read beyond the proxy's answer, as the bytes after it are the server's; and of HTTP,
where the end shows only when it is there, no more than `MAX_ANSWER_SIZE`. The body of a refusal is
not read. No text quotes the proxy.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

from tunnel.errors import ProxyError
from tunnel.proxy import Proxy
from tunnel.proxy_errors import (
    credentials_refused,
    error_for_connect_status,
    error_for_socks_reply,
    invalid_answer,
)

if TYPE_CHECKING:
    import h11

Conversation: TypeAlias = Generator[bytes | int, bytes, None]
"""Yields what is to be written, or how many bytes at most to read; these are sent in, b"" at the
end of the stream. It returns once the way to the server is open."""

MAX_ANSWER_SIZE = 64 * 1024
"""Bytes of a proxy's headers before they count as an attack."""

_CHUNK = 4096
_SOCKS5_ADDRESS_SIZES = {1: 4, 4: 16}


def conversation(proxy: Proxy, host: str, port: int) -> Conversation:
    """Ask a proxy for a connection to a server.

    Args:
        proxy: Whom to ask; it decides about the protocol.
        host: The server: a name, or an address if the proxy wants one.
        port: The server's.

    Raises:
        TunnelError: By the generator: the proxy refuses, or what it says is not valid.
    """
    if proxy.scheme in ("http", "https"):
        return _http_connect(proxy, host, port)
    if proxy.scheme in ("socks4", "socks4a"):
        return _socks4(proxy, host, port)
    return _socks5(proxy, host, port)


def _http_connect(proxy: Proxy, host: str, port: int) -> Conversation:
    import h11

    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_SIZE)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", authority)]
    if proxy.authorization is not None:
        headers.append(("Proxy-Authorization", proxy.authorization.reveal()))
    yield connection.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b""
    connection.send(h11.EndOfMessage())
    response = yield from _http_response(connection)
    status = response.status_code
    if not 200 <= status <= 299:
        fields = {name.decode("ascii"): value.decode("latin-1") for name, value in response.headers}
        text = f"the proxy answered CONNECT with HTTP {status}"
        raise error_for_connect_status(status, text, fields)
    if connection.trailing_data[0]:  # both TLS and the upgrade begin with our words
        raise invalid_answer("something follows it before the server was spoken to")


def _http_response(connection: h11.Connection) -> Generator[int, bytes, h11.Response]:
    import h11

    left = MAX_ANSWER_SIZE
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            raise invalid_answer("it is no HTTP") from None
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            if not left:
                raise invalid_answer("its headers do not come to an end")
            data = yield min(_CHUNK, left)
            if not data:
                raise _hung_up()
            left -= len(data)
            connection.receive_data(data)
        # What else there is before the response are 1xx ones, which say nothing.


def _socks5(proxy: Proxy, host: str, port: int) -> Conversation:
    import socksio

    connection = socksio.SOCKS5Connection()
    methods = [socksio.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.credentials is not None:
        methods.append(socksio.SOCKS5AuthMethod.USERNAME_PASSWORD)
    connection.send(socksio.SOCKS5AuthMethodsRequest(methods))
    yield connection.data_to_send()
    version, method = yield from _exactly(2)
    if version != 5:
        raise invalid_answer("it is no SOCKS5")
    if method == 0xFF:
        wanted = "other credentials" if proxy.credentials is not None else "credentials"
        raise credentials_refused(f"the SOCKS5 proxy wants {wanted}")
    if bytes([method]) not in methods:
        raise invalid_answer("it wants an authentication that was not offered")
    connection.receive_data(bytes([version, method]))
    if method and proxy.credentials is not None:
        connection.send(
            socksio.SOCKS5UsernamePasswordRequest(
                *proxy.credentials.reveal().encode("utf-8").split(b":", 1)
            )
        )
        yield connection.data_to_send()
        _, failure = yield from _exactly(2)
        if failure:
            raise credentials_refused("the SOCKS5 proxy refused user name and password")
        connection.receive_data(b"\x01\x00")  # whatever version it says: some say 5
    request = socksio.SOCKS5CommandRequest.from_address(socksio.SOCKS5Command.CONNECT, (host, port))
    connection.send(request)
    yield connection.data_to_send()
    yield from _socks5_reply()


def _socks5_reply() -> Generator[int, bytes, None]:
    """The reply to the request. The address in it is of no use, but is to be read."""
    version, reply, _, kind = yield from _exactly(4)
    if version != 5:
        raise invalid_answer("it is no SOCKS5")
    if reply:
        raise error_for_socks_reply(5, reply)
    if kind == 3:
        (size,) = yield from _exactly(1)
    elif kind in _SOCKS5_ADDRESS_SIZES:
        size = _SOCKS5_ADDRESS_SIZES[kind]
    else:
        raise invalid_answer("an address of a kind that is not known")
    yield from _exactly(size + 2)


def _socks4(proxy: Proxy, host: str, port: int) -> Conversation:
    import socksio

    kind: type[socksio.SOCKS4Request] | type[socksio.SOCKS4ARequest] = socksio.SOCKS4ARequest
    if _is_ipv4(host):
        kind = socksio.SOCKS4Request
    user = b"" if proxy.credentials is None else proxy.credentials.reveal().encode()
    request = kind.from_address(
        socksio.SOCKS4Command.CONNECT, (host, port), user.removesuffix(b":")
    )
    yield request.dumps()
    answer = yield from _exactly(8)
    if answer[0] != 0:
        raise invalid_answer("it is no SOCKS4")
    reply = socksio.SOCKS4ReplyCode.REQUEST_GRANTED
    if answer[1:2] != reply.value:
        raise error_for_socks_reply(4, answer[1])


def _is_ipv4(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _exactly(size: int) -> Generator[int, bytes, bytes]:
    data = b""
    while len(data) < size:
        more = yield size - len(data)
        if not more:
            raise _hung_up()
        data += more
    return data


def _hung_up() -> ProxyError:
    return ProxyError("the proxy hung up before the way to the server was open")
