"""What a certificate says about itself: for people who look for the reason of a refusal.

Python tells this of certificates that were verified, and nothing of those that were refused. Here
nothing is verified, and nothing decided: see `tunnel.tls` for that. The structure is that of RFC
5280, section 4.1; `tunnel.spki` has the walk through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from tunnel.spki import element

_INTEGER, _OBJECT, _SEQUENCE, _SET, _VERSION = 0x02, 0x06, 0x30, 0x31, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_DAY = 86_400

# RFC 4514, section 3; the contents of the identifiers in DER.
_ATTRIBUTES = {
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
}


@dataclass(frozen=True)
class CertificateFacts:
    """What is in a certificate. Immutable.

    Attributes:
        subject: Whose it is, such as ``CN=example.com, O=Example``; empty if it does not say.
        issuer: Who has signed it, in the same form.
        not_before: From when on it is valid; aware, in UTC.
        not_after: Until when.
    """

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def read(cls, der: bytes) -> CertificateFacts:
        """Take a certificate apart.

        Raises:
            ValueError: It is no certificate in DER.
        """
        start, end = element(der, 0, len(der), _SEQUENCE)
        start, end = element(der, start, end, _SEQUENCE)
        if der[start : start + 1] == bytes([_VERSION]):
            _, start = element(der, start, end, _VERSION)
        _, start = element(der, start, end, _INTEGER)
        _, start = element(der, start, end, _SEQUENCE)
        issuer = element(der, start, end, _SEQUENCE)
        validity = element(der, issuer[1], end, _SEQUENCE)
        subject = element(der, validity[1], end, _SEQUENCE)
        not_before, start = _time(der, *validity)
        not_after, _ = _time(der, start, validity[1])
        return cls(_name(der, *subject), _name(der, *issuer), not_before, not_after)

    def days_left(self, now: float) -> int:
        """Whole days until it expires; below 0 once it has.

        Args:
            now: Unix time in seconds.
        """
        return int((self.not_after.timestamp() - now) // _DAY)


def _name(der: bytes, start: int, end: int) -> str:
    """A Name as text; attributes that are not well known are left out."""
    parts = []
    while start < end:
        position, start = element(der, start, end, _SET)
        while position < start:
            pair, position = element(der, position, start, _SEQUENCE)
            kind, kind_end = element(der, pair, position, _OBJECT)
            if der[kind:kind_end] in _ATTRIBUTES:
                value, value_end = element(der, kind_end, position, der[kind_end])
                text = der[value:value_end].decode("utf-8", "replace")
                clean = "".join(char if char.isprintable() else "?" for char in text)
                parts.append(f"{_ATTRIBUTES[der[kind:kind_end]]}={clean}")
    return ", ".join(parts)


def _time(der: bytes, start: int, end: int) -> tuple[datetime, int]:
    """A Time (RFC 5280, section 4.1.2.5), and where it ends."""
    kind = der[start]
    value, value_end = element(
        der, start, end, _UTC_TIME if kind == _UTC_TIME else _GENERALIZED_TIME
    )
    text = der[value:value_end].decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    moment = datetime.strptime(text, "%Y%m%d%H%M%SZ")
    return moment.replace(tzinfo=timezone.utc), value_end
