from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest

from tunnel import errors
from tunnel.errors import (
    ConfigurationError,
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectionRejectedError,
    HandshakeRejectedError,
    MaxReconnectAttemptsExceededError,
    MessageTooBigError,
    PayloadTypeError,
    ProtocolError,
    ProtocolVersionError,
    QueueFullError,
    RateLimitedError,
    RequestTimeoutError,
    ServerUnavailableError,
    SessionLostError,
    TokenExpiredError,
    TunnelError,
    TunnelErrorCategory,
    error_for_close,
)

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, TunnelError)
]
# One of each class that has attributes of its own, and those attributes.
EXAMPLES: list[tuple[TunnelError, dict[str, Any]]] = [
    (ConnectionLostError("m", close_code=1001, reason="r"), {"close_code": 1001, "reason": "r"}),
    (
        ServerUnavailableError("m", status=503, close_code=1012, reason="r", retry_after=3.0),
        {"status": 503, "close_code": 1012, "reason": "r", "retry_after": 3.0},
    ),
    (RateLimitedError("m", status=429), {"status": 429, "close_code": None, "reason": ""}),
    (TokenExpiredError("m", status=401), {"status": 401}),
    (ProtocolError("m", close_code=1007), {"close_code": 1007}),
    (HandshakeRejectedError("m", status=404), {"status": 404, "close_code": None}),
    (ProtocolVersionError("m", status=426), {"status": 426, "close_code": None}),
    (ConnectionRejectedError("m", close_code=1008), {"close_code": 1008, "reason": ""}),
    (MessageTooBigError("m", size=9, limit=8), {"size": 9, "limit": 8, "close_code": 1009}),
    (ConfigurationError("m", problems=["a", "b"]), {"problems": ("a", "b")}),
    (QueueFullError("m", accepted=3), {"accepted": 3}),
    (RequestTimeoutError("m", timeout=30.0), {"timeout": 30.0}),
    (SessionLostError("m", unacknowledged=["a", b"b"]), {"unacknowledged": ("a", b"b")}),
    (MaxReconnectAttemptsExceededError("m", attempts=3), {"attempts": 3, "last_error": None}),
]


def test_the_docstring_shows_the_whole_tree() -> None:
    """The picture in the module's docstring has every class, its parent and its code."""
    drawn: dict[str, tuple[str, str]] = {}
    ancestors: list[str] = []
    for indent, name, number in re.findall(
        r"^    ((?:[| ]   )*(?:\+-- )?)(\w+Error)(?: \(\w+\))? +([0-9]{3})  \S",
        errors.__doc__ or "",
        re.MULTILINE,
    ):
        depth = len(indent) // 4
        ancestors[depth:] = [name]
        drawn[name] = (ancestors[depth - 1] if depth else "Exception", f"TUNNEL_{number}")
    assert drawn == {cls.__name__: (cls.__base__.__name__, cls.code) for cls in CLASSES}


def test_every_class_is_exported() -> None:
    """What the module offers is the tree, the categories and the function for close codes."""
    names = {cls.__name__ for cls in CLASSES} | {"TunnelErrorCategory", "error_for_close"}
    assert set(errors.__all__) == names
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.requirement("2.10")
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_a_code_of_its_own(cls: type[TunnelError]) -> None:
    """A class inherits neither its code nor its explanation."""
    assert "code" in vars(cls)
    assert "__doc__" in vars(cls)


@pytest.mark.parametrize(("error", "attributes"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_attributes_and_context(error: TunnelError, attributes: dict[str, Any]) -> None:
    """What an error knows is an attribute, and the known part is in its context too."""
    assert error.message == "m"
    for name, value in attributes.items():
        assert getattr(error, name) == value
        if name == "unacknowledged":
            assert error.context[name] == len(value)  # other people's messages are not shown
        elif value in (None, "") or name == "retry_after":
            assert name not in error.context
        else:
            assert error.context[name] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    "duplicate",
    [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
@pytest.mark.parametrize(("error", "attributes"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_errors_can_be_pickled_and_copied(duplicate, error, attributes) -> None:
    """A copy has the class, the texts and all the attributes of the original."""
    other = duplicate(error)
    assert type(other) is type(error)
    assert other.args == error.args
    assert vars(other) == vars(error)


def test_the_last_error_survives_pickling() -> None:
    """So does an error within an error."""
    error = MaxReconnectAttemptsExceededError(attempts=2, last_error=QueueFullError(accepted=1))
    other = pickle.loads(pickle.dumps(error))
    assert other.last_error.accepted == 1
    assert other.to_dict() == error.to_dict()


@pytest.mark.requirement("1.9")
def test_giving_up_says_why() -> None:
    """After the last attempt the message and the context tell how many there were, and why."""
    last = ConnectionLostError("reset")
    error = MaxReconnectAttemptsExceededError(attempts=10, last_error=last)
    assert error.code == "TUNNEL_014"
    assert error.message == "gave up after 10 attempts; the last error: reset (TUNNEL_021)"
    assert error.context == {"attempts": 10, "last_error": last.to_dict()}
    assert not error.is_retryable
    assert MaxReconnectAttemptsExceededError(attempts=1).message == "gave up after 1 attempts"


@pytest.mark.requirement("5.4")
def test_a_full_queue_has_its_promised_code() -> None:
    """A full queue is TUNNEL_006, and zero accepted messages are said, not left out."""
    error = QueueFullError()
    assert (error.code, error.accepted, error.context) == ("TUNNEL_006", 0, {"accepted": 0})


def test_usage_errors_are_pythons_too() -> None:
    """A wrong setting is a ValueError, data of a wrong type a TypeError."""
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(PayloadTypeError, TypeError)


def test_all_problems_make_the_message() -> None:
    """A configuration error lists its problems; a single message is the one problem."""
    assert ConfigurationError(problems=iter(["a", "b"])).message == "a; b"
    assert ConfigurationError("a").problems == ("a",)
    assert ConfigurationError().problems == ("configuration error",)


def test_facts_do_not_replace_the_callers() -> None:
    """What the caller put into the context stays."""
    assert QueueFullError(accepted=1, context={"accepted": "x"}).context == {"accepted": "x"}


@pytest.mark.requirement("6.7")
@pytest.mark.parametrize(
    ("code", "cls", "is_retryable"),
    [
        (1000, ConnectionClosedByPeerError, True),
        (1001, ConnectionClosedByPeerError, True),
        (1002, ConnectionRejectedError, False),
        (1003, ConnectionRejectedError, False),
        (1005, ConnectionClosedByPeerError, True),
        (1006, ConnectionLostError, True),
        (1007, ConnectionRejectedError, False),
        (1008, ConnectionRejectedError, False),
        (1009, MessageTooBigError, False),
        (1010, ConnectionRejectedError, False),
        (1011, ConnectionClosedByPeerError, True),
        (1012, ServerUnavailableError, True),
        (1013, ServerUnavailableError, True),
        (1014, ConnectionClosedByPeerError, True),
        (3000, ConnectionClosedByPeerError, True),
        (4000, ConnectionClosedByPeerError, True),
        (4999, ConnectionClosedByPeerError, True),
    ],
)
def test_what_a_close_code_means(code: int, cls: type[TunnelError], is_retryable: bool) -> None:
    """Some close codes are losses, which are retried; others are final."""
    error = error_for_close(code, "because")
    assert type(error) is cls
    assert error.is_retryable is is_retryable
    if code != 1006:
        assert error.message == f"the peer closed the connection with code {code}: because"
        assert error.context == {"close_code": code, "reason": "because"}


@pytest.mark.parametrize("code", [1012, 1013])
def test_a_server_that_restarts_is_a_server_error(code: int) -> None:
    """The codes by which a server asks for patience are TUNNEL_004, of category server."""
    error = error_for_close(code)
    assert (error.code, error.category) == ("TUNNEL_004", TunnelErrorCategory.SERVER)


def test_a_close_without_a_reason() -> None:
    """Without a reason neither the message nor the context speaks of one."""
    for code in (1000, 1008, 1009):
        error = error_for_close(code)
        assert error.message == f"the peer closed the connection with code {code}"
        assert "reason" not in error.context


@pytest.mark.parametrize("code", [1000, 1012, 4001])
def test_an_application_makes_codes_final(code: int) -> None:
    """A code of `fatal_close_codes` is final, and its neighbours are what they were."""
    fatal = frozenset({code})
    assert type(error_for_close(code, "", fatal)) is ConnectionRejectedError
    assert error_for_close(code, "", fatal).code == "TUNNEL_035"
    assert error_for_close(4002, "", fatal).is_retryable


def test_a_reason_is_made_harmless() -> None:
    """A peer can neither forge a log line nor have a token shown by its reason."""
    error = error_for_close(4000, "bye\r\n2026-01-01 ERROR token=abc123")
    assert "\n" not in error.message
    assert "abc123" not in str(error.to_dict())
