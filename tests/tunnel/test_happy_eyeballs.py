from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.happy_eyeballs import ATTEMPT_DELAY, Entrant, Race, interleaved

V4, V6 = socket.AF_INET, socket.AF_INET6


def address(family: socket.AddressFamily, host: str = "") -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, 6, "", (host, 1))


def started(race: Race, now: float) -> list[int]:
    """The positions of all that are due."""
    positions = []
    while (entrant := race.start(now)) is not None:
        positions.append(entrant.position)
    return positions


def error(number: int) -> OSError:
    return OSError(number, "")


# The order


def test_families_alternate_beginning_with_the_preferred_one() -> None:
    """The resolver's first address is tried first; then a family's turn is one address each."""
    six = [address(V6, name) for name in "abc"]
    four = [address(V4, name) for name in "de"]
    assert interleaved(six + four) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleaved(four + six) == [four[0], six[0], four[1], six[1], six[2]]
    assert interleaved(four) == four
    assert interleaved([]) == []


@given(st.lists(st.tuples(st.sampled_from([V4, V6, socket.AF_UNIX]), st.integers(0, 5))))
def test_each_address_is_tried_once(addresses: list[tuple[Any, ...]]) -> None:
    """Nothing is lost or doubled, and within a family the resolver's order holds."""
    result = interleaved(addresses)
    assert sorted(result) == sorted(set(addresses))
    for family in {a[0] for a in addresses}:
        unique = list(dict.fromkeys(a for a in addresses if a[0] == family))
        assert [a for a in result if a[0] == family] == unique


# The moments


def test_attempts_begin_a_delay_apart() -> None:
    """The first at once, each further one 250 ms after the last (RFC 8305, section 5)."""
    race = Race([address(V6), address(V4), address(V6, "b")])
    assert ATTEMPT_DELAY == 0.25
    assert race.pause(10.0) == 0.0
    assert started(race, 10.0) == [0]
    assert race.pause(10.1) == pytest.approx(0.15)
    assert started(race, 10.24) == []
    assert started(race, 10.25) == [1]
    assert started(race, 10.51) == [2]
    assert race.pause(10.6) is None
    assert not race.is_lost


def test_a_failure_starts_the_next_one_at_once() -> None:
    """A refusal need not be waited for; the delay counts anew from there."""
    race = Race([address(V6), address(V4), address(V6, "b")], delay=1.0)
    first = race.start(0.0)
    assert first == Entrant(0, address(V6))
    race.fail(first, error(errno.ECONNREFUSED))
    assert race.pause(0.1) == 0.0
    assert started(race, 0.1) == [1]
    assert race.pause(0.1) == 1.0


def test_an_expired_delay_is_over_whatever_the_clock_says() -> None:
    """A time-out that the system has measured counts, also while a test has frozen the clock."""
    race = Race([address(V6), address(V4)])
    assert started(race, 5.0) == [0]
    race.expire()
    assert started(race, 5.0) == [1]


def test_a_race_is_lost_when_all_have_failed() -> None:
    """As long as one is waiting or running it is not."""
    race = Race([address(V6), address(V4)])
    entrants = []
    while (entrant := race.start(0.0)) is not None:
        entrants.append(entrant)
        race.expire()
    race.fail(entrants[1], error(errno.ECONNREFUSED))
    assert not race.is_lost
    race.fail(entrants[0], error(errno.ETIMEDOUT))
    assert race.is_lost


# The error


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([errno.ECONNREFUSED, errno.ETIMEDOUT], errno.ECONNREFUSED),
        ([errno.EHOSTUNREACH, errno.ECONNREFUSED], errno.EHOSTUNREACH),
        ([errno.ENETUNREACH, errno.ECONNREFUSED], errno.ECONNREFUSED),
        ([errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ETIMEDOUT], errno.ETIMEDOUT),
        ([errno.EADDRNOTAVAIL, errno.ENETUNREACH], errno.EADDRNOTAVAIL),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_most_telling_error_is_reported(numbers: list[int], told: int, backwards: bool) -> None:
    """The first address's, in the order of the addresses; one about missing ways only at need."""
    race = Race(address(V4, str(number)) for number in numbers)
    entrants = []
    while (entrant := race.start(0.0)) is not None:
        entrants.append(entrant)
        race.expire()
    for one in reversed(entrants) if backwards else entrants:
        race.fail(one, error(numbers[one.position]))
    assert race.error().errno == told


def test_a_name_without_addresses_is_lost_at_once() -> None:
    """There is nobody to try, and an error that says so."""
    race = Race([])
    assert race.start(0.0) is None
    assert race.is_lost
    assert race.error().errno == errno.EADDRNOTAVAIL
