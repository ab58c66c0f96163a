from __future__ import annotations

from typing import Any

import pytest
from loguru import logger

from tunnel.log_line import LineLog


@pytest.fixture
def records() -> Any:
    """What loguru gets while the tunnel's log is on."""
    found: list[Any] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: found.append(message.record), level="DEBUG")
    yield found
    logger.remove(sink)
    logger.disable("tunnel")


def test_a_line_goes_to_the_log_and_to_the_application(records: list[Any]) -> None:
    """The same text, with braces in values taken as they are."""
    lines: list[str] = []
    LineLog(lines.append)("{} of {:.1f}: {}", 1, 2, "{braces}")
    assert lines == ["1 of 2.0: {braces}"]
    assert [record["message"] for record in records] == lines
    assert records[0]["level"].name == "INFO"


def test_nobody_need_listen(records: list[Any]) -> None:
    """Without on_log the line is only logged."""
    LineLog(None)("quiet")
    assert [record["message"] for record in records] == ["quiet"]


def test_an_application_that_raises_is_logged(records: list[Any]) -> None:
    """What on_log raises goes no further than the log."""
    LineLog(lambda line: 1 // 0)("hello")
    assert [record["level"].name for record in records] == ["INFO", "ERROR"]
    assert records[1]["exception"].type is ZeroDivisionError
