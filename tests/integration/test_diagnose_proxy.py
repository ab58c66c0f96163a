"""`tunnel diagnose` through a proxy of the environment."""

from __future__ import annotations

import json

import pytest
from connect_proxies import ConnectProxy

from tunnel import cli
from tunnel.gateway import GatewayThread

pytestmark = pytest.mark.usefixtures("no_leaks")
PASSWORD = "s3cr3t-pass"


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_the_proxy_is_a_step(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which proxy is used, and that it opens the way; its password is not shown."""
    credentials = f"me:{PASSWORD}"
    with (
        GatewayThread("echo") as gateway,
        ConnectProxy(gateway.port, credentials=credentials) as proxy,
    ):
        monkeypatch.setenv("http_proxy", f"{scheme}://{credentials}@127.0.0.1:{proxy.port}")
        assert cli.main(["diagnose", "ws://gateway.test/", "--json"]) == 0
        monkeypatch.setenv("http_proxy", f"{scheme}://me:wr0ng-pass@127.0.0.1:{proxy.port}")
        assert cli.main(["diagnose", "ws://gateway.test/", "--json"]) == 1
    out = capsys.readouterr().out
    good, bad = (json.loads(line) for line in out.splitlines())
    steps = {step["name"]: step for step in good["steps"]}
    assert f"the proxy {scheme}://127.0.0.1:{proxy.port}" in steps["TCP"]["result"]
    assert steps["proxy"]["status"] == "ok"
    steps = {step["name"]: step for step in bad["steps"]}
    assert steps["proxy"]["status"] == "failed"
    assert bad["verdict"] == "proxy does not work."
    assert PASSWORD not in out
    assert "wr0ng" not in out
