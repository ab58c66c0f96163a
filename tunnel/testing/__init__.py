"""What programs that use a tunnel need to test themselves: virtual time.

Importing it needs neither pytest nor freezegun.
"""

from __future__ import annotations

from tunnel.testing.clock import FakeClock, FakeTimer

__all__ = ["FakeClock", "FakeTimer"]
