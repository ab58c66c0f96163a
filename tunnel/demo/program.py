"""The demo as a whole: what it needs, what it plays, and how it ends."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TextIO

from tunnel.commands.terminal import is_lively
from tunnel.demo.errors import DemoError
from tunnel.demo.journal import Gauges
from tunnel.demo.plain_view import PlainView
from tunnel.demo.recorder import Note, Recorder
from tunnel.demo.report import Report
from tunnel.demo.resending import Resending
from tunnel.demo.scenario import CONFIG, CUTS, Scenario, Stage
from tunnel.demo.server_process import ServerProcess
from tunnel.pictures import draw_timeline
from tunnel.recording import Recording
from tunnel.service import TunnelService
from tunnel.testing import FaultProxy

_TIMEOUT = 10.0  # seconds for the first connection, and for the last goodbye


class View(Protocol):
    """What the demo shows itself on."""

    def note(self, note: Note) -> None:
        """Show something that happened."""
        ...

    def summary(self, report: Report) -> None:
        """Show the end."""
        ...


def run(*, as_json: bool = False, timeline: Path | None = None) -> int:
    """Play the demo.

    Args:
        as_json: Show everything on standard error, and write the report as one line of JSON to
            standard output.
        timeline: A file for a picture of the run, as SVG; None: none is drawn.

    Returns:
        The exit code: 0 if nothing was lost, doubled or reordered; else 1.

    Raises:
        DemoError: Something that the demo needs is missing.
        TunnelError: The first connection was not to be had.
        OSError: The picture cannot be written; where that can be known before, it is a DemoError.
    """
    if find_spec("websockets") is None:
        raise DemoError('the demo needs a gateway: pip install "resilient-tunnel[gateway]"')
    if timeline is not None:
        _try_to_write(timeline)
    complaint = ""
    with ExitStack() as stack:
        recorder = Recorder(lambda: _gauges(service), lambda note: view.note(note))
        resending = Resending(recorder)
        service = _service(recorder, resending)
        recording = stack.enter_context(Recording(service)) if timeline is not None else None
        view = _view(stack, sys.stderr if as_json else sys.stdout, recorder)
        server = stack.enter_context(ServerProcess())
        proxy = stack.enter_context(FaultProxy(server.port))
        try:
            _play(Stage(service, proxy, server, resending), recorder)
        except DemoError as error:
            complaint = str(error)
        report = recorder.report()
        view.summary(report)
    if timeline is not None and recording is not None:
        timeline.write_text(draw_timeline(recording.history()), encoding="utf-8")
    if complaint:
        print(f"tunnel demo: error: {complaint}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.to_dict()), flush=True)
    return 0 if report.tally.is_perfect and not complaint else 1


def _try_to_write(path: Path) -> None:
    """Find out before anything else whether the picture can be written."""
    try:
        path.open("a").close()
    except OSError as error:
        raise DemoError(f"{path} cannot be written: {error.strerror or error}") from error


def _service(recorder: Recorder, resending: Resending) -> TunnelService:
    service = TunnelService(
        CONFIG,
        on_message=recorder.on_message,
        on_state_change=recorder.on_state_change,
        on_connected=resending.on_connected,
        on_session_lost=resending.on_session_lost,
    )
    service.subscribe(recorder.on_event)
    return service


def _gauges(service: TunnelService) -> Gauges:
    numbers = service.statistics()
    return Gauges(
        queued=numbers["queued_requests"],
        unacknowledged=numbers["unacknowledged"],
        replayed=numbers["replayed"],
        duplicates=numbers["duplicates_dropped"],
    )


def _play(stage: Stage, recorder: Recorder) -> None:
    server, service = stage.server, stage.service
    where = f"in process {server.pid}, on port {server.port}"
    recorder.note(f"a gateway {where}, echoes messages")
    graceful = False  # who is interrupted does not wait for goodbyes
    try:
        service.connect(stage.proxy.url, timeout=_TIMEOUT)
        Scenario(stage, recorder, CUTS).run()
        graceful = True
    finally:
        service.disconnect(graceful, _TIMEOUT)


def _view(stack: ExitStack, stream: TextIO, recorder: Recorder) -> View:
    if is_lively(stream):
        from tunnel.demo.live_view import LiveView

        return stack.enter_context(LiveView(stream, recorder.status))
    return stack.enter_context(PlainView(stream))
