"""The files that TLS needs on a client's side: whom to trust, and who we are."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable
from twisted_ws.wire.tls.certificates import Identity
from twisted_ws.wire.tls.certificates import PrivateKey as SupportedKey

__all__ = ["Store", "StorePath", "loadIdentity", "loadTrust"]

# A bundle of all public authorities has some 220 KiB; what is longer is another file, given by mistake.
_MAX_FILE = 4 * 1024 * 1024

_PEM = b"-----BEGIN "
_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


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
    """Return the certificates in a trust store: each is trusted as it is, be it an authority's or a server's own.

    Raises:
        ConfigurationError: it cannot be read, or has no certificate; the text names the file and the mend.
    """
    content = _load(store, "trust store")
    if not content.certificates:
        raise ConfigurationError(f"The trust store {content.path} holds no certificate: import that of the authority into it.")
    return content.certificates


def loadIdentity(store: StorePath) -> Identity:
    """Return the client's certificate with its key and chain.

    Raises:
        ConfigurationError: it cannot be read, or lacks one of them; the text names the file and the mend.
    """
    content = _load(store, "client certificate")
    if content.key is None:
        raise ConfigurationError(f"The client certificate {content.path} comes without its private key: put both into the file.")
    if not isinstance(content.key, SupportedKey):
        raise ConfigurationError(f"The key in {content.path} is of a kind that TLS cannot use: make an RSA, ECDSA or EdDSA one.")
    public = content.key.public_key()
    own = next((each for each in content.certificates if each.public_key() == public), None)
    if own is None:
        raise ConfigurationError(
            f"The private key in {content.path} belongs to none of its certificates: put its own into the file."
        )
    return Identity(content.path, own, content.key, tuple(each for each in content.certificates if each != own))


def _load(store: StorePath, what: str) -> _Content:
    path, password = (store.path, store.password) if isinstance(store, Store) else (store, None)
    name = printable(os.fsdecode(path))
    secret = password.encode() if isinstance(password, str) else password
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigurationError(f"The {what} {name} cannot be read ({why}): check the path and its permissions.") from None
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"The {what} {name} is larger than {_MAX_FILE} bytes: it must be another file.")
    return _pem(name, data, secret, what) if _PEM in data else _pkcs12(name, data, secret, what)


def _pem(name: str, data: bytes, password: bytes | None, what: str) -> _Content:
    try:
        found = tuple(x509.load_pem_x509_certificates(data)) if _PEM_CERTIFICATE in data else ()
        for each in found:
            each.public_key()
        # TypeError: an encrypted key without a password, or a password for one that is not.
        key = load_pem_private_key(data, password) if b"PRIVATE KEY-----" in data and what != "trust store" else None
    except TypeError:
        mend = "give its password with Store(path, password)" if password is None else "leave out the password"
        raise ConfigurationError(f"The key in {name} does not open: {mend}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"The {what} {name} is damaged, or its password is another: check it with openssl.") from None
    return _Content(name, found, key)


def _pkcs12(name: str, data: bytes, password: bytes | None, what: str) -> _Content:
    try:
        store = load_pkcs12(data, password)
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            f"The {what} {name} is encrypted in a way that OpenSSL no longer reads: export it anew with a current tool."
        ) from None
    except (ValueError, TypeError) as error:  # TypeError: a password that is not UTF-8
        # The words of the library are the only sign by which it tells a wrong password from another kind of file.
        if "deserialize" in str(error):
            raise ConfigurationError(f"The {what} {name} is neither PEM nor PKCS #12: convert it with openssl.") from None
        mend = "check the password" if password is not None else "give its password with Store(path, password)"
        raise ConfigurationError(f"The {what} {name} does not open: {mend}.") from None
    own = () if store.cert is None else (store.cert.certificate,)
    return _Content(name, (*own, *(each.certificate for each in store.additional_certs)), store.key)
