from __future__ import annotations

import gc

from tests.plain_server import echo, plain_server
from tunnel import TunnelService, connect, roll
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


def test_a_tunnel_that_nobody_holds_is_there_as_long_as_it_is_connected() -> None:
    """Its thread works on, so it is seen, left to the parent in a fork, and ended at the exit."""
    with plain_server(echo) as url:
        connect(url, user_id="forgotten")
        gc.collect()
        (service,) = (
            service
            for _, service in roll.enrolled(TunnelService)
            if service.tracker.connection is not None
            and service.tracker.connection.user_id == "forgotten"
        )
        service.disconnect()
