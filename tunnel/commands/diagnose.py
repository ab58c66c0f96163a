"""``tunnel diagnose``: each part of the way to a server by itself, with time, result and advice."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tunnel.addresses import TunnelUrl
from tunnel.arguments import checked_limit
from tunnel.commands.diagnosis import Diagnosis
from tunnel.commands.diagnosis_view import view_for
from tunnel.commands.steps import Step, Steps, StepStatus
from tunnel.commands.target import add_target_options, connect_options
from tunnel.errors import ConfigurationError

_T = TypeVar("_T")
_DAY = 86_400


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "diagnose",
        help="find out which part of the way to a server does not work",
        description="Try each part of the way to a server: name look-up (DNS), TCP, the proxy of "
        "the environment if there is one, TLS and the server's certificate, the WebSocket upgrade, "
        "authentication, a ping, an echo if the server sends one, and whether it resumes sessions. "
        "Each step tells how long it took, and what to do if it fails.",
        epilog="Exit codes: 0 every step that could be made has succeeded; 1 one has failed; "
        "2 it could not be done, and why is said; 130 it was interrupted.",
    )
    add_target_options(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long all steps together may take (default: 10)",
    )
    parser.add_argument(
        "--no-echo",
        action="store_true",
        help="send no message; else a short text is sent, to see whether it comes back",
    )
    parser.add_argument(
        "--json", action="store_true", help="write one line of JSON in place of the table"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the steps, and show them.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: An argument is wrong.
        OSError: Nobody takes what is shown, as after ``| head``.
    """
    timeout = checked_limit("--timeout", arguments.timeout)
    if not 0.001 <= timeout <= _DAY:
        raise ConfigurationError(f"--timeout must be from 0.001 to {_DAY} seconds")
    url = TunnelUrl.parse(arguments.url)
    options = connect_options(arguments)
    if callable(options["auth_token"]):
        options["auth_token"] = options["auth_token"]()  # one look, one token
    wants_echo = not arguments.no_echo
    if arguments.json:
        return _write_json(url, arguments.url, options, timeout, wants_echo)
    return _show(url, arguments.url, options, timeout, wants_echo)


def _show(url: TunnelUrl, text: str, options: dict[str, Any], timeout: float, echo: bool) -> int:
    view = view_for(sys.stdout)
    output = _Output()
    steps = Steps(output.guarded(view.begin), output.guarded(view.end))
    diagnosis = Diagnosis(steps, timeout, wants_echo=echo)
    print(f"diagnosing {url.redacted}", flush=True)
    with view:
        diagnosis.run(text, **options)
        output.check()
        view.close(verdict(steps.done), is_good=not steps.has_failed)
    return int(steps.has_failed)


class _Output:
    """Keeps what goes wrong with the output away from the tunnel, on whose thread steps are shown.

    There it would pass for a fault of the connection. It is raised in the thread that made this,
    which is the one that makes the steps.
    """

    def __init__(self) -> None:
        self._owner = threading.get_ident()
        self._error: OSError | None = None

    def guarded(self, show: Callable[[_T], object]) -> Callable[[_T], None]:
        """Return the function, so that it raises an OSError in the owner's thread alone."""

        def guarded(shown: _T) -> None:
            if self._error is None:
                try:
                    show(shown)
                except OSError as error:
                    self._error = error
            if threading.get_ident() == self._owner:
                self.check()

        return guarded

    def check(self) -> None:
        """Raise what went wrong.

        Raises:
            OSError: The output could not be written.
        """
        if self._error is not None:
            raise self._error


def _write_json(
    url: TunnelUrl, text: str, options: dict[str, Any], timeout: float, echo: bool
) -> int:
    steps = Steps(lambda name: None, lambda step: None)
    began = time.monotonic()
    Diagnosis(steps, timeout, wants_echo=echo).run(text, **options)
    report = {
        "url": url.redacted,
        "ok": not steps.has_failed,
        "verdict": verdict(steps.done),
        "seconds": round(time.monotonic() - began, 6),
        "steps": [step.to_dict() for step in steps.done],
    }
    print(json.dumps(report))
    return int(steps.has_failed)


def verdict(steps: list[Step]) -> str:
    """What the steps say together, in a sentence."""
    failed = [step.name for step in steps if step.status is StepStatus.FAILED]
    if failed:
        return f"{failed[0]} does not work."
    doubtful = [step.name for step in steps if step.status is StepStatus.WARNING]
    if doubtful:
        return f"Everything works; look at {' and '.join(doubtful)}."
    return "Everything works."
