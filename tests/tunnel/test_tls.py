from __future__ import annotations

import base64
import hashlib
import pickle
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from loguru import logger

from tunnel.errors import CertificateError, ConfigurationError, TlsError
from tunnel.secrets import Secret
from tunnel.tls import TlsSettings, check_session, chosen_context, default_context

PASSWORD = "s3cr3t"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("client.test")
    pems = {
        "ca": authority.cert_pem.bytes(),
        "certificate": b"".join(pem.bytes() for pem in issued.cert_chain_pems),
        "key": issued.private_key_pem.bytes(),
        "both": issued.private_key_and_cert_chain_pem.bytes(),
        "other_key": authority.issue_cert("other.test").private_key_pem.bytes(),
        "encrypted": serialization.load_pem_private_key(
            issued.private_key_pem.bytes(), None
        ).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        ),
        "nonsense": b"nonsense",
    }
    for name, pem in pems.items():
        (folder / name).write_bytes(pem)
    return {name: folder / name for name in (*pems, "missing")}


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    handler = logger.add(
        lambda message: lines.append(str(message)), level="WARNING", format="{message}"
    )
    yield lines
    logger.remove(handler)
    logger.disable("tunnel")


def pin(digest: bytes = 32 * b"x") -> str:
    return "sha256/" + base64.b64encode(digest).decode()


# The settings


@pytest.mark.fault("renegotiation")
def test_by_default_everything_is_verified() -> None:
    """TLS 1.2 or later, the system's authorities, the name; and it stays as it was verified."""
    for context in (TlsSettings().make_context(), default_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_RENEGOTIATION
    assert default_context() is default_context()


def test_own_authorities_replace_the_systems(files: dict[str, Path]) -> None:
    """Only what is in the file is trusted."""
    for path in (files["ca"], str(files["ca"])):
        (trusted,) = TlsSettings(ca_file=path).make_context().get_ca_certs()
        assert "trustme" in str(trusted["subject"])


def test_verification_is_turned_off_by_name() -> None:
    """And by nothing else."""
    context = TlsSettings(verify=False).make_context()
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "names",
    [
        {"certificate": "both"},
        {"certificate": "certificate", "key": "key"},
        {"certificate": "certificate", "key": "encrypted", "key_password": PASSWORD},
    ],
)
def test_a_client_certificate_is_loaded(names: dict[str, str], files: dict[str, Path]) -> None:
    """With its key in the same file or another, encrypted or not."""
    settings: dict[str, Any] = {name: files.get(value, value) for name, value in names.items()}
    assert TlsSettings(**settings).make_context()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"ca_file": "missing"}, "ca_file .*missing.* cannot be used: No such file"),
        ({"ca_file": "nonsense"}, "ca_file .*nonsense.* cannot be used: "),
        ({"certificate": "missing"}, "certificate or key .* cannot be used: No such file"),
        ({"certificate": "nonsense"}, "cannot be used"),
        ({"certificate": "certificate"}, "cannot be used"),
        ({"certificate": "certificate", "key": "missing"}, "cannot be used: No such file"),
        ({"certificate": "certificate", "key": "other_key"}, "KEY_VALUES_MISMATCH"),
        ({"certificate": "certificate", "key": "encrypted"}, "give its key_password"),
        (
            {"certificate": "certificate", "key": "encrypted", "key_password": "wrong"},
            "cannot be used",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(
    names: dict[str, str], problem: str, files: dict[str, Path]
) -> None:
    """A missing or wrong file is a mistake in the arguments, and nobody asks at the terminal."""
    settings: dict[str, Any] = {name: files.get(value, value) for name, value in names.items()}
    with pytest.raises(ConfigurationError, match=problem) as caught:
        TlsSettings(**settings).make_context()
    assert "wrong" not in caught.value.message


def test_the_keys_password_is_not_shown() -> None:
    """It travels as a `Secret`, whichever way it was given."""
    for password in (PASSWORD, Secret(PASSWORD)):
        settings = TlsSettings(certificate="a.pem", key_password=password)
        assert PASSWORD not in repr(settings)
        assert settings.key_password == Secret(PASSWORD)
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(settings)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ca_file": b"a.pem"}, TypeError),
        ({"certificate": 1}, TypeError),
        ({"key": 1}, TypeError),
        ({"key": "a.pem"}, ConfigurationError),
        ({"key_password": PASSWORD}, ConfigurationError),
        ({"certificate": "a.pem", "key_password": 1}, TypeError),
        ({"verify": 0}, TypeError),
        ({"verify": None}, TypeError),
        ({"pins": pin()}, TypeError),
        ({"pins": 1}, TypeError),
        ({"pins": [1]}, TypeError),
        ({"pins": [32 * "x"]}, ConfigurationError),
        ({"pins": [pin(31 * b"x")]}, ConfigurationError),
        ({"pins": ["sha256/é"]}, ConfigurationError),
        ({"pins": ["sha1/" + pin()[7:]]}, ConfigurationError),
        ({"pins": [pin()[7:]]}, ConfigurationError),
    ],
)
def test_mistakes_in_settings_show_at_once(settings: Any, error: type[Exception]) -> None:
    """Before any file is read."""
    with pytest.raises(error):
        TlsSettings(**settings)


def test_pins_are_kept_as_a_tuple() -> None:
    """Whatever iterable they came in: the settings are immutable and can be compared."""
    assert TlsSettings(pins=iter([pin()])).pins == (pin(),)
    assert TlsSettings(pins=[pin()]) == TlsSettings(pins=(pin(),))
    assert TlsSettings(pins=[pin()]).pin_digests == (32 * b"x",)


# The arguments of `connect`


def test_the_context_is_chosen_from_either_argument(warnings: list[str]) -> None:
    """One of the two, or none for the default; a context that verifies is not worth a word."""
    own = ssl.create_default_context()
    assert chosen_context(None, None, is_secure=True) is None
    assert chosen_context(None, own, is_secure=True) is own
    assert chosen_context(TlsSettings(), None, is_secure=True) is not None
    with pytest.raises(ConfigurationError, match="not both"):
        chosen_context(TlsSettings(), own, is_secure=True)
    with pytest.raises(ConfigurationError, match="use wss"):
        chosen_context(TlsSettings(), None, is_secure=False)
    with pytest.raises(TypeError, match="must be TlsSettings"):
        chosen_context({}, None, is_secure=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="for servers"):
        chosen_context(None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), is_secure=True)
    assert warnings == []


def test_missing_verification_is_warned_of(warnings: list[str]) -> None:
    """Once for each call, whichever way it was turned off; not where there is no TLS."""
    chosen_context(TlsSettings(verify=False), None, is_secure=True)
    assert "not verified" in warnings.pop()
    context = ssl.create_default_context()
    context.check_hostname = False
    chosen_context(None, context, is_secure=True)
    assert "not checked for the name" in warnings.pop()
    context.verify_mode = ssl.CERT_NONE
    chosen_context(None, context, is_secure=True)
    assert "not verified" in warnings.pop()
    chosen_context(None, context, is_secure=False)
    assert warnings == []


# After the handshake


@pytest.fixture(scope="module")
def leaf(authority: trustme.CA) -> bytes:
    pem = authority.issue_cert("server.test").cert_chain_pems[0].bytes().decode()
    return ssl.PEM_cert_to_DER_cert(pem)


def session(version: str | None = "TLSv1.3", certificate: bytes | None = None) -> Any:
    return SimpleNamespace(version=lambda: version, getpeercert=lambda binary_form: certificate)


@pytest.mark.parametrize("version", ["SSLv3", "TLSv1", "TLSv1.1", None])
def test_old_versions_are_refused(version: str | None) -> None:
    """Whatever the context has allowed; trying again is of no use."""
    with pytest.raises(TlsError, match=r"TLS 1\.2 is the least") as caught:
        check_session(session(version))
    assert not caught.value.is_retryable
    check_session(session("TLSv1.2"))
    check_session(session("TLSv1.3"))


def test_the_peers_key_must_be_pinned(leaf: bytes) -> None:
    """One of the pins is enough; else the error says which one would fit."""
    key = x509.load_der_x509_certificate(leaf).public_key()
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    right = hashlib.sha256(der).digest()
    check_session(session(certificate=leaf), (32 * b"x", right))
    with pytest.raises(CertificateError) as caught:
        check_session(session(certificate=leaf), (32 * b"x",))
    assert caught.value.context["pin"] == pin(right)
    assert not caught.value.is_retryable


@pytest.mark.parametrize("certificate", [None, b"", b"nonsense"])
def test_a_certificate_that_cannot_be_read_fits_no_pin(certificate: bytes | None) -> None:
    """In doubt there is no connection."""
    with pytest.raises(CertificateError, match="cannot be read"):
        check_session(session(certificate=certificate), (32 * b"x",))
