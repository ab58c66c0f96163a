"""Times and places as pictures and tables say them."""

from __future__ import annotations

from datetime import datetime, timezone

from tunnel.history import History
from tunnel.secrets import scrub


def duration(seconds: float) -> str:
    """Say how long something took, such as "0.25 s", "7.4 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 0.9995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def percent(share: float) -> str:
    """Say a share, such as "97.3 %"; what is not all of it is never called "100.0 %"."""
    said = f"{100 * share:.1f} %"
    return "more than 99.9 %" if said == "100.0 %" and share < 1 else said


def round_trip(seconds: float) -> str:
    """Say how long a round trip took, such as "0.42 ms", "13 ms" or "1.2 s"."""
    if seconds >= 0.9995:
        return duration(seconds)
    return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def moment(time: float) -> str:
    """Say when something was, in UTC; `time` is in seconds since the Unix epoch."""
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def changes(history: History) -> str:
    """Say how many changes of state a history has, and whether there were more."""
    count = len(history.steps)
    if not history.is_cut:
        return "1 change" if count == 1 else f"{count} changes"
    if not count:
        return "earlier changes are forgotten"
    last = "the last change" if count == 1 else f"the last {count} changes"
    return f"{last}; earlier ones are forgotten"


def whose(history: History) -> tuple[str, ...]:
    """Say which tunnel it is: its name (`user_id`), if it has one, and where it leads."""
    connection = history.tracker.connection
    if connection is None:
        return ("a tunnel without a connection",)
    return tuple(scrub(part) for part in (connection.user_id, connection.server_url) if part)
