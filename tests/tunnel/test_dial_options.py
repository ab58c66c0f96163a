from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tunnel.addresses import TunnelUrl
from tunnel.dial_options import DIRECT, DialOptions, checked_dial_options
from tunnel.errors import ConfigurationError
from tunnel.tls import TlsSettings

URL = TunnelUrl.parse("wss://server.test/")
KEEPALIVE_OFF = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)

pytestmark = pytest.mark.usefixtures("no_leaks")


def checked(**arguments: Any) -> DialOptions:
    defaults = {"proxy": None, "unix_socket": None, "socket_options": (), "tls": None}
    return checked_dial_options(URL, **{**defaults, **arguments})


def test_nothing_given_is_the_direct_way() -> None:
    """Without a proxy in the environment ``"auto"`` is the same as None."""
    assert checked() == DIRECT == DialOptions()


def test_what_is_given_is_kept() -> None:
    """Checked and fixed."""
    pins = ["sha256/" + 43 * "A" + "="]
    options = checked(
        proxy="http://me:s3cr3t@proxy.test",
        socket_options=iter([list(KEEPALIVE_OFF)]),
        tls=TlsSettings(pins=pins),
    )
    assert str(options.proxy) == "http://proxy.test:80"
    assert options.socket_options == (KEEPALIVE_OFF,)
    assert options.pins == (32 * b"\0",)
    assert "s3cr3t" not in repr(options)


# Socket options


def test_sockets_have_all_options() -> None:
    """The tunnel's own first, then those that were given, which may change them."""
    with DIRECT.make_socket(socket.AF_INET) as sock:
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    with checked(socket_options=[KEEPALIVE_OFF]).make_socket(socket.AF_INET) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a Linux option")
def test_a_user_timeout_is_set() -> None:
    """The example of the documentation."""
    option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    with checked(socket_options=[option]).make_socket(socket.AF_INET) as sock:
        assert sock.getsockopt(*option[:2]) == 30_000


def test_an_option_of_one_family_is_for_its_sockets_alone() -> None:
    """The race has sockets of both."""
    options = checked(
        socket_options=[
            (socket.IPPROTO_IP, socket.IP_TTL, 9),
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 8),
        ]
    )
    with options.make_socket(socket.AF_INET) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 9
    try:
        six = options.make_socket(socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with six:
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) == 8


@pytest.mark.parametrize(
    "option",
    [
        (socket.IPPROTO_TCP, 9999, 1),
        (9999, 1, 1),
        (socket.IPPROTO_IP, socket.IP_TTL, 9999),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 2**70),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, b""),
    ],
)
def test_an_option_that_the_system_refuses_is_named(option: Any) -> None:
    """At the call, not in the background."""
    with pytest.raises(ConfigurationError, match="the system refuses the socket option") as caught:
        checked(socket_options=[option])
    assert str(option[1]) in caught.value.message


@pytest.mark.parametrize("option", [1, (1, 2), (1, 2, 3, 4), ("a", 2, 3), (1, None, 3), (1, 2, "")])
def test_what_is_no_option_is_a_wrong_type(option: Any) -> None:
    """Level, name and value, of the types that Python's `setsockopt` takes."""
    with pytest.raises(TypeError, match="socket option"):
        checked(socket_options=[option])


@pytest.mark.parametrize("options", [None, 5])
def test_options_come_in_a_sequence(options: Any) -> None:
    """What cannot be gone through is named."""
    with pytest.raises(TypeError, match="socket_options must be several tuples, not"):
        checked(socket_options=options)


def test_a_machine_without_ipv6_can_have_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are tried out on what sockets there are."""

    class OldSocket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", OldSocket)
    assert checked(socket_options=[KEEPALIVE_OFF]).socket_options == (KEEPALIVE_OFF,)


# Unix sockets

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@unix
def test_a_path_is_kept_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was given as `str` or as `Path`; the environment's proxy is not for it."""
    monkeypatch.setenv("https_proxy", "http://proxy.test:1")
    assert checked(unix_socket="/run/a", proxy="auto") == DialOptions(unix_socket="/run/a")
    assert checked(unix_socket=Path("/run/a")).unix_socket == "/run/a"
    options = checked(unix_socket="/run/a", socket_options=[KEEPALIVE_OFF])
    options.make_socket(socket.AF_UNIX).close()


@unix
@pytest.mark.parametrize("path", ["", "\0", "/run/a\0b", "x" * 200])
def test_an_impossible_path_is_refused(path: str) -> None:
    """Empty, with a NUL in it, or too long for the system."""
    with pytest.raises(ConfigurationError, match="unix_socket: the path"):
        checked(unix_socket=path)


@unix
@pytest.mark.skipif(sys.platform != "linux", reason="Linux has abstract names")
def test_an_abstract_name_is_one() -> None:
    """It begins with a NUL, and has none after that."""
    assert checked(unix_socket="\0name").unix_socket == "\0name"
    with pytest.raises(ConfigurationError, match="NUL"):
        checked(unix_socket="\0na\0me")


@unix
def test_a_unix_socket_is_not_behind_a_proxy() -> None:
    """One or the other."""
    with pytest.raises(ConfigurationError, match="through a proxy"):
        checked(unix_socket="/run/a", proxy="http://proxy.test")


@pytest.mark.parametrize("path", [b"/run/a", 1])
def test_a_path_of_a_wrong_type_is_refused(path: Any) -> None:
    """Only `str` and paths."""
    with pytest.raises(TypeError):
        checked(unix_socket=path)


def test_a_system_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the call."""
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(ConfigurationError, match="no Unix sockets on this system"):
        checked(unix_socket="/run/a")
