from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.network_outlook import (
    DEFAULT_ROUTES,
    NetworkOutlook,
    Route,
    Verdict,
    is_local,
    plain,
)

V4, V6 = DEFAULT_ROUTES
PEER = "198.51.100.7"
HERE = "10.0.0.2"
WAY = Route(HERE, 2, b"\x0a\x00\x00\x01")
CHANGES = (
    dataclasses.replace(WAY, source="10.0.0.3"),
    dataclasses.replace(WAY, interface=3),
    dataclasses.replace(WAY, gateway=b"\x0a\x00\x00\x09"),
)
DOWN = dataclasses.replace(WAY, is_up=False)

ROUTES = st.sampled_from([None, WAY, DOWN, *CHANGES])


def live(local: str | None = HERE, peer: str | None = PEER) -> NetworkOutlook:
    outlook = NetworkOutlook("example.com")
    outlook.connected(local, peer)
    return outlook


def waiting(host: str = "example.com", **routes: Route | None) -> NetworkOutlook:
    """An outlook without a link, which has seen these default routes."""
    outlook = NetworkOutlook(host)
    before = {V4: routes.get("v4"), V6: routes.get("v6"), PEER: routes.get("peer")}
    assert outlook.judge(before) is Verdict.NOTHING
    return outlook


# What is looked at


@pytest.mark.parametrize(
    ("host", "destinations"),
    [
        ("example.com", DEFAULT_ROUTES),
        ("198.51.100.7", ("198.51.100.7",)),
        ("2001:db8:7::1", ("2001:db8:7::1",)),
        ("::ffff:198.51.100.7", ("198.51.100.7",)),
        ("127.0.0.1", ()),
        ("127.9.9.9", ()),
        ("::1", ()),
        ("::ffff:127.0.0.1", ()),
        ("localhost", ()),
        ("api.localhost", ()),
        ("localhost.example.com", DEFAULT_ROUTES),
    ],
)
def test_destinations_of_a_host(host: str, destinations: tuple[str, ...]) -> None:
    """A name may lead anywhere, an address to itself, and this machine needs no network."""
    assert NetworkOutlook(host).destinations == destinations
    assert is_local(host) is (not destinations)


def test_the_last_peer_is_looked_at_as_well() -> None:
    """While there is a link, and after it, the peer's own route matters."""
    outlook = live()
    assert outlook.destinations == (PEER, *DEFAULT_ROUTES)
    outlook.lost()
    assert outlook.destinations == (PEER, *DEFAULT_ROUTES)
    outlook.connected(HERE, "198.51.100.8")
    assert outlook.destinations == ("198.51.100.8", *DEFAULT_ROUTES)


@pytest.mark.parametrize("peer", [None, "127.0.0.1", "::1"])
def test_a_peer_on_this_machine_is_not_looked_at(peer: str | None) -> None:
    """Such as a proxy, or a Unix socket: no change of the network concerns that link."""
    outlook = live(None, peer)
    assert outlook.destinations == DEFAULT_ROUTES
    assert outlook.judge({V4: WAY}) is Verdict.NOTHING
    assert outlook.judge({V4: None}) is Verdict.NOTHING


def test_plain_addresses() -> None:
    """An IPv4 address in IPv6 notation is IPv4; a scope, and what is no address, stay."""
    assert plain("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain("10.0.0.1") == "10.0.0.1"
    assert plain("fe80::1%2") == "fe80::1%2"
    assert plain("example.com") == "example.com"


# A live link


@pytest.mark.parametrize("now", CHANGES)
def test_the_way_of_a_live_link_changes(now: Route) -> None:
    """Another source, interface or gateway: the link may not work any more, or may."""
    outlook = live()
    assert outlook.judge({PEER: WAY}) is Verdict.NOTHING
    assert outlook.judge({PEER: now}) is Verdict.CHANGED
    assert outlook.judge({PEER: now}) is Verdict.NOTHING


@pytest.mark.parametrize("now", [None, DOWN])
def test_the_way_of_a_live_link_goes(now: Route | None) -> None:
    """No route, or one over an interface without a carrier, is reported once; so is its return."""
    outlook = live()
    outlook.judge({PEER: WAY})
    assert outlook.judge({PEER: now}) is Verdict.GONE
    assert outlook.judge({PEER: now}) is Verdict.NOTHING
    assert outlook.judge({PEER: WAY}) is Verdict.CHANGED


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(WAY, Verdict.NOTHING), (CHANGES[0], Verdict.CHANGED), (None, Verdict.GONE)],
)
def test_the_way_had_changed_before_it_was_seen(now: Route | None, verdict: Verdict) -> None:
    """A link from an address that the kernel would not use now is as suspect as a later change."""
    assert live().judge({PEER: now}) is verdict


def test_a_live_link_does_not_care_for_other_routes() -> None:
    """The default routes may do what they like, as long as the way to the peer is the same."""
    outlook = live()
    for v4, v6 in ((None, None), (WAY, None), (CHANGES[0], WAY), (None, None)):
        assert outlook.judge({PEER: WAY, V4: v4, V6: v6}) is Verdict.NOTHING


def test_what_cannot_be_known_is_no_change() -> None:
    """Without an answer the last one stands."""
    outlook = live()
    assert outlook.judge({}) is Verdict.NOTHING
    assert outlook.judge({PEER: WAY}) is Verdict.NOTHING
    assert outlook.judge({}) is Verdict.NOTHING
    assert outlook.judge({PEER: None}) is Verdict.GONE


# Without a link


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_route_appears(family: str) -> None:
    """A default route, of either family, is worth an attempt; once."""
    outlook = waiting()
    routes = {V4: WAY if family == "v4" else None, V6: WAY if family == "v6" else None}
    assert outlook.judge(routes) is Verdict.BACK
    assert outlook.judge(routes) is Verdict.NOTHING


@pytest.mark.parametrize("now", CHANGES)
def test_a_route_changes(now: Route) -> None:
    """Another way may lead where the old one did not."""
    assert waiting(v4=WAY).judge({V4: now}) is Verdict.BACK


@pytest.mark.parametrize("now", [None, DOWN])
def test_a_route_goes(now: Route | None) -> None:
    """That is no reason to do anything; the backoff goes on."""
    outlook = waiting(v4=WAY)
    assert outlook.judge({V4: now}) is Verdict.NOTHING
    assert outlook.judge({V4: WAY}) is Verdict.BACK


def test_the_first_look_is_no_news() -> None:
    """That there is a network all along is nothing that has changed."""
    assert NetworkOutlook("example.com").judge({V4: WAY, V6: WAY}) is Verdict.NOTHING


def test_an_address_needs_no_default_route() -> None:
    """Where the URL names an address, other routes are not looked at."""
    outlook = waiting(PEER)
    assert outlook.judge({V4: WAY, V6: WAY}) is Verdict.NOTHING
    assert outlook.judge({PEER: WAY}) is Verdict.BACK


@pytest.mark.parametrize("destination", [PEER, V4, V6])
def test_after_a_loss_each_route_counts(destination: str) -> None:
    """The name may lead to the last peer, or to another one of the other family."""
    outlook = live()
    outlook.judge({PEER: WAY, V4: WAY, V6: None})
    assert outlook.judge({PEER: None, V4: None, V6: None}) is Verdict.GONE
    outlook.lost()
    assert outlook.judge({PEER: None, V4: None, V6: None}) is Verdict.NOTHING
    assert outlook.judge({destination: WAY}) is Verdict.BACK


def test_a_peer_is_forgotten_with_the_next() -> None:
    """The route of a peer that is none any more is not compared with an old look."""
    outlook = live()
    outlook.judge({PEER: WAY})
    outlook.connected(HERE, "198.51.100.8")
    outlook.judge({"198.51.100.8": WAY})
    outlook.connected(HERE, PEER)
    outlook.lost()
    assert outlook.judge({PEER: CHANGES[0]}) is Verdict.NOTHING


@settings(max_examples=50)
@given(st.lists(ROUTES, min_size=1, max_size=20), st.booleans())
def test_only_changes_are_reported(history: list[Route | None], is_live: bool) -> None:
    """Whatever happens: no news without a change, and none is missed that makes a way usable."""
    outlook = live() if is_live else waiting(PEER, peer=WAY)
    outlook.judge({PEER: WAY})
    before: Route | None = WAY
    for now in history:
        verdict = outlook.judge({PEER: now})
        is_usable = now is not None and now.is_up
        if now == before:
            assert verdict is Verdict.NOTHING
        elif is_usable:
            assert verdict is (Verdict.CHANGED if is_live else Verdict.BACK)
        else:
            assert verdict is (Verdict.GONE if is_live else Verdict.NOTHING)
        before = now
