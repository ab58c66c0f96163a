"""The life of a connection, as one table.

Theory of operation
-------------------

A tunnel is in one of six states. Five are the seed's; `closing` was added for the time between the
application's wish to end and the end of the close handshake (RFC 6455, section 7).

A connection that is lost goes ``connected -> disconnected -> reconnecting``: the loss is a fact,
the recovery a decision (its guard asks whether automatic reconnection is on). "Reconnected" is an
event, not a state: after it the tunnel is simply `connected`.

A state owns what it needs and gives it back when it is left: `connected` owns the socket and its
place in the heartbeat, `reconnecting` owns the backoff. Three states also own an activity (UML's
``do/``) whose end is the next trigger: `connecting` dials once, `connected` reads, `reconnecting`
waits and dials until one dial succeeds, the attempts are used up, or an error shows that trying
again is no use.

Triggers in the past tense report what happened (`lost`), those in the imperative what somebody
asked for (`close`). Only the tunnel's own thread fires them; a message that another thread posts
becomes a trigger there. Every cell of state x trigger is decided below: a row, or a sentence that
says why it is ignored, or why it can only be a mistake.
"""

from __future__ import annotations

from enum import Enum

from statemachine import Declaration, Transition


class TunnelConnectionState(str, Enum):
    """Where a connection stands. The value is what JSON, logs and diagrams show."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSING = "closing"
    ERROR = "error"


class TunnelTrigger(str, Enum):
    """What can happen to a connection. Users see triggers in histories and diagrams only."""

    CONNECT = "connect"
    OPENED = "opened"
    DIAL_FAILED = "dial_failed"
    LOST = "lost"
    RECOVER = "recover"
    EXHAUSTED = "exhausted"
    FAIL = "fail"
    CANCEL = "cancel"
    CLOSE = "close"
    CLOSED = "closed"


_S = TunnelConnectionState
_T = TunnelTrigger

_STATES = {
    _S.DISCONNECTED: "There is no connection, and nobody is working on one.",
    _S.CONNECTING: "The first dial: name look-up, TCP, TLS and upgrade under one deadline.",
    _S.CONNECTED: "The link is up: its thread reads, anyone writes, the heartbeat watches.",
    _S.RECONNECTING: "The link was lost: wait by the backoff, dial, and again.",
    _S.CLOSING: "The close frame is on its way, or what is queued is drained before it.",
    _S.ERROR: "Trying again is no use, or was given up; the application has to decide.",
}

_ROWS = (
    Transition(
        _T.CONNECT,
        _S.DISCONNECTED,
        _S.CONNECTING,
        doc="The application asks for a connection; the first dial starts at once.",
    ),
    Transition(
        _T.CONNECT,
        _S.ERROR,
        _S.CONNECTING,
        doc="The application tries again after a failure, perhaps with another address or token.",
    ),
    Transition(
        _T.OPENED,
        _S.CONNECTING,
        _S.CONNECTED,
        doc="The first dial's handshake succeeded; what was queued meanwhile is flushed.",
    ),
    Transition(
        _T.OPENED,
        _S.RECONNECTING,
        _S.CONNECTED,
        doc="A later dial succeeded: state is restored, then the queue is flushed.",
    ),
    Transition(
        _T.DIAL_FAILED,
        _S.CONNECTING,
        _S.DISCONNECTED,
        doc="The first dial failed in a way that may pass: refused, timed out, unreachable.",
    ),
    Transition(
        _T.LOST,
        _S.CONNECTED,
        _S.DISCONNECTED,
        doc="The link is gone: an end or reset of the stream, a close by the peer, silence.",
    ),
    Transition(
        _T.LOST,
        _S.CLOSING,
        _S.DISCONNECTED,
        doc="The link died before the close handshake was over; there is nothing left to close.",
    ),
    Transition(
        _T.RECOVER,
        _S.DISCONNECTED,
        _S.RECONNECTING,
        guard="may_recover",
        doc="After a loss or a failed first dial, if that is automatic or it is asked for.",
    ),
    Transition(
        _T.RECOVER,
        _S.ERROR,
        _S.RECONNECTING,
        guard="may_recover",
        doc="The network is back after the attempts were used up, or the application asks for it.",
    ),
    Transition(
        _T.EXHAUSTED,
        _S.RECONNECTING,
        _S.ERROR,
        doc="The last permitted attempt failed; the user is notified and automatic attempts stop.",
    ),
    Transition(
        _T.FAIL,
        _S.CONNECTING,
        _S.ERROR,
        doc="The first dial failed for good: credentials, certificate, no such resource.",
    ),
    Transition(
        _T.FAIL,
        _S.CONNECTED,
        _S.ERROR,
        doc="The peer broke the protocol, or closed with a code that says not to come back.",
    ),
    Transition(
        _T.FAIL,
        _S.RECONNECTING,
        _S.ERROR,
        doc="A later dial failed for good; more attempts would only annoy the server.",
    ),
    Transition(
        _T.CANCEL,
        _S.CONNECTING,
        _S.DISCONNECTED,
        doc="The time given to the call that connects is over, or the dial was called off.",
    ),
    Transition(
        _T.CANCEL,
        _S.RECONNECTING,
        _S.DISCONNECTED,
        doc="The recovery was called off; the wait or dial under way ends at once.",
    ),
    Transition(
        _T.CLOSE,
        _S.CONNECTED,
        _S.CLOSING,
        doc="The application disconnects: drain what is queued, then the close handshake.",
    ),
    Transition(
        _T.CLOSE,
        _S.CONNECTING,
        _S.DISCONNECTED,
        doc="The application disconnects during the first dial, which ends at once.",
    ),
    Transition(
        _T.CLOSE,
        _S.RECONNECTING,
        _S.DISCONNECTED,
        doc="The application disconnects during a recovery, which ends at once.",
    ),
    Transition(
        _T.CLOSE,
        _S.ERROR,
        _S.DISCONNECTED,
        doc="The application lets go of a failed tunnel.",
    ),
    Transition(
        _T.CLOSED,
        _S.CLOSING,
        _S.DISCONNECTED,
        doc="The peer answered the close frame, or the deadline for its answer passed.",
    ),
)

_IGNORED: dict[tuple[str, str], str] = {
    (_S.CONNECTING, _T.CONNECT): "The dial that was asked for is under way.",
    (_S.CONNECTED, _T.CONNECT): "The connection that was asked for is there.",
    (_S.RECONNECTING, _T.CONNECT): "The recovery is already trying to bring the connection back.",
    (_S.DISCONNECTED, _T.LOST): "Two parts may notice one loss; the first report counted.",
    (_S.RECONNECTING, _T.LOST): "The loss is known, and a recovery from it is under way.",
    (_S.ERROR, _T.LOST): "The link was already given up.",
    (_S.RECONNECTING, _T.RECOVER): "A recovery is under way; callers share its result.",
    (_S.RECONNECTING, _T.DIAL_FAILED): "One failed attempt; the backoff decides about the next.",
    (_S.CLOSING, _T.FAIL): "The application gave the link up before it failed.",
    (_S.ERROR, _T.FAIL): "The first failure stands; later ones are its echoes.",
    (_S.DISCONNECTED, _T.CANCEL): "Nothing is under way that could be called off.",
    (_S.CONNECTED, _T.CANCEL): "The dial was faster than the wish to call it off.",
    (_S.CLOSING, _T.CANCEL): "The tunnel is on its way down already.",
    (_S.ERROR, _T.CANCEL): "The recovery has ended by itself.",
    (_S.DISCONNECTED, _T.CLOSE): "There is nothing to close.",
    (_S.CLOSING, _T.CLOSE): "The close handshake is under way.",
    (_S.DISCONNECTED, _T.CLOSED): "The link died during its close handshake; both ends met here.",
}

_ILLEGAL: dict[tuple[str, str], str] = {
    (_S.CLOSING, _T.CONNECT): "The old connection is still being closed; connect again after it.",
    (_S.DISCONNECTED, _T.OPENED): "No dial is under way; one that was called off is discarded.",
    (_S.CONNECTED, _T.OPENED): "A tunnel has one link; a second one must not replace it unseen.",
    (_S.CLOSING, _T.OPENED): "A tunnel that is closing does not dial.",
    (_S.ERROR, _T.OPENED): "A failed tunnel does not dial before it is told to.",
    (_S.DISCONNECTED, _T.DIAL_FAILED): "No dial is under way that could fail.",
    (_S.CONNECTED, _T.DIAL_FAILED): "The dial has succeeded; what ends now is the link (lost).",
    (_S.CLOSING, _T.DIAL_FAILED): "A tunnel that is closing does not dial.",
    (_S.ERROR, _T.DIAL_FAILED): "A failed tunnel does not dial before it is told to.",
    (_S.CONNECTING, _T.LOST): "There is no link yet; a dial that fails is dial_failed or fail.",
    (_S.CONNECTING, _T.RECOVER): "The first dial must end before a recovery can begin.",
    (_S.CONNECTED, _T.RECOVER): "A live link is given up first (lost), so that it is torn down.",
    (_S.CLOSING, _T.RECOVER): "The application has asked for the end of the connection.",
    (_S.DISCONNECTED, _T.EXHAUSTED): "Attempts are only used up while reconnecting.",
    (_S.CONNECTING, _T.EXHAUSTED): "The first dial is one attempt; its failure is dial_failed.",
    (_S.CONNECTED, _T.EXHAUSTED): "Attempts are only used up while reconnecting.",
    (_S.CLOSING, _T.EXHAUSTED): "Attempts are only used up while reconnecting.",
    (_S.ERROR, _T.EXHAUSTED): "Attempts are only used up while reconnecting.",
    (_S.DISCONNECTED, _T.FAIL): "Nothing is under way that could fail for good.",
    (_S.CONNECTING, _T.CLOSED): "No close handshake was begun.",
    (_S.CONNECTED, _T.CLOSED): "A close that the peer began is a loss, judged by its code.",
    (_S.RECONNECTING, _T.CLOSED): "No close handshake was begun.",
    (_S.ERROR, _T.CLOSED): "No close handshake was begun.",
}

LIFECYCLE = Declaration(
    name="lifecycle",
    states=_STATES,
    initial=_S.DISCONNECTED,
    final=(_S.DISCONNECTED,),
    transitions=_ROWS,
    ignored=_IGNORED,
    illegal=_ILLEGAL,
    complete=True,
    failures=(_T.DIAL_FAILED, _T.LOST, _T.EXHAUSTED, _T.FAIL),
    groups={
        "at rest": (_S.DISCONNECTED,),
        "working on a link": (_S.CONNECTING, _S.RECONNECTING),
        "a link is up": (_S.CONNECTED, _S.CLOSING),
        "given up": (_S.ERROR,),
    },
)
"""The one machine of a connection; `diagrams/lifecycle.*` are drawn from it."""
