"""What a certificate says about itself."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tunnel.certificate import CertificateFacts

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)


def certificate(not_after: datetime, common_name: str = "example.test") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "left@out.test"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gr\u00fc\u00df & Co"),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "CH")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(not_after)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("year", [2026, 2049, 2050, 2120])
def test_names_and_times_are_read(year: int) -> None:
    """In both forms that a time may have, of which the second begins in 2050."""
    not_after = datetime(year, 6, 7, 8, 9, 10, tzinfo=timezone.utc)
    facts = CertificateFacts.read(certificate(not_after))
    assert facts == CertificateFacts(
        "CN=example.test, O=Gr\u00fc\u00df & Co", "C=CH", NOW - timedelta(days=1), not_after
    )


def test_days_are_counted_down() -> None:
    """Whole ones; below 0 once it has expired."""
    facts = CertificateFacts.read(certificate(NOW + timedelta(days=3)))
    for days, left in ((0.0, 3), (0.5, 2), (2.5, 0), (3.5, -1), (5.0, -2)):
        assert facts.days_left((NOW + timedelta(days=days)).timestamp()) == left


def test_a_name_cannot_control_a_terminal() -> None:
    """What is not printable is shown as a question mark."""
    facts = CertificateFacts.read(certificate(NOW, "a\x1b[2Jb"))
    assert facts.subject.startswith("CN=a?[2Jb")


def test_it_reads_what_trustme_makes() -> None:
    """Whose subject has no common name."""
    pem = trustme.CA().issue_cert("example.test").cert_chain_pems[0].bytes().decode()
    facts = CertificateFacts.read(ssl.PEM_cert_to_DER_cert(pem))
    assert facts.subject.startswith("O=trustme")
    assert facts.not_before < facts.not_after


def test_what_is_no_certificate_is_refused() -> None:
    """Wherever it ends: always as a `ValueError`."""
    der = certificate(NOW)
    for data in (b"", b"nonsense", der[:40], der[:-1]):
        with pytest.raises(ValueError, match=r".+"):
            CertificateFacts.read(data)


def test_damage_is_never_anything_else() -> None:
    """Whichever byte is wrong, the facts are read or a `ValueError` comes."""
    der = certificate(NOW)
    for position in range(len(der)):
        for value in (0x00, 0x80, 0xFF):
            damaged = der[:position] + bytes([value]) + der[position + 1 :]
            try:
                CertificateFacts.read(damaged)
            except ValueError:
                continue
