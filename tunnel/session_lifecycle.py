"""The life of a session, as one table; both ends have it.

Theory of operation
-------------------

A session outlives the links that carry it. A client offers one on its first link and resumes it on
each later one; a server accepts, and lets the newest link have the session, since an older one may
look alive long after its client has left it. While no link carries a session, both ends keep what
they need to go on; the server for a limited time.

A session ends in one of two ways. `ended`: both ends have all they were sent and agreed to part.
`lost`: one end forgot it or broke its rules, so nobody can say what became of what was not
acknowledged, and that is reported.
"""

from __future__ import annotations

from enum import Enum

from statemachine import Declaration, Transition


class SessionState(str, Enum):
    """Where a session stands at one end. The value is what logs and diagrams show."""

    NEW = "new"
    OPENING = "opening"
    ATTACHED = "attached"
    DETACHED = "detached"
    RESUMING = "resuming"
    ENDED = "ended"
    LOST = "lost"


_S = SessionState

_NO_LINK = "No link carries the session; frames come through one."
_OVER = "The session is over; a new one has to be opened."
_OTHER_END = "This end has asked for the session; it is the other that attaches a link."

SESSION = Declaration(
    name="session",
    states={
        _S.NEW: "There is no session yet; nothing has been numbered.",
        _S.OPENING: "The client has asked for a session and waits for its id and token.",
        _S.ATTACHED: "A link carries the session: frames flow, acknowledgements come back.",
        _S.DETACHED: "The link was lost; what is unacknowledged is kept for the next.",
        _S.RESUMING: "The client has asked for its session on a new link and waits.",
        _S.LOST: "It cannot be resumed; what was not acknowledged may or may not have arrived.",
        _S.ENDED: "Nothing was unacknowledged, and the client said that it will not come back.",
    },
    initial=_S.NEW,
    final=(_S.ENDED, _S.LOST),
    transitions=(
        Transition("open", _S.NEW, _S.OPENING, doc="The client sends OPEN on its first link."),
        Transition("opened", _S.OPENING, _S.ATTACHED, doc="The server answered OPENED."),
        Transition(
            "attach", _S.NEW, _S.ATTACHED, doc="The server answers OPEN with an id and a token."
        ),
        Transition(
            "attach", _S.DETACHED, _S.ATTACHED, doc="The server answers RESUME with RESUMED."
        ),
        Transition(
            "attach",
            _S.ATTACHED,
            _S.ATTACHED,
            doc="The client is back before the server missed it: the newest link has the session.",
        ),
        Transition(
            "detach", _S.OPENING, _S.NEW, doc="The link was lost before there was a session."
        ),
        Transition("detach", _S.ATTACHED, _S.DETACHED, doc="The link was lost."),
        Transition(
            "detach", _S.RESUMING, _S.DETACHED, doc="The link was lost before the server answered."
        ),
        Transition("resume", _S.DETACHED, _S.RESUMING, doc="The client sends RESUME."),
        Transition(
            "resumed",
            _S.RESUMING,
            _S.ATTACHED,
            doc="The server answered RESUMED; both ends replay what the other has not.",
        ),
        Transition("end", _S.ATTACHED, _S.ENDED, doc="The client sends END after its last frame."),
        Transition(
            "lose",
            _S.ATTACHED,
            _S.LOST,
            doc="The other end broke the protocol, or said END while it was still needed here.",
        ),
        Transition(
            "lose",
            _S.DETACHED,
            _S.LOST,
            doc="The server kept it no longer; or the client goes elsewhere, or starts anew.",
        ),
        Transition(
            "lose",
            _S.RESUMING,
            _S.LOST,
            doc="The server answered GONE, or something that cannot be.",
        ),
    ),
    failures=("detach", "lose"),
    groups={
        "no session": (_S.NEW, _S.OPENING, _S.ENDED),
        "between links": (_S.DETACHED, _S.RESUMING),
        "on a link": (_S.ATTACHED,),
        "gone": (_S.LOST,),
    },
    ignored={
        (_S.NEW, "detach"): "The link was lost before anything was said about a session.",
        (_S.DETACHED, "detach"): "An older link, which no longer carried the session, was lost.",
        (_S.ENDED, "detach"): "The link goes down after the session, as it should.",
        (_S.LOST, "detach"): "The link goes down after the session.",
        (_S.LOST, "lose"): "The first reason stands.",
        (_S.ENDED, "lose"): "Nothing was left to lose.",
        (_S.NEW, "lose"): "There is nothing to lose yet.",
        (_S.OPENING, "lose"): "There is nothing to lose yet.",
    },
    illegal={
        (_S.OPENING, "open"): "OPEN was sent; a link gets one answer to it.",
        (_S.ATTACHED, "open"): "There is a session; it has to end before another is opened.",
        (_S.DETACHED, "open"): "There is a session to resume; it has to be given up first.",
        (_S.RESUMING, "open"): "The server has not said yet whether the session is there.",
        (_S.ENDED, "open"): _OVER,
        (_S.LOST, "open"): _OVER,
        (_S.NEW, "opened"): "Nobody has asked for a session.",
        (_S.ATTACHED, "opened"): "The session is open.",
        (_S.DETACHED, "opened"): _NO_LINK,
        (_S.RESUMING, "opened"): "RESUME is answered RESUMED or GONE.",
        (_S.ENDED, "opened"): _OVER,
        (_S.LOST, "opened"): _OVER,
        (_S.OPENING, "attach"): _OTHER_END,
        (_S.RESUMING, "attach"): _OTHER_END,
        (_S.ENDED, "attach"): _OVER,
        (_S.LOST, "attach"): _OVER,
        (_S.NEW, "resume"): "There is nothing to resume.",
        (_S.OPENING, "resume"): "There is nothing to resume.",
        (_S.ATTACHED, "resume"): "A link carries the session; it has to be given up first.",
        (_S.RESUMING, "resume"): "RESUME was sent; a link gets one answer to it.",
        (_S.ENDED, "resume"): _OVER,
        (_S.LOST, "resume"): _OVER,
        (_S.NEW, "resumed"): "Nobody has asked for a session.",
        (_S.OPENING, "resumed"): "OPEN is answered OPENED.",
        (_S.ATTACHED, "resumed"): "RESUMED comes once on a link.",
        (_S.DETACHED, "resumed"): _NO_LINK,
        (_S.ENDED, "resumed"): _OVER,
        (_S.LOST, "resumed"): _OVER,
        (_S.NEW, "end"): "There is nothing to end.",
        (_S.OPENING, "end"): "There is nothing to end.",
        (_S.DETACHED, "end"): "Only a link can tell the other end; without one it is lost.",
        (_S.RESUMING, "end"): "The server has not said yet whether the session is there.",
        (_S.ENDED, "end"): _OVER,
        (_S.LOST, "end"): _OVER,
    },
    complete=True,
)
"""The machine of a session; `diagrams/session.*` are drawn from it."""
