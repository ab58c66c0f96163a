"""How tunnels stand, as the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.pictures.svg import printable
from tunnel.pictures.words import duration, round_trip
from tunnel.status import ProcessStatus, TunnelStatus

HEADINGS = (
    "name",
    "state",
    "for",
    "reconnects",
    "attempt",
    "queue",
    "round trip",
    "quality",
    "last error",
)

_NOTHING = ("-", "unknown")  # cells that say nothing


def title(process: ProcessStatus) -> str:
    """Say which process it is."""
    number = len(process.tunnels)
    tunnels = {0: "no tunnels", 1: "1 tunnel"}.get(number, f"{number} tunnels")
    return f"{printable(process.program)}, process {process.pid}: {tunnels}"


def row(tunnel: TunnelStatus, now: float) -> tuple[str, ...]:
    """Return the cells of a tunnel, below `HEADINGS`.

    Args:
        tunnel: How it stands.
        now: When it stood so, in seconds since the Unix epoch.
    """
    cells = (
        tunnel.name,
        tunnel.state,
        "-" if tunnel.since is None else duration(max(0.0, now - tunnel.since)),
        str(tunnel.reconnections or "-"),
        _attempt(tunnel, now),
        f"{tunnel.queued}/{tunnel.max_queued}",
        "-" if tunnel.round_trip is None else round_trip(tunnel.round_trip),
        tunnel.quality,
        _error(tunnel, now),
    )
    return tuple(printable(cell) for cell in cells)


def facts(tunnel: TunnelStatus, now: float) -> str:
    """Return in one line what a row tells beside name and state, but for what says nothing."""
    cells = zip(HEADINGS[2:], row(tunnel, now)[2:], strict=True)
    return ", ".join(f"{heading} {cell}" for heading, cell in cells if cell not in _NOTHING)


def plain(process: ProcessStatus) -> str:
    """Return the table of a process in plain text, columns below each other."""
    lines: list[Sequence[str]] = [HEADINGS]
    lines += [row(tunnel, process.time) for tunnel in process.tunnels]
    if len(lines) == 1:
        return title(process)
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        [
            title(process),
            *(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(line, widths, strict=True)
                ).rstrip()
                for line in lines
            ),
        ]
    )


def _attempt(tunnel: TunnelStatus, now: float) -> str:
    if not tunnel.attempt:
        return "-"
    of = "" if tunnel.max_attempts is None else f" of {tunnel.max_attempts}"
    if tunnel.next_attempt is None or tunnel.next_attempt <= now:
        return f"{tunnel.attempt}{of}, dialling"
    return f"{tunnel.attempt}{of}, in {tunnel.next_attempt - now:.1f} s"


def _error(tunnel: TunnelStatus, now: float) -> str:
    error = tunnel.last_error
    if error is None:
        return "-"
    return f"{error.code} {duration(max(0.0, now - error.time))} ago: {error.message}"
