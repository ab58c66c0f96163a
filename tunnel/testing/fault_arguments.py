"""What a fault proxy is told, and whether it makes sense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tunnel.testing.fault_streams import DOWN, UP, Direction, Ending

_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_HIGHEST_PORT = 65_535


@dataclass(frozen=True)
class Target:
    """Where a proxy forwards to.

    Attributes:
        given: As the user has said it.
        address: Host and port.
        parts: Of its URL.
    """

    given: int | str
    address: tuple[str, int]
    parts: SplitResult

    @classmethod
    def read(cls, target: int | str) -> Target:
        """From a port on 127.0.0.1, or a URL.

        Raises:
            ValueError: It is neither.
        """
        problem = (
            "a fault proxy's target is a port on 127.0.0.1, or a URL such as "
            f"ws://127.0.0.1:8765/, not {target!r}"
        )
        if isinstance(target, str):
            try:
                parts = urlsplit(target)
                port = parts.port or _PORTS.get(parts.scheme)
            except ValueError:
                raise ValueError(problem) from None
        elif isinstance(target, int) and 0 <= target <= _HIGHEST_PORT:
            parts, port = urlsplit(f"ws://127.0.0.1:{target}/"), target
        else:
            raise ValueError(problem)
        if not parts.hostname or port is None:
            raise ValueError(problem)
        return cls(target, (parts.hostname, port), parts)

    def url(self, port: int) -> str:
        """The same with a proxy on this port in its place."""
        # A certificate for localhost is none for its address.
        host = "localhost" if self.parts.hostname == "localhost" else "127.0.0.1"
        return self.parts._replace(netloc=f"{host}:{port}").geturl()


def directions_of(named: Sequence[str]) -> tuple[Direction, ...]:
    """The directions that are meant: both, if none is named.

    Raises:
        ValueError: There is no such direction.
    """
    for name in named:
        if name not in (UP, DOWN):
            raise ValueError(
                f'a direction is "up" (from the client to the server) or "down", not {name!r}'
            )
    return tuple(way for way in (UP, DOWN) if not named or way in named)


def ending_of(how: Ending) -> Ending:
    """What was said.

    Raises:
        ValueError: A connection cannot end so.
    """
    if how not in ("reset", "fin"):
        raise ValueError(f'a connection is cut by "reset" or "fin", not {how!r}')
    return how


def bits_of(bits: int) -> int:
    """What was said.

    Raises:
        ValueError: It is not in a byte, or changes nothing.
    """
    if not 0 < bits <= 0xFF:
        raise ValueError(f"the bits to invert in a byte are 1 to 255, not {bits!r}")
    return bits


def bytes_of(garbage: bytes) -> bytes:
    """What was said, as it is now.

    Raises:
        ValueError: It is no bytes.
    """
    if not isinstance(garbage, (bytes, bytearray, memoryview)):
        raise ValueError(f"what is inserted are bytes, not {garbage!r}")
    return bytes(garbage)


def count_of_bytes(what: str, value: int) -> int:
    """What was said.

    Raises:
        ValueError: It is negative, or no whole number.
    """
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is a whole number of bytes that is not negative, not {value!r}")
    return value


def not_negative(what: str, value: float) -> float:
    """What was said.

    Raises:
        ValueError: It is negative or not finite.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} is a finite number that is not negative, not {value!r}")
    return value


def positive(what: str, value: float) -> float:
    """What was said.

    Raises:
        ValueError: It is not positive, or not finite.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{what} is a positive, finite number, not {value!r}")
    return value


def between(what: str, bounds: tuple[float, float]) -> None:
    """Have bounds checked.

    Raises:
        ValueError: They are not two numbers, the smaller one first.
    """
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"{what} is the least and the most, such as (1, 5), not {bounds!r}")
