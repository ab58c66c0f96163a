"""Requests through the gateway to a real HTTP service, and everything that can go wrong there."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiohttp import web
from gateway_client import TunnelClient
from peers import DEADLINE, RawServer

from tunnel.gateway import GatewayThread

BIG = bytes(range(256)) * 4 * 4096  # 4 MiB


class HttpService:
    """An aiohttp service in a thread of its own."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        self.peers: set[object] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> HttpService:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        fields = [(name, value) for name, value in request.headers.items()]
        self.requests.append((request.method, request.raw_path, fields, body))
        if request.path.endswith("/redirect"):
            raise web.HTTPFound("http://127.0.0.1:1/elsewhere")
        if request.path.endswith("/slow"):
            await asyncio.sleep(DEADLINE)
        if request.path.endswith("/chunked"):
            response = web.StreamResponse(headers={"Trailer": "X-Sum"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            for start in range(0, len(BIG), 2**18):
                await response.write(BIG[start : start + 2**18])
            await response.write_eof()
            return response
        status = int(request.query.get("status", "200"))
        answer = web.Response(status=status, body=body)
        answer.headers["X-Seen"] = "grün"
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer


@pytest.fixture
def service() -> Iterator[HttpService]:
    with HttpService() as service:
        yield service


def run(
    scenario: Callable[[TunnelClient], Coroutine[Any, Any, None]], forward: str, **options: Any
) -> None:
    """Run a scenario with a client of a gateway that forwards."""

    async def main(url: str) -> None:
        async with TunnelClient(url) as client:
            await scenario(client)

    with GatewayThread(forward=forward, **options) as gateway:
        asyncio.run(main(gateway.url))


async def ask(
    client: TunnelClient, path: str = "/", **options: Any
) -> tuple[int, dict[str, str], bytes]:
    """Send a request and wait for its answer."""
    number = len(client.answers) + 1
    client.request(number, path, **options)
    await client.until(lambda: number in client.answers)
    status, fields, body = client.answers[number]
    return status, dict(map(tuple, fields)), body  # type: ignore[arg-type]


def test_method_path_headers_and_body_arrive(service: HttpService) -> None:
    """The service sees what the client asked for, and nothing of the connection in between."""

    async def scenario(client: TunnelClient) -> None:
        fields = {
            "X-Custom": "value, more",
            "Accept": "a/b",
            "Authorization": "Bearer for-the-service",
            "Host": "evil.example",
            "Connection": "close, X-Named",
            "X-Named": "only for this connection",
            "Transfer-Encoding": "chunked",
            "TE": "trailers",
            "Upgrade": "websocket",
            "Expect": "100-continue",
            "Content-Length": "5",
            "Content-Type": "text/x",
        }
        path = "/a%20b/c?q=1&r=%2F&empty"
        status, _, body = await ask(client, path, method="PATCH", headers=fields, body=b"hello!")
        assert (status, body) == (200, b"hello!")

    run(scenario, service.url)
    method, path, fields, body = service.requests[0]
    assert (method, path, body) == ("PATCH", "/a%20b/c?q=1&r=%2F&empty", b"hello!")
    assert sorted(fields) == [
        ("Accept", "a/b"),
        ("Authorization", "Bearer for-the-service"),
        ("Content-Length", "6"),
        ("Content-Type", "text/x"),
        ("Host", service.url.removeprefix("http://")),
        ("X-Custom", "value, more"),
    ]


@pytest.mark.parametrize("status", [200, 201, 404, 418, 500, 503])
def test_status_headers_and_body_come_back(service: HttpService, status: int) -> None:
    """Any status is an answer; repeated headers stay apart."""

    async def scenario(client: TunnelClient) -> None:
        client.request(1, f"/?status={status}", body=b"payload")
        await client.until_received(1)
        got, fields, body = client.answers[1]
        assert (got, body) == (status, b"payload")
        assert [value for name, value in fields if name == "Set-Cookie"] == ["a=1", "b=2"]
        assert ["X-Seen", "grün".encode().decode("latin-1")] in fields
        names = {name for name, _ in fields}
        assert "Connection" not in names

    run(scenario, service.url)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT"])
def test_methods_without_a_body(service: HttpService, method: str) -> None:
    """A method that has no body sends none, not even its length; PUT says that it is empty."""

    async def scenario(client: TunnelClient) -> None:
        status, _, body = await ask(client, "/x", method=method)
        assert (status, body) == (200, b"")

    run(scenario, service.url)
    fields = dict(service.requests[0][2])
    assert service.requests[0][0] == method
    assert fields.get("Content-Length") == ("0" if method == "PUT" else None)
    assert "Transfer-Encoding" not in fields


def test_large_bodies_both_ways(service: HttpService) -> None:
    """Mebibytes of binary data arrive unchanged, with a length or in chunks."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client, "/", body=BIG))[2] == BIG
        status, fields, body = await ask(client, "/chunked", method="GET")
        assert (status, body) == (200, BIG)
        assert not {"Transfer-Encoding", "Trailer"} & set(fields)

    run(scenario, service.url)


def test_a_connection_is_used_again(service: HttpService) -> None:
    """Requests one after the other share one connection to the service."""

    async def scenario(client: TunnelClient) -> None:
        for _ in range(20):
            assert (await ask(client, "/", body=b"x"))[0] == 200

    run(scenario, service.url)
    assert len(service.peers) < 5


def test_a_connection_that_was_idle_is_not_trusted(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while a new one is made, since the service may close the old one any moment."""
    monkeypatch.setattr("tunnel.gateway.forwarding._REUSE_WITHIN", -1.0)

    async def scenario(client: TunnelClient) -> None:
        for _ in range(3):
            assert (await ask(client))[0] == 200

    run(scenario, service.url)
    assert len(service.peers) == 3


def test_many_at_once(service: HttpService) -> None:
    """Hundreds of concurrent requests each get their own answer."""

    async def scenario(client: TunnelClient) -> None:
        for number in range(400):
            client.request(number, "/", body=str(number).encode())
        await client.until_received(400)
        assert all(client.answers[n][::2] == (200, str(n).encode()) for n in range(400))

    run(scenario, service.url)


def test_redirects_are_not_followed(service: HttpService) -> None:
    """The client gets the 302 and may decide for itself."""

    async def scenario(client: TunnelClient) -> None:
        status, fields, _ = await ask(client, "/redirect")
        assert (status, fields["Location"]) == (302, "http://127.0.0.1:1/elsewhere")

    run(scenario, service.url)


def test_the_base_path_goes_first(service: HttpService) -> None:
    """A service below a path is reached there."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client, "/x?y"))[0] == 200

    run(scenario, service.url + "/base/")
    assert service.requests[0][1] == "/base/x?y"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/x",
        "/../secret",
        "/a/%2e%2e/secret",
        "/a/..%2fsecret",
        "/a\\..\\secret",
        "/..",
        "http://evil.example/",
        "@evil.example/",
        "/a b",
        "/a\r\nHost: evil.example",
        "",
        "*",
    ],
)
def test_no_path_leads_away(service: HttpService, path: str) -> None:
    """What could mean another place, or another request, is refused with 400."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client, path))[0] == 400

    run(scenario, service.url + "/base")
    assert service.requests == []


def test_headers_cannot_bring_others_with_them(service: HttpService) -> None:
    """A header whose value contains a line break is refused with 400."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client, "/", headers={"X": "1\r\nEvil: 2"}))[0] == 400
        assert (await ask(client, "/", method="GET / HTTP/1.1\r\n"))[0] == 400
        assert (await ask(client, "/", method="CONNECT"))[0] == 501

    run(scenario, service.url)
    assert service.requests == []


def test_proxies_of_the_environment_are_not_used(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is spoken to directly, whatever http_proxy says."""

    async def scenario(client: TunnelClient) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert (await ask(client))[0] == 200

    run(scenario, service.url)


def test_nobody_listens() -> None:
    """A service that is not running is a 502 that says so, and shows no address."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    async def scenario(client: TunnelClient) -> None:
        status, fields, body = await ask(client)
        assert (status, body) == (502, b"The service refuses connections; is it running?")
        assert fields["Content-Type"] == "text/plain; charset=utf-8"

    run(scenario, f"http://127.0.0.1:{port}")


def test_a_name_that_does_not_exist() -> None:
    """A service whose name cannot be resolved is a 502."""

    async def scenario(client: TunnelClient) -> None:
        status, _, body = await ask(client)
        assert (status, body) == (502, b"The service's name cannot be resolved.")

    run(scenario, "http://does-not-exist.invalid")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", b"The service closed the connection without an answer."),
        (b"SSH-2.0-x\r\n", b"What the service answered is no valid HTTP."),
        (b"HTTP/1.1 103 Early\r\n\r\n", b"What the service answered is no valid HTTP."),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            b"The service's answer ended in the middle.",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
            b"The service's answer ended in the middle.",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000,
            b"The answer has more than the 2000 bytes allowed.",
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 3000,
            b"The answer has more than the 2000 bytes allowed.",
        ),
        (
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 60_000 + b"\r\nX: " + b"y" * 60_000 + b"\r\n\r\n",
            b"The answer cannot be passed on: ",
        ),
    ],
)
def test_a_service_that_answers_wrongly(answer: bytes, sentence: bytes) -> None:
    """What is no whole answer is a 502 that says what it was."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.sock.sendall(answer)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_until_gone()

    async def main(url: str) -> None:
        from tunnel.session_frames import Limits

        client = TunnelClient(url, limits=Limits(100, 10_000, 2000))
        await client.connect()
        status, _, body = await ask(client)
        assert status == 502
        assert body.startswith(sentence)
        await client.close()

    with (
        RawServer(script) as server,
        GatewayThread(forward=f"http://127.0.0.1:{server.port}") as gateway,
    ):
        asyncio.run(main(gateway.url))


def test_a_folded_header_is_unfolded() -> None:
    """A header over several lines comes back as one line (RFC 9112, section 5.2)."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 0\r\n\r\n")
        peer.wait_until_gone()

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client))[1]["X"] == "a b"

    with RawServer(script) as server:
        run(scenario, f"http://127.0.0.1:{server.port}")


def test_a_service_that_answers_before_it_has_read_all() -> None:
    """Its answer is passed on, though it closed the connection under the rest of the body."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_until_gone()

    async def scenario(client: TunnelClient) -> None:
        status, _, body = await ask(client, body=BIG)
        assert (status, body) == (413, b"no")

    with RawServer(script) as server:
        run(scenario, f"http://127.0.0.1:{server.port}")


def test_a_service_that_is_too_slow(service: HttpService) -> None:
    """At the time limit the answer is 504, and the connection to the service is broken off."""

    async def scenario(client: TunnelClient) -> None:
        status, _, body = await ask(client, "/slow")
        assert (status, body) == (504, b"There was no answer within 0.1 s.")
        assert (await ask(client, "/quick"))[0] == 200

    run(scenario, service.url, request_timeout=0.1, workers=1)


def test_a_service_that_drips(service: HttpService) -> None:
    """A byte now and then does not prolong the time limit, which is for the whole."""
    gone = threading.Event()

    def script(peer: Any) -> None:
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while not gone.wait(0.01):
                peer.sock.sendall(b"x")
        finally:
            gone.set()

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client))[0] == 504
        assert await asyncio.to_thread(gone.wait, DEADLINE)

    with RawServer(script) as server:
        run(scenario, f"http://127.0.0.1:{server.port}", request_timeout=0.2)


def test_a_cancelled_request_leaves_the_service(service: HttpService) -> None:
    """CANCEL breaks off the exchange with the service, so that its thread is free again."""

    async def scenario(client: TunnelClient) -> None:
        client.request(1, "/slow")
        await client.ask()
        while not service.requests:
            await asyncio.sleep(0.001)
        client.cancel(1)
        client.request(2, "/quick")
        await client.until_received(1)
        assert list(client.answers) == [2]

    run(scenario, service.url, workers=1)


def test_a_body_that_is_too_large(service: HttpService) -> None:
    """Beyond the limit a body is not forwarded, and the answer is 413."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client, body=b"x" * 1000))[0] == 200
        status, _, body = await ask(client, body=b"x" * 1001)
        assert (status, body) == (413, b"The body has more than 1000 bytes.")

    run(scenario, service.url, max_request_size=1000)


def test_a_service_that_closes_idle_connections() -> None:
    """A connection that it has closed meanwhile is not used for the next request."""
    closed = threading.Semaphore(0)

    def script(peer: Any) -> None:
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peer.sock.shutdown(socket.SHUT_WR)
        closed.release()
        peer.wait_until_gone()

    async def scenario(client: TunnelClient) -> None:
        for _ in range(3):
            status, _, body = await ask(client)
            assert (status, body) == (200, b"ok")
            await asyncio.to_thread(closed.acquire, timeout=DEADLINE)

    with RawServer(script) as server:
        run(scenario, f"http://127.0.0.1:{server.port}")
        assert server.accepted == 3


def test_https(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may speak TLS, if its certificate is trusted."""
    monkeypatch.setattr(ssl, "create_default_context", lambda *args: client_tls)

    def script(peer: Any) -> None:
        while True:  # until it is gone, which is an OSError
            peer.read_request()
            peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def scenario(client: TunnelClient) -> None:
        for _ in range(2):
            status, _, body = await ask(client)
            assert (status, body) == (200, b"ok")

    async def distrust(client: TunnelClient) -> None:
        status, _, body = await ask(client)
        assert (status, body) == (502, b"The service cannot be reached: TLS failed.")

    with RawServer(script, ssl_context=server_tls) as server:
        run(scenario, f"https://127.0.0.1:{server.port}")
        monkeypatch.undo()
        run(distrust, f"https://127.0.0.1:{server.port}")


def test_a_service_that_does_not_accept() -> None:
    """One that cannot be connected to in time is a 504, one that breaks off TLS a 502."""

    async def scenario(client: TunnelClient) -> None:
        assert (await ask(client))[0] in (502, 504)

    with RawServer(lambda peer: peer.sock.close()) as server:
        run(scenario, f"https://127.0.0.1:{server.port}")


def test_messages_still_go_to_the_handler(service: HttpService) -> None:
    """Forwarding is for requests alone."""

    async def scenario(client: TunnelClient) -> None:
        client.send("hello")
        assert await client.until_received(1) == ["hello"]

    run(scenario, service.url)
