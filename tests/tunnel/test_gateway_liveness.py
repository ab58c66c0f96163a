"""Whether a client is still there, judged from its signs of life."""

from __future__ import annotations

import pytest

from tunnel.gateway.liveness import Liveness, Verdict

FINE, PING, GIVE_UP = Verdict.FINE, Verdict.PING, Verdict.GIVE_UP


def test_silence_leads_to_a_ping_and_then_to_the_end() -> None:
    """Once after the interval, and once after the time-out."""
    client = Liveness(20.0, 15.0, now=100.0)
    assert client.look(119.9, 0, 0) is FINE
    assert client.look(120.0, 0, 0) is PING
    assert client.look(134.9, 0, 0) is FINE
    assert client.look(135.0, 0, 0) is GIVE_UP


def test_any_byte_is_a_sign_of_life() -> None:
    """After it everything begins again."""
    client = Liveness(20.0, 15.0, now=100.0)
    assert client.look(120.0, 0, 0) is PING
    client.heard(134.0)
    assert client.look(153.9, 0, 0) is FINE
    assert client.look(154.0, 0, 0) is PING
    assert client.look(169.0, 0, 0) is GIVE_UP


def test_nobody_is_given_up_without_a_ping() -> None:
    """Who looks late asks first."""
    client = Liveness(20.0, 15.0, now=100.0)
    assert client.look(1000.0, 0, 0) is PING
    assert client.look(1000.0, 0, 0) is GIVE_UP


@pytest.mark.parametrize(
    ("looks", "verdict"),
    [
        # written, pending: at 110 s, 120 s, 134 s, and the verdict at 140 s
        ([(1000, 500), (1000, 500), (1000, 400), (1000, 400)], FINE),  # the pile shrinks
        ([(1000, 500), (1000, 500), (1500, 900), (1500, 900)], FINE),  # ... though more came
        ([(1000, 500), (1000, 500), (1500, 1000), (1500, 1000)], GIVE_UP),  # it only grows
        ([(1000, 0), (1000, 0), (2000, 0), (3000, 0)], GIVE_UP),  # only the kernel took it
    ],
)
def test_progress_of_what_we_write_is_one_too(
    looks: list[tuple[int, int]], verdict: Verdict
) -> None:
    """A client that takes what was piled up is alive; what the kernel takes proves nothing."""
    client = Liveness(20.0, 20.0, now=100.0)
    verdicts = [
        client.look(now, *look)
        for now, look in zip((110.0, 120.0, 134.0, 140.0), looks, strict=True)
    ]
    assert verdicts[:3] == [FINE, PING, FINE]
    assert verdicts[3] is verdict


def test_who_was_not_listened_to_gets_another_chance() -> None:
    """After a time in which we did not read, the client has its whole time-out again."""
    client = Liveness(20.0, 15.0, now=100.0)
    assert client.look(120.0, 0, 0) is PING
    client.forgive(500.0)
    assert client.look(500.0, 0, 0) is PING
    assert client.look(514.9, 0, 0) is FINE
    assert client.look(515.0, 0, 0) is GIVE_UP
    client.heard(600.0)
    client.forgive(601.0)
    assert client.look(619.9, 0, 0) is FINE
