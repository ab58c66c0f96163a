from __future__ import annotations

import gc

from tunnel import roll
from tunnel.forks import disown


class Tunnel:
    def __init__(self) -> None:
        self.part = 1


class Other:
    pass


def test_the_living_are_listed_by_age() -> None:
    """Only those of the kind, each with its number; who is garbage, or a parent's, is not there."""
    first, other, second, inherited = Tunnel(), Other(), Tunnel(), Tunnel()
    gone = Tunnel()
    for tunnel in (first, gone, other, second, inherited):
        roll.enrol(tunnel)
    disown(inherited)
    del tunnel, gone
    gc.collect()
    found = roll.enrolled(Tunnel)
    assert [tunnel for _, tunnel in found] == [first, second]
    assert found[0][0] < found[1][0]
