"""The public key within a certificate: what a pin is about (RFC 7469, section 2.4).

Python hands a peer's certificate over as bytes and does not take it apart. This walks to the one
field that is wanted, by the definition in RFC 5280, section 4.1::

    Certificate    ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    TBSCertificate ::= SEQUENCE { [0] version OPTIONAL, serialNumber INTEGER, signature, issuer,
                                  validity, subject, subjectPublicKeyInfo, ... }

DER has one encoding for each value (X.690, section 10): every other one is refused, as is whatever
goes beyond what encloses it. What is in the field is not looked at; its digest is all that counts.
"""

from __future__ import annotations

_INTEGER, _SEQUENCE, _VERSION = 0x02, 0x30, 0xA0
_FIELDS_BEFORE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)


def subject_public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, both in DER.

    Raises:
        ValueError: It is no certificate in DER.
    """
    start, end = element(certificate, 0, len(certificate), _SEQUENCE)
    if end != len(certificate):
        raise ValueError("bytes follow the certificate")
    start, end = element(certificate, start, end, _SEQUENCE)
    if certificate[start:end][:1] == bytes([_VERSION]):
        _, start = element(certificate, start, end, _VERSION)
    for tag in _FIELDS_BEFORE_KEY:
        _, start = element(certificate, start, end, tag)
    _, key_end = element(certificate, start, end, _SEQUENCE)
    return certificate[start:key_end]


def element(data: bytes, start: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins and ends; all of it is before `end`.

    Raises:
        ValueError: There is no such element, or it is not encoded as DER wants it.
    """
    if end - start < 2 or data[start] != tag:
        raise ValueError("it is not built like a certificate")
    size, content = data[start + 1], start + 2
    if size >= 0x80:
        digits = data[content : content + (size & 0x7F)]
        content += len(digits)
        size = int.from_bytes(digits, "big")
        # The short form where it does, and no leading zeros; 0x80 itself is no form of DER.
        if size < 0x80 or digits[0] == 0 or len(digits) > 4:
            raise ValueError("a length is not encoded as DER wants it")
    if content + size > end:
        raise ValueError("an element goes beyond what encloses it")
    return content, content + size
