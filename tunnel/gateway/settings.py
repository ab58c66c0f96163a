"""What a gateway is prepared to hold and to wait for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tunnel.errors import ConfigurationError


@dataclass(frozen=True)
class GatewaySettings:
    """The bounds of a gateway; none of them is ever exceeded by much, whatever its clients do.

    Memory is bounded for each session, and for all that have no connection. A session with one may
    hold, if its client does its worst: `max_unacknowledged_bytes` of what it received and as much
    of what it sent, `max_outgoing_bytes` of messages and four times that of answers, and one
    message of `max_message_size` beyond each; 28 MiB by the defaults, and that times
    `max_sessions_per_user` for one user's. Whoever lets in users that he does not trust lowers
    these. `Gateway.statistics` tells what is held now.

    Attributes:
        max_message_size: Bytes of the longest message or request that is accepted.
        max_unacknowledged: Messages per session that a client may send before they are handled;
            and as many that are kept of what was sent to it.
        max_unacknowledged_bytes: Their bytes; one message alone may be longer.
        max_outgoing: Messages per session that wait to be sent. While there are so many, no more of
            the client's are handled.
        max_outgoing_bytes: Their bytes. Answers to requests that were begun before may add as much
            three times over; more are refused with 503.
        session_keep: Seconds that a session is kept after its connection was lost. Clients are told
            whole seconds, at least 1.
        max_sessions: Sessions and plain connections together.
        max_sessions_per_user: The same, for each user.
        max_detached_bytes: Bytes held for sessions without a connection, together.
        max_request_size: Bytes of the longest body of a request that is forwarded; beyond it the
            answer is 413.
        max_requests: Requests per session that are under way at a time; more wait at the client.
        max_waiting_requests: Requests, of all sessions, that wait for a thread; more get 503.
        request_timeout: Seconds after which a request is answered with 504. A client's own time-out
            cancels the request earlier.
        workers: Threads for messages, and as many for requests. So many slow handlers run at a
            time; those of further sessions wait.
        open_timeout: Seconds for the opening of a connection, and again for that of a session.
        ping_interval: Seconds of silence after which a client is pinged.
        ping_timeout: Seconds of silence after that ping until the connection is given up.
        drain_timeout: Seconds that a stopping gateway waits for what is under way.

    Raises:
        ConfigurationError: A value is not a positive number, or too large.
    """

    max_message_size: int = 16 * 2**20
    max_unacknowledged: int = 10_000
    max_unacknowledged_bytes: int = 4 * 2**20
    max_outgoing: int = 1_000
    max_outgoing_bytes: int = 4 * 2**20
    session_keep: float = 600.0
    max_sessions: int = 10_000
    max_sessions_per_user: int = 5_000
    max_detached_bytes: int = 256 * 2**20
    max_request_size: int = 16 * 2**20
    max_requests: int = 256
    max_waiting_requests: int = 4_096
    request_timeout: float = 300.0
    workers: int = 32
    open_timeout: float = 5.0
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    drain_timeout: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = int if isinstance(field.default, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted):
                problems.append(f"{field.name} must be a number")
            elif not (0 < value <= 2**31 and math.isfinite(value)):
                problems.append(f"{field.name} must be more than 0 and at most 2^31")
        if problems:
            raise ConfigurationError(problems=problems)
