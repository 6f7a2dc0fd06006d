"""The files of a client's TLS: the certificates that it trusts, and its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.certificates import CertifiedKey
from twisted_ws.wire.tls.files import PEM_CERTIFICATE, PEM_KEY, File, pemCertificates, pkcs12, readFile, usableKey

_PEM = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Store:
    """A file of certificates with a password: PKCS #12 (``.p12``, ``.pfx``), or PEM with an encrypted key.

    Attributes:
        path: the file.
        password: what opens it.
    """

    path: str | Path
    password: str | bytes | None = field(default=None, repr=False)


# A path alone is a file without a password.
StorePath = str | Path | Store


@dataclass(frozen=True, slots=True)
class _Content:
    path: str
    certificates: tuple[x509.Certificate, ...]
    key: object | None


def loadTrust(store: StorePath) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a trust store: each is trusted as it is, whether an authority's or a server's own.

    Raises:
        ConfigurationError: it cannot be read, or has no certificate; the text names the file and the remedy.
    """
    content = _load(store, "trust store")
    if not content.certificates:
        raise ConfigurationError(f"The trust store {content.path} holds no certificate: import that of the authority into it.")
    return content.certificates


def loadClientKey(store: StorePath) -> CertifiedKey:
    """Return the client's private key with its certificate and chain.

    Raises:
        ConfigurationError: it cannot be read, or lacks one of them; the text names the file and the remedy.
    """
    content = _load(store, "client certificate")
    if content.key is None:
        raise ConfigurationError(f"The client certificate {content.path} comes without its private key: put both into the file.")
    key = usableKey(content.key, content.path)
    public = key.public_key()
    own = next((each for each in content.certificates if each.public_key() == public), None)
    if own is None:
        raise ConfigurationError(
            f"The private key in {content.path} belongs to none of its certificates: put its own into the file."
        )
    return CertifiedKey(content.path, own, key, tuple(each for each in content.certificates if each != own))


def _load(store: StorePath, what: str) -> _Content:
    path, password = (store.path, store.password) if isinstance(store, Store) else (store, None)
    secret = password.encode() if isinstance(password, str) else password
    file = readFile(path, what)
    return _pem(file, secret, what) if _PEM in file.data else _pkcs12(file, secret, what)


def _pem(file: File, password: bytes | None, what: str) -> _Content:
    found = pemCertificates(file, what) if PEM_CERTIFICATE in file.data else ()
    if PEM_KEY not in file.data or what == "trust store":
        return _Content(file.path, found, None)
    try:
        key = load_pem_private_key(file.data, password)
    except TypeError:  # an encrypted key without a password, or a password for one that is not
        mend = "give its password with Store(path, password)" if password is None else "leave out the password"
        raise ConfigurationError(f"The key in {file.path} does not open: {mend}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The {what} {file.path} has a damaged key, or its password is another: check it with openssl."
        ) from None
    return _Content(file.path, found, key)


def _pkcs12(file: File, password: bytes | None, what: str) -> _Content:
    store = pkcs12(
        file,
        what,
        password,
        isNot="neither PEM nor PKCS #12: convert it with openssl",
        give="give its password with Store(path, password)",
    )
    own = () if store.cert is None else (store.cert.certificate,)
    return _Content(file.path, (*own, *(each.certificate for each in store.additional_certs)), store.key)
