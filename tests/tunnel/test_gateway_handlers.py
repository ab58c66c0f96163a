"""Finding handlers, and making answers of what they return."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tunnel.errors import ConfigurationError
from tunnel.gateway.handlers import (
    Call,
    RequestFailed,
    failure,
    handling_of,
    response_of,
)
from tunnel.responses import Headers, TunnelResponse


def test_names_and_callables_are_handlers() -> None:
    """The gateway's own run on the loop, others in threads."""
    for name in ("echo", "sink"):
        assert all(handling.is_quick for handling in handling_of(name))
    for handler in ("os.path:join", print):
        assert not any(handling.is_quick for handling in handling_of(handler))


@pytest.mark.parametrize("name", ["", "ech", "json", ":x", "json:", "json:dumps:x"])
def test_what_is_no_name(name: str) -> None:
    """Neither the gateway's own nor MODULE:NAME."""
    with pytest.raises(ConfigurationError):
        handling_of(name)


def test_mistakes_with_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is missing, or fails, or has no such name, or one that is no function."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gateway_broken.py").write_text("raise RuntimeError('on purpose')")
    module = ModuleType("gateway_fine")
    module.value = 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway_fine", module)
    for name, words in (
        ("gateway_missing:f", "cannot be imported: No module named 'gateway_missing'"),
        ("gateway_broken:f", "cannot be imported: RuntimeError: on purpose"),
        ("gateway_fine:f.g", "has no 'f.g'"),
        ("gateway_fine:value", "'gateway_fine:value' is not callable"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            handling_of(name)
    with pytest.raises(ConfigurationError, match="not callable: int"):
        handling_of(5)  # type: ignore[arg-type]


def test_results_become_answers() -> None:
    """The request's own id is used, whatever a response says."""
    answer = response_of(7, TunnelResponse(1, 201, Headers({"X": "y"}), b"z"))
    assert answer == TunnelResponse(7, 201, Headers({"X": "y"}), b"z")
    assert response_of(7, "") == TunnelResponse(7, 200)
    assert response_of(7, (204, None, b"")) == TunnelResponse(7, 204)
    with pytest.raises(RequestFailed) as info:
        response_of(7, None)
    assert info.value.status == 501


@pytest.mark.parametrize("result", [5, (1, 2), ("200", None, b""), [b"x"], (200, {"a b": "c"}, "")])
def test_what_is_no_answer(result: object) -> None:
    """It is a mistake of the handler, which becomes a 500."""
    with pytest.raises((TypeError, ValueError)):
        response_of(7, result)


def test_a_failure_is_a_sentence() -> None:
    """As plain text."""
    fields = Headers({"Content-Type": "text/plain; charset=utf-8"})
    assert failure(7, 502, "Büh.") == TunnelResponse(7, 502, fields, "Büh.".encode())


def test_a_call_tells_when_nobody_waits_any_more() -> None:
    """Once; at once if that was before somebody asked to be told."""
    told: list[str] = []
    call = Call(100)
    call.on_abort(lambda: told.append("first"))
    assert not call.is_aborted
    call.abort()
    call.abort()
    assert call.is_aborted
    call.on_abort(lambda: told.append("late"))
    assert told == ["first", "late"]
    assert call.settle()


def test_a_call_that_is_settled_tells_nobody() -> None:
    """What was to be broken off may be somebody else's by then."""
    told: list[str] = []
    call = Call(100)
    call.on_abort(lambda: told.append("late"))
    assert not call.settle()
    call.abort()
    assert told == []
    Call(100).abort()
