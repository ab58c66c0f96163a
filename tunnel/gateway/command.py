"""The command ``tunnel gateway``: a gateway in a process, until a signal ends it.

The first line of standard output says where it listens; everything else is on standard error.
SIGTERM and SIGINT let it finish what is under way; a second one does not.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loguru import logger

from tunnel.errors import ConfigurationError
from tunnel.gateway.auth import Authenticate, TokenFile, tokens_of_environment
from tunnel.gateway.server import Gateway
from tunnel.gateway.settings import GatewaySettings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^:\[\]]*)):([0-9]{1,5})")


def run(arguments: Namespace) -> int:
    """Serve until a signal comes.

    Args:
        arguments: The options of the command.

    Returns:
        The exit code: 0 after a signal.

    Raises:
        ConfigurationError: An option is wrong.
        OSError: It cannot listen there, or a file cannot be read.
    """
    # A handler's module is looked for where the command was called, as ``python -m`` does.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    gateway = _gateway(arguments)
    logger.remove()
    logger.add(sys.stderr, level="INFO", backtrace=False, diagnose=False)
    logger.enable("tunnel")
    asyncio.run(_serve(gateway))
    logger.complete()
    _leave_stuck_threads()
    return 0


def address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        ConfigurationError: It is neither.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ConfigurationError(
            "the address to listen on must be HOST:PORT with a port from 0 to 65535, like "
            "127.0.0.1:8765 or [::1]:8765"
        )
    return match[1] or match[2] or "0.0.0.0", int(match[3])


def tls(certificate: str, key: str) -> ssl.SSLContext:
    """What a server with this certificate and key needs.

    Raises:
        ConfigurationError: A file cannot be read, or is not what it should be.
    """
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"the {name} {path} cannot be read: {error.strerror}"
            ) from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A password would be asked for at the terminal; a service has none.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        why = f": {error.reason}" if error.reason else ""
        raise ConfigurationError(
            f"the certificate {certificate} and the key {key} do not make a pair in PEM{why}"
        ) from None
    return context


def _no_password() -> str:
    raise ConfigurationError("the key is encrypted, and cannot be used without a password")


def _gateway(arguments: Namespace) -> Gateway:
    host, port = address(arguments.listen)
    if (arguments.certificate is None) != (arguments.key is None):
        raise ConfigurationError("--certificate and --key go together")
    return Gateway(
        arguments.handler,
        host=host,
        port=port,
        authenticate=_authenticate(arguments),
        ssl_context=None if arguments.key is None else tls(arguments.certificate, arguments.key),
        forward=arguments.forward,
        **_settings(arguments),
    )


def _settings(arguments: Namespace) -> dict[str, Any]:
    """What differs from the defaults; what is wrong is named as the option it came from."""
    settings = {
        name: value
        for name in ("max_message_size", "session_keep")
        if (value := getattr(arguments, name)) is not None
    }
    try:
        GatewaySettings(**settings)
    except ConfigurationError as error:
        raise ConfigurationError(
            problems=[
                "--" + name.replace("_", "-") + " " + rest
                for name, _, rest in (problem.partition(" ") for problem in error.problems)
            ]
        ) from None
    return settings


def _authenticate(arguments: Namespace) -> Authenticate | None:
    if arguments.token_file is not None and arguments.token_env is not None:
        raise ConfigurationError("tokens come from --token-file or from --token-env, not from both")
    if arguments.token_file is not None:
        return TokenFile(arguments.token_file)
    if arguments.token_env is not None:
        return tokens_of_environment(arguments.token_env)
    return None


async def _serve(gateway: Gateway) -> None:
    with _signals(gateway):
        await gateway.start()
        print(f"listening on {gateway.url}", flush=True)
        await gateway.wait_stopped()


@contextmanager
def _signals(gateway: Gateway) -> Iterator[None]:
    """Let signals stop the gateway: the first with care, a second at once."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        stopping.append(loop.create_task(gateway.stop(drain=not stopping)))

    def on_signal(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_stuck_threads() -> None:
    """End the process now if a handler's thread will not: a daemon may not die quietly at exit."""
    if any(thread.name.startswith("tunnel-gateway") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
