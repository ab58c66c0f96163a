"""``tunnel connect``: lines of standard input become messages, messages become lines of output."""

from __future__ import annotations

import argparse
import math
import os
import sys

from loguru import logger

from tunnel.addresses import TunnelUrl
from tunnel.commands.background_writer import BackgroundWriter
from tunnel.commands.connect_conversation import Conversation
from tunnel.commands.connect_input import ByteSplitter, LineSplitter
from tunnel.commands.connect_output import OutputWriter
from tunnel.commands.connect_view import JsonView, PlainView
from tunnel.commands.target import (
    add_profile_option,
    add_target_options,
    config_of,
    connect_options,
)
from tunnel.commands.terminal import is_lively
from tunnel.errors import ConfigurationError

_DAY = 86_400.0
_PATIENCE = 1.0  # seconds for whoever reads standard error


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "connect",
        help="talk to a WebSocket server, on a connection that comes back by itself",
        description="Send each line of standard input as a message, and write each message that "
        "comes as a line to standard output. What happens to the connection is told on standard "
        "error. While it is lost, lines wait in a queue; when that is full, standard input waits.",
        epilog="Exit codes: 0 standard input has ended, and everything was sent (and acknowledged, "
        "if the server can do that); 1 some of it was not, or nobody reads standard output any "
        "more; 2 it could not be done, or the connection could not be restored, and why is said; "
        "130 it was interrupted by Ctrl-C, 143 by SIGTERM, 129 by the end of the terminal.",
    )
    add_target_options(parser)
    add_profile_option(parser)
    parser.add_argument(
        "--binary",
        action="store_true",
        help="take standard input as bytes, not as lines: they are sent as they come, in binary "
        "messages of up to 64 KiB; and write messages with nothing between them",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="after the end of standard input, and after everything was sent, end once no message "
        "has come for so long; inf: go on until interrupted (default: 2)",
    )
    parser.add_argument(
        "--log-json",
        action="store_true",
        help="write what happens as JSON to standard error, an object a line",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Talk until standard input ends, or somebody interrupts.

    Returns:
        The exit code.

    Raises:
        TunnelError: An argument is wrong, or the connection was given up.
        OSError: Standard input cannot be read, or standard output not be written to.
    """
    if not (math.isinf(arguments.wait) or 0 <= arguments.wait <= _DAY) or arguments.wait < 0:
        raise ConfigurationError(f"--wait must be from 0 to {_DAY:.0f} seconds, or inf")
    config = config_of(arguments)
    options = connect_options(arguments)
    server = TunnelUrl.parse(arguments.url).redacted
    if sys.stdin is None:
        raise ConfigurationError(f"standard input is closed; to say nothing, give {os.devnull}")
    out = BackgroundWriter(sys.stderr)
    view = _view(out, server, as_json=arguments.log_json)
    logger.remove()
    sink = logger.add(view.log, level="WARNING", backtrace=False, diagnose=False)
    logger.enable("tunnel")
    output = sys.stdout.fileno()
    conversation = Conversation(
        config.replace(log_level="CRITICAL"),  # events are told by the view
        view,
        sys.stdin.fileno(),
        ByteSplitter() if arguments.binary else LineSplitter(config.max_message_size),
        OutputWriter(output, binary=arguments.binary, is_terminal=os.isatty(output)),
        arguments.wait,
    )
    try:
        return conversation.run(arguments.url, options)
    finally:
        view.close()
        out.close(_PATIENCE)
        logger.disable("tunnel")
        logger.remove(sink)


def _view(out: BackgroundWriter, server: str, *, as_json: bool) -> PlainView:
    if as_json:
        return JsonView(out, server)
    if is_lively(sys.stderr):
        from tunnel.commands.connect_terminal import TerminalView

        return TerminalView(out, server, sys.stderr)
    return PlainView(out, server)
