"""Private keys with their certificates, as a server shows them: read from files, paired and put in order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.logs import printable
from twisted_ws.wire.tls.files import PEM_CERTIFICATE, PEM_KEY, File, PrivateKey, pemCertificates, pkcs12, readFile, usableKey

PASSWORD_VARIABLE = "TWISTED_WS_KEY_STORE_PASSWORD"


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A private key with its certificate: what one end of a connection shows of itself.

    Attributes:
        source: the file that it came from.
        certificate: the certificate of the key.
        key: the private key.
        chain: the issuers that are sent along; a server's are in order, nearest first.
        selfSigned: whether the server made it because nothing was configured.
    """

    source: str
    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    selfSigned: bool = False

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate as browsers and ``openssl x509 -fingerprint -sha256`` show it."""
        return self.certificate.fingerprint(SHA256()).hex(":").upper()

    def daysLeft(self, now: datetime) -> float:
        """Return the days until the certificate expires; negative when it has expired."""
        return (self.certificate.not_valid_after_utc - now) / timedelta(days=1)


def readPassword(path: str | None) -> bytes | None:
    """Return the password of the key store: from the file, else from the environment, else None.

    Args:
        path: a file that holds only the password; one newline at its end is dropped. None: take the environment variable
            `PASSWORD_VARIABLE`.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if path is None:
        value = os.environ.get(PASSWORD_VARIABLE)
        return None if value is None else os.fsencode(value)
    file = readFile(path, "key store password file")
    warnIfExposed(file.path, file.mode)
    return file.data.removesuffix(b"\n").removesuffix(b"\r")


def loadPEM(certificate: str, privateKey: str | None = None, chain: str | None = None) -> CertifiedKey:
    """Read a certificate, its key and its chain from PEM files.

    The order inside the files does not matter: the certificate is the one that the key belongs to, and the chain is sorted from
    there.

    Args:
        certificate: a file with the certificate; it may hold the chain and the key too.
        privateKey: a file with the key; None: it is in `certificate`.
        chain: a file with the issuers; None: those that `certificate` holds.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or does not belong to the others.
    """
    file = readFile(certificate, "certificate")
    given = _certificates(file, "certificate")
    if privateKey is None and PEM_KEY not in file.data:
        raise ConfigurationError(
            f"The certificate {certificate} comes without its private key: name the key's file with --private-key."
        )
    keyFile = file if privateKey is None else readFile(privateKey, "private key")
    key = _privateKey(keyFile)
    issuers = () if chain is None else _certificates(readFile(chain, "chain"), "chain")
    own = next((each for each in given if each.public_key() == key.public_key()), None)
    if own is None:
        raise ConfigurationError(
            f"The private key {keyFile.path} does not belong to the certificate {certificate}: give the key of that certificate."
        )
    ordered, strangers = _chain(own, [*given, *issuers])
    if strangers:
        where = chain if strangers[0] in issuers else certificate
        raise ConfigurationError(
            f"The chain in {where} does not fit the certificate {certificate}: it was not issued by "
            f'"{printable(strangers[0].subject.rfc4514_string())}"; give the chain that came with the certificate.'
        )
    return CertifiedKey(certificate, own, key, ordered)


def loadKeyStore(path: str, password: bytes | None) -> CertifiedKey:
    """Read a certificate, its key and its chain from a PKCS #12 file (RFC 7292).

    Certificates in it that are not part of the chain are left out: key stores hold trusted certificates too.

    Args:
        path: the file, ``.p12`` or ``.pfx``.
        password: its password; None for a key store without one.

    Raises:
        ConfigurationError: the file cannot be read, is not PKCS #12, has another password, or lacks a key or certificate.
    """
    file = readFile(path, "key store")
    store = pkcs12(
        file,
        "key store",
        password,
        isNot="not a PKCS #12 file: convert it (PEM: openssl pkcs12, Java: keytool -importkeystore)",
        give=f"give its password with --key-store-password-file or {PASSWORD_VARIABLE}",
    )
    warnIfExposed(file.path, file.mode)
    if store.key is None or store.cert is None:
        raise ConfigurationError(f"The key store {path} lacks a private key with its certificate: export both into it.")
    own = store.cert.certificate
    ordered, _ = _chain(own, [each.certificate for each in store.additional_certs])
    return CertifiedKey(path, own, usableKey(store.key, path), ordered)


def loadAuthorities(path: str, what: str = "client CA") -> tuple[x509.Certificate, ...]:
    """Read the certificates of the authorities that may issue those of a peer, from a PEM file.

    Args:
        path: the file.
        what: what it is called in errors.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    return _certificates(readFile(path, what), what)


def _certificates(file: File, what: str) -> tuple[x509.Certificate, ...]:
    if PEM_CERTIFICATE not in file.data:
        raise ConfigurationError(
            f"The {what} {file.path} holds no PEM certificate: "
            "it must have a -----BEGIN CERTIFICATE----- (DER is converted by openssl x509 -inform DER)."
        )
    return pemCertificates(file, what)


def _privateKey(file: File) -> PrivateKey:
    try:
        key = load_pem_private_key(file.data, None)
    except TypeError:
        raise ConfigurationError(
            f"The private key {file.path} is encrypted: decrypt it (openssl pkey -in {file.path} -out new.pem), "
            "or use a PKCS #12 file with --key-store."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The private key {file.path} is not a usable PEM key: it must have a -----BEGIN PRIVATE KEY----- and be complete."
        ) from None
    warnIfExposed(file.path, file.mode)
    return usableKey(key, file.path)


def _chain(
    own: x509.Certificate, others: Iterable[x509.Certificate]
) -> tuple[tuple[x509.Certificate, ...], list[x509.Certificate]]:
    """Return the issuers of `own` among `others`, nearest first, and the certificates that are not."""
    chain = [own]
    rest = [each for each in dict.fromkeys(others) if each != own]
    for link in chain:  # the list grows meanwhile; a link has several issuers if the chain is cross-signed
        chain += (issuers := [each for each in rest if _issued(link, each)])
        rest = [each for each in rest if each not in issuers]
    return tuple(chain[1:]), rest


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
