"""TLS: what a connection must have before a word is said over it.

The rules: TLS 1.2 at least, whatever a given context would allow; the certificate verified, for the
server's name, unless that was turned off by name, which is logged as a warning once per `connect`;
and if there are pins, one that fits the certificate. What is against the rules is final: trying
again would meet the same server.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from loguru import logger

from tunnel.errors import CertificateError, ConfigurationError, TlsError
from tunnel.secrets import Secret
from tunnel.spki import subject_public_key_info

_ALLOWED_VERSIONS = ("TLSv1.2", "TLSv1.3")
_PIN = "sha256/"


@dataclass(frozen=True)
class TlsSettings:
    """How to speak TLS with the server. Immutable.

    The files are read by `connect`, so a certificate that was renewed since is used from the next
    `connect` on.

    Attributes:
        ca_file: A PEM file of authorities that are trusted in place of the system's; None: those.
        certificate: A PEM file with our own certificate (and its chain), for servers that want one.
        key: A PEM file with its private key; None: it is in the same file.
        key_password: For a key that is encrypted. Shown nowhere.
        verify: False: take any certificate, for any name. Whoever is on the way can then read and
            change everything, unless there are pins.
        pins: Public keys that the server may have, each as ``"sha256/"`` and the digest of its
            SubjectPublicKeyInfo in base64 (RFC 7469, section 2.4), as this prints it::

                openssl x509 -in server.pem -pubkey -noout | openssl pkey -pubin -outform der |
                    openssl dgst -sha256 -binary | base64

            The server's own certificate must have one of them, not one of its authorities'. Pin a
            second key that is not in use yet, for the day on which the first is replaced.

    Raises:
        ConfigurationError: A pin is malformed, or there is a key without a certificate.
        TypeError: Something is of the wrong type.
    """

    ca_file: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    key_password: str | Secret | None = None
    verify: bool = True
    pins: Iterable[str] = ()

    def __post_init__(self) -> None:
        for name in ("ca_file", "certificate", "key"):
            value = getattr(self, name)
            if not isinstance(value, (str, os.PathLike, type(None))):
                raise TypeError(f"{name} must be a path, not {type(value).__name__}")
        if not isinstance(self.verify, bool):
            raise TypeError(f"verify must be True or False, not {self.verify!r}")
        if isinstance(self.pins, (str, bytes)) or not isinstance(self.pins, Iterable):
            raise TypeError("pins must be several strings, such as a list, not one")
        if self.certificate is None and (self.key, self.key_password) != (None, None):
            raise ConfigurationError("a key was given without a certificate")
        if self.key_password is not None:
            object.__setattr__(self, "key_password", Secret(self.key_password))
        object.__setattr__(self, "pins", tuple(self.pins))
        _ = self.pin_digests  # checks them

    @property
    def pin_digests(self) -> tuple[bytes, ...]:
        """The pins as bytes."""
        return tuple(_digest(pin) for pin in self.pins)

    def make_context(self) -> ssl.SSLContext:
        """A context for these settings. Reads the files.

        Raises:
            ConfigurationError: A file is missing or not what it should be, the key does not belong
                to the certificate, or its password is wrong.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise _unusable("ca_file", self.ca_file, error) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # What was checked when the connection began must go for all of it; and TLS 1.3 has no
        # renegotiation any more. A server that asks for it is told no, and may go on.
        context.options |= ssl.OP_NO_RENEGOTIATION
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, self._password)
            except OSError as error:
                raise _unusable("certificate or key", self.certificate, error) from error
        return context

    def _password(self) -> str:
        """Asked for if the key is encrypted; without it OpenSSL would ask at the terminal."""
        if self.key_password is None:
            raise ConfigurationError("the key is encrypted: give its key_password")
        return Secret(self.key_password).reveal()


def chosen_context(
    tls: TlsSettings | None, context: ssl.SSLContext | None, *, is_secure: bool
) -> ssl.SSLContext | None:
    """Which context the arguments of `connect` ask for.

    Warns in the log if they turn verification off.

    Args:
        tls: Settings, or None.
        context: A context of the caller's, or None.
        is_secure: Whether there will be TLS at all.

    Returns:
        The context to use; None: `default_context`.

    Raises:
        ConfigurationError: Both were given, or something in them cannot be used.
        TypeError: `tls` is of the wrong type.
    """
    if tls is not None and not isinstance(tls, TlsSettings):
        raise TypeError(f"tls must be TlsSettings, not {type(tls).__name__}")
    if tls is not None and context is not None:
        raise ConfigurationError("give either tls or ssl_context, not both")
    if tls is not None and not is_secure:
        raise ConfigurationError("tls was given, but the URL's scheme is ws; use wss")
    if tls is not None:
        context = tls.make_context()
    if context is not None and context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError("ssl_context is one for servers; use PROTOCOL_TLS_CLIENT")
    if context is not None and is_secure:
        _warn_unless_verifying(context)
    return context


def check_session(sock: ssl.SSLSocket | ssl.SSLObject, pins: tuple[bytes, ...] = ()) -> None:
    """Look at what a handshake has agreed on, before anything is sent.

    Args:
        sock: After the handshake.
        pins: Digests, one of which the peer's public key must have; none: any will do.

    Raises:
        TlsError: It is older than TLS 1.2. Not retryable.
        CertificateError: The peer's public key is none of the pinned ones. Not retryable.
    """
    version = sock.version()
    if version not in _ALLOWED_VERSIONS:
        raise TlsError(
            f"the server speaks {version}; TLS 1.2 is the least that is accepted",
            is_retryable=False,
            context={"version": version},
        )
    if pins:
        _check_pins(sock.getpeercert(binary_form=True) or b"", pins)


@functools.lru_cache(maxsize=1)
def default_context() -> ssl.SSLContext:
    """One for all tunnels: loading the system's certificates takes some 20 ms."""
    return TlsSettings().make_context()


def _check_pins(certificate: bytes, pins: tuple[bytes, ...]) -> None:
    try:
        key = subject_public_key_info(certificate)
    except ValueError as error:
        raise CertificateError(f"the server's certificate cannot be read: {error}") from error
    digest = hashlib.sha256(key).digest()
    if digest not in pins:
        pin = _PIN + base64.b64encode(digest).decode("ascii")
        raise CertificateError(
            f"the server's public key is none of the pinned ones: it is {pin}",
            suggestion="Pin the server's new key if you know that it was replaced.",
            context={"pin": pin},
        )


def _digest(pin: object) -> bytes:
    if not isinstance(pin, str):
        raise TypeError(f"a pin must be a str, not {type(pin).__name__}")
    try:
        digest = base64.b64decode(pin.removeprefix(_PIN), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if not pin.startswith(_PIN) or len(digest) != hashlib.sha256().digest_size:
        raise ConfigurationError(
            f"the pin {pin[:60]!r} is not valid: it must be {_PIN} and a SHA-256 digest in base64"
        )
    return digest


def _unusable(what: str, path: object, error: OSError) -> ConfigurationError:
    # Of the two names in an OSError neither is there; OpenSSL has a word for what is wrong inside.
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return ConfigurationError(f"the {what} {os.fspath(str(path))!r} cannot be used: {reason}")


def _warn_unless_verifying(context: ssl.SSLContext) -> None:
    if context.verify_mode is ssl.CERT_NONE:
        logger.warning("the server's certificate is not verified: anybody can pretend to be it")
    elif not context.check_hostname:
        logger.warning("the server's certificate is not checked for the name of the server")
