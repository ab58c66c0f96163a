"""The pytest plugin, as users' test suites meet it: each test runs a suite of its own."""

from __future__ import annotations

import configparser
import os
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of setup.cfg, as pip would have written them down."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folder = pytester.mkdir("site") / "kit-1.dist-info"
    folder.mkdir()
    entries = setup["options.entry_points"]["pytest11"]
    (folder / "entry_points.txt").write_text(f"[pytest11]{entries}\n")
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: kit\nVersion: 1\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder.parent)]))
    monkeypatch.syspath_prepend(folder.parent)


@pytest.fixture
def run(installed: None, pytester: pytest.Pytester):
    """Runs the tests in a source text, in this process."""

    def run(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(textwrap.dedent(source))
        return pytester.runpytest_inprocess("-W", "error", *options)

    return run


FREEZES = """
    import time
    from datetime import datetime
    import pytest
    from freezegun import freeze_time
    from tunnel import TunnelService
    from tunnel.testing import FakeClock, ScriptedTransport, drive

    START = "2026-03-01T12:00:00+00:00"

    @pytest.fixture
    def freezer():
        "As pytest-freezer has it."
        with freeze_time(START) as frozen:
            yield frozen

    def follow(clock, network, frozen):
        service = TunnelService(clock=clock, new_transport=network)
        service.connect("ws://anywhere.example/")
        began, rang = clock.monotonic(), []
        assert clock.time() == time.time()
        clock.call_at(began + 10, lambda: rang.append(clock.monotonic()))
        frozen.tick(5)
        assert clock.monotonic() == began + 5
        frozen.move_to("2026-03-01T12:00:20")
        clock.advance(0)
        assert rang == [began + 20]
        network.fall_silent()
        assert drive(service, lambda: not network.is_connected, timeout=60)
        assert drive(service, lambda: network.is_connected, timeout=60)
        assert clock.time() == time.time() > 45 + datetime.fromisoformat(START).timestamp()
        clock.advance(14)
        assert clock.time() == time.time()
        service.disconnect()

    @freeze_time(START, as_kwarg="frozen")
    def test_decorator(tunnel_clock, tunnel_network, frozen=None):
        follow(tunnel_clock, tunnel_network, frozen)

    def test_context_manager(tunnel_clock, tunnel_network):
        with freeze_time(START) as frozen:
            follow(tunnel_clock, tunnel_network, frozen)
            later = tunnel_clock.monotonic()
        assert tunnel_clock.monotonic() == later

    def test_fixture_before(freezer, tunnel_clock, tunnel_network):
        follow(tunnel_clock, tunnel_network, freezer)

    def test_fixture_after(tunnel_clock, tunnel_network, freezer):
        follow(tunnel_clock, tunnel_network, freezer)

    @freeze_time(START, as_kwarg="frozen")
    class TestClass:
        def test_it(self, tunnel_clock, tunnel_network, frozen=None):
            follow(tunnel_clock, tunnel_network, frozen)

    def test_without(tunnel_clock, tunnel_network):
        assert isinstance(tunnel_clock, FakeClock)
        assert isinstance(tunnel_network, ScriptedTransport)
        assert tunnel_clock.monotonic() == 0.0
"""


def test_the_clock_follows_freezegun(run) -> None:
    """Decorator, context manager, fixture or class: ticks and moves reach the tunnel's clock."""
    run(FREEZES).assert_outcomes(passed=6)


def test_gateway_and_proxy(run) -> None:
    """Real gateways with a handler by argument, and proxies before them; all ends with the test."""
    result = run(
        """
        import threading
        import pytest
        import tunnel
        from tunnel import TunnelConnectionState

        @pytest.fixture(autouse=True)
        def nothing_left():
            before = threading.active_count()
            yield
            assert threading.active_count() == before

        def test_it(tunnel_gateway, tunnel_proxy):
            gateway = tunnel_gateway(lambda session, message: message.upper(), session_keep=5.0)
            assert tunnel_gateway("sink").port != gateway.port
            proxy = tunnel_proxy(gateway.url)
            config = tunnel.TunnelConfig(reconnect_base_delay=0.01, jitter=0.0)
            with tunnel.connect(proxy.url, config=config) as service:
                service.send("hello")
                assert next(service.messages()) == "HELLO"
                proxy.reset()
                assert service.wait_for(TunnelConnectionState.RECONNECTING, timeout=10)
                assert service.request(b"still there?", timeout=10).status_code == 500
        """
    )
    result.assert_outcomes(passed=1)


def test_real_servers_while_time_is_frozen(run) -> None:
    """They start, serve and stop while freezegun holds the time still."""
    result = run(
        """
        import tunnel
        from freezegun import freeze_time

        @freeze_time("2026-03-01")
        def test_it(tunnel_gateway, tunnel_proxy):
            gateway = tunnel_gateway()
            with tunnel.connect(tunnel_proxy(gateway.port).url) as service:
                service.send("hello")
                assert next(service.messages()) == "hello"
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("fixture", ["tunnel_gateway", "tunnel_proxy"])
def test_a_tunnel_left_running_is_an_error(run, monkeypatch, fixture: str) -> None:
    """A tunnel that nobody disconnects is named at the end of the test, with what to do."""
    monkeypatch.setattr("tunnel.testing.fixtures._GRACE", 0.0)
    result = run(
        f"""
        import pytest
        import tunnel
        from tunnel.gateway import GatewayThread

        @pytest.fixture(scope="module")
        def service():
            service = tunnel.TunnelService()
            yield service
            service.disconnect(graceful=False)

        @pytest.fixture(scope="module")
        def url():
            with GatewayThread() as gateway:
                yield gateway.url

        def test_it(service, url, {fixture}):
            service.connect(url, timeout=10)

        def test_that_is_not_to_blame(service, url):
            service.disconnect(graceful=False)
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["at the end of this test a tunnel is still running: call its disconnect(), or*"]
    )


def test_the_order_of_fixtures_does_not_matter(run) -> None:
    """What another fixture ends is not left running, also if that one ends after ours."""
    result = run(
        """
        import pytest
        import tunnel

        @pytest.fixture
        def connect():
            services = []

            def connect(url):
                services.append(tunnel.connect(url))

            yield connect
            for service in services:
                service.disconnect(graceful=False)

        def test_it(connect, tunnel_gateway, tunnel_proxy):
            connect(tunnel_proxy(tunnel_gateway().url).url)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_handler_left_running_is_an_error(run, monkeypatch) -> None:
    """So is a handler that does not return; the gateway is stopped all the same."""
    monkeypatch.setattr("tunnel.testing.fixtures._GRACE", 0.0)
    monkeypatch.setattr("tunnel.gateway.server._THREADS_END", 0.0)
    result = run(
        """
        import threading
        import pytest
        import tunnel

        @pytest.fixture(scope="module")
        def forever():
            event = threading.Event()
            yield event
            event.set()

        def test_it(forever, tunnel_gateway):
            began = threading.Event()

            def handler(session, message):
                began.set()
                forever.wait()

            service = tunnel.connect(tunnel_gateway(handler).url)
            service.send("x")
            assert began.wait(10)
            service.disconnect(graceful=False)  # else it would wait until the message is handled

        def test_that_is_not_to_blame(forever):
            forever.set()
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["at the end of this test a handler of a gateway has not returned: let it*"]
    )


def test_a_gateway_without_its_extra(run, monkeypatch) -> None:
    """Without websockets the fixture says what to install, when a gateway is started."""
    monkeypatch.setitem(sys.modules, "tunnel.gateway", None)
    result = run(
        """
        def test_it(tunnel_gateway):
            tunnel_gateway()
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*pip install "resilient-tunnel[[]gateway[]]"*'])


def test_it_costs_nothing_until_it_is_used(installed, pytester) -> None:
    """A run that uses no fixture of it imports nothing of ours, not even freezegun."""
    pytester.makepyfile(
        """
        import sys, threading

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("pytest_tunnel")
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert not loaded & {"tunnel", "statemachine", "loguru", "websocket", "freezegun"}
            assert threading.active_count() == 1
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_it_is_easily_left_out(run) -> None:
    """`-p no:tunnel` leaves it out; its fixtures are listed with their first sentences."""
    source = """
        def test_it(tunnel_clock):
            pass
    """
    result = run(source, "-p", "no:tunnel")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'tunnel_clock' not found*"])
    run(source, "--fixtures").stdout.fnmatch_lines(
        [
            f"{name}*"
            for name in ("tunnel_clock", "tunnel_network", "tunnel_gateway", "tunnel_proxy")
        ]
    )
