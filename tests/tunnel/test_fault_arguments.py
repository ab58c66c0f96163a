from __future__ import annotations

from typing import Any

import pytest

from tunnel.testing import FaultProxy
from tunnel.testing.fault_arguments import Target


@pytest.mark.parametrize(
    ("given", "address", "url"),
    [
        (8765, ("127.0.0.1", 8765), "ws://127.0.0.1:9/"),
        ("ws://127.0.0.1:8765/", ("127.0.0.1", 8765), "ws://127.0.0.1:9/"),
        ("ws://[::1]:80/a/b?c=d", ("::1", 80), "ws://127.0.0.1:9/a/b?c=d"),
        ("wss://localhost/x", ("localhost", 443), "wss://localhost:9/x"),
        ("http://server.test", ("server.test", 80), "http://127.0.0.1:9"),
        ("redis://127.0.0.1:6379/0", ("127.0.0.1", 6379), "redis://127.0.0.1:9/0"),
    ],
)
def test_targets(given: int | str, address: tuple[str, int], url: str) -> None:
    """A target is a port or a URL, whose other parts are those of the proxy's URL."""
    target = Target.read(given)
    assert target.address == address
    assert target.url(9) == url


@pytest.mark.parametrize(
    "given", [-1, 65_536, "", "localhost:80", "ws://", "ws://h:99999/", "redis://h/", None, 1.5]
)
def test_what_is_no_target(given: Any) -> None:
    """What is neither is refused when the proxy is made, by a sentence that shows both forms."""
    with pytest.raises(ValueError, match=r"a port on 127.0.0.1, or a URL such as ws://127.0.0.1"):
        FaultProxy(given)
