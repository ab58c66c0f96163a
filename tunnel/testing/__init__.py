"""What programs that use a tunnel need to test themselves: virtual time, and a network that obeys.

A tunnel on a `FakeClock` starts no thread: `drive` runs the same code in the test's own thread, and
hours pass in milliseconds. Importing it needs neither pytest nor freezegun.
"""

from __future__ import annotations

from tunnel.testing.clock import FakeClock, FakeTimer
from tunnel.testing.driving import drive
from tunnel.testing.gateway import ScriptedGateway
from tunnel.testing.scripted import ScriptedTransport

__all__ = ["FakeClock", "FakeTimer", "ScriptedGateway", "ScriptedTransport", "drive"]
