from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from tunnel.spki import subject_public_key_info

KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def certificate(kind: str, name: str = "a.test") -> bytes:
    key = KEYS[kind]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime(2024, 1, 1, tzinfo=timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
    )
    algorithm = None if kind == "ed25519" else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def public_key(der: bytes) -> bytes:
    """As the package `cryptography` finds it."""
    return (
        x509.load_der_x509_certificate(der)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


VALID = certificate("ec")


@pytest.mark.parametrize("kind", list(KEYS))
@pytest.mark.parametrize("name", ["a", "x" * 60])
def test_the_key_is_found(kind: str, name: str) -> None:
    """The same bytes that `cryptography` finds, for keys and names of all sizes."""
    der = certificate(kind, name)
    assert subject_public_key_info(der) == public_key(der)


def test_the_key_of_an_issued_certificate_is_found() -> None:
    """Also with extensions, and a serial number and names of somebody else's making."""
    for authority in (trustme.CA(), trustme.CA(key_type=trustme.KeyType.RSA)):
        pem = authority.issue_cert("a.test", "127.0.0.1").cert_chain_pems[0].bytes().decode()
        der = ssl.PEM_cert_to_DER_cert(pem)
        assert subject_public_key_info(der) == public_key(der)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content


def test_a_certificate_of_version_1_has_no_version_field() -> None:
    """The version is left out where it is the default (RFC 5280, section 4.1.2.1)."""
    key = der(0x30, b"the key")
    fields = der(2, b"\1") + 4 * der(0x30, b"") + key
    assert subject_public_key_info(der(0x30, der(0x30, fields))) == key


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x30",
        b"no certificate",
        VALID[:-1],
        VALID + b"\0",
        b"\x31" + VALID[1:],
        VALID[:4],
        VALID[:30],
        b"\x30\x80" + VALID[4:] + b"\0\0",  # of indefinite length, which BER allows
        b"\x30\x83\x00" + VALID[2:],  # a leading zero
        der(0x30, b"\x30\x81\x05" + b"x" * 5),  # the long form for a short length
        b"\x30\x85\x01\x00\x00\x00\x00" + VALID,
        der(0x30, der(0x30, der(2, b"\1"))),
        der(0x30, b"\x30\x7f"),
    ],
)
def test_what_is_not_der_is_refused(broken: bytes) -> None:
    """One encoding is right; all others, and all that goes too far, are errors."""
    with pytest.raises(ValueError, match=r"certificate|DER|encloses"):
        subject_public_key_info(broken)


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=5))
def test_a_damaged_certificate_does_no_harm(position: int, garbage: bytes) -> None:
    """Whatever stands there, the result is a part of it or a `ValueError`."""
    damaged = VALID[:position] + garbage + VALID[position + len(garbage) :]
    try:
        found = subject_public_key_info(damaged)
    except ValueError:
        return
    assert found
    assert found in damaged
