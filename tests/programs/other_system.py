"""Use the packages on a Linux that lacks what another system lacks.

``python other_system.py windows`` (or ``macos``): takes away what Python does not have there, then
imports the packages, runs a tunnel on a fake clock and one over loopback that loses its connection,
and prints ``done``. It shows that nothing is called that is missing there; not that the system's
own sockets, files and signals behave as these do.
"""

from __future__ import annotations

import math
import os
import select
import selectors
import signal
import socket
import sys
import tempfile
import time
import types
from importlib import import_module

import pytest

# What is not ours is imported while everything is there: it has looked around for itself.
for library in (
    *("asyncio", "logging.handlers", "multiprocessing", "sqlite3", "ssl", "subprocess"),
    *("urllib.request", "loguru", "tenacity", "transitions", "websocket"),
    "websockets.asyncio.server",
):
    import_module(library)

SECONDS = 20.0
"""For what takes milliseconds, on a machine that is very busy."""

MISSING = {
    "windows": {
        os: "fork register_at_fork eventfd EFD_ getuid geteuid setuid pread pwrite pipe2 posix_ "
        "sendfile uname chown killpg getpgid nice fdatasync O_CLOEXEC O_DSYNC",
        select: "poll epoll POLL EPOLL",
        socket: "AF_UNIX AF_NETLINK AF_PACKET NETLINK_ SO_REUSEPORT SO_BINDTODEV SO_DOMAIN SO_PEER "
        "SO_MARK TCP_USER_TIMEOUT TCP_QUICKACK TCP_INFO MSG_DONTWAIT MSG_NOSIGNAL SOCK_CLOEXEC "
        "SOCK_NONBLOCK CMSG SCM_ if_nameindex sethostname",
        signal: "SIGHUP SIGALRM SIGKILL SIGUSR SIGCHLD SIGPIPE SIGQUIT pthread_ siginterrupt "
        "sigpending sigwait setitimer alarm pause",
        time: "clock_gettime CLOCK_ tzset",
    },
    "macos": {
        os: "eventfd EFD_ pipe2 fdatasync posix_fadvise O_DIRECT",
        select: "epoll EPOLL POLLRDHUP",
        socket: "AF_NETLINK AF_PACKET NETLINK_ SO_BINDTODEV SO_DOMAIN SO_PEERCRED SO_MARK "
        "TCP_USER_TIMEOUT TCP_QUICKACK SOCK_CLOEXEC SOCK_NONBLOCK",
        signal: "sigwaitinfo sigtimedwait SIGRTM",
    },
}
"""What is taken away: whatever begins so. Not what Python's own modules go on to call here."""

MODULES = {"windows": ("fcntl", "grp", "pwd", "pty", "resource", "syslog", "termios", "tty")}
PLATFORMS = {"windows": "win32", "macos": "darwin"}


def take_away(module: types.ModuleType, beginnings: str) -> None:
    for name in [name for name in vars(module) if name.startswith(tuple(beginnings.split()))]:
        delattr(module, name)


def socketpair(*_: object) -> tuple[socket.socket, socket.socket]:
    """As on Windows, which has no other: over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def become(system: str) -> None:
    for module, beginnings in MISSING[system].items():
        take_away(module, beginnings)
    for name in MODULES.get(system, ()):
        sys.modules[name] = None  # type: ignore[assignment]
    selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[misc, assignment]
    if system == "windows":
        socket.socketpair = socketpair
        monotonic = time.monotonic
        time.monotonic = lambda: math.floor(monotonic() * 64) / 64  # its clock has such steps
    sys.platform = PLATFORMS[system]


def on_a_fake_clock() -> None:
    """An hour of a tunnel that loses its connection, in no time."""
    from tunnel import TunnelService
    from tunnel.testing import FakeClock, ScriptedTransport, drive

    clock = FakeClock()
    network = ScriptedTransport(clock)
    service = TunnelService(clock=clock, new_transport=network)
    service.connect("ws://peer.test/")
    clock.call_at(600.0, network.cut)
    clock.call_at(1800.0, lambda: network.send("x"))
    drive(service, timeout=3600.0)
    assert service.statistics()["reconnections"] == 1
    assert service.statistics()["messages_received"] == 1
    service.disconnect()


def over_loopback(folder: str) -> None:
    """Real sockets, threads and files: messages and requests across a lost connection."""
    from tunnel import RequestQueue, TunnelConfig, TunnelConnectionState, TunnelService
    from tunnel.gateway import GatewayThread
    from tunnel.testing import FaultProxy

    config = TunnelConfig(
        reconnect_base_delay=0.01,
        reconnect_max_delay=0.05,
        ping_interval=0.2,
        pong_timeout=SECONDS,
        max_reconnect_attempts=None,
    )
    sent = [f"{number}" for number in range(100)]
    with (
        GatewayThread("echo") as gateway,
        FaultProxy(gateway.port) as proxy,
        RequestQueue(1000, path=os.path.join(folder, "queue.db")) as queue,
    ):
        service = TunnelService(config, request_queue=queue)
        service.connect(f"ws://localhost:{proxy.port}/", timeout=SECONDS)
        service.send_many(sent[:50])
        proxy.reset()
        for message in sent[50:]:
            service.send(message, timeout=SECONDS)
        messages = service.messages()
        assert [next(messages) for _ in sent] == sent
        assert service.request(b"ping", timeout=SECONDS).status_code == 200
        service.send("x" * 4_000_000, timeout=SECONDS)  # more than any socket takes at once
        assert len(next(messages)) == 4_000_000
        assert service.flush(SECONDS)
        assert service.statistics()["reconnections"] >= 1
        service.handle_network_change(False)
        service.handle_network_change(True)
        assert service.wait_for(TunnelConnectionState.CONNECTED, timeout=SECONDS)
        report = service.disconnect()
        assert not report.unsent
        assert not report.unacknowledged


def refusals() -> None:
    """What the system does not have is refused in a sentence."""
    from tunnel import ConfigurationError, connect

    if not hasattr(socket, "AF_UNIX"):
        with pytest.raises(ConfigurationError, match="no Unix sockets on this system"):
            connect("ws://localhost/", unix_socket="/run/a")


if __name__ == "__main__":
    become(sys.argv[1])
    on_a_fake_clock()
    with tempfile.TemporaryDirectory() as folder:
        over_loopback(folder)
    refusals()
    print("done")
