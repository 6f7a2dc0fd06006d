"""Certificates and their private keys: read from files, paired and checked; or made here, for development."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.logs import printable

__all__ = [
    "PASSWORD_VARIABLE",
    "Identity",
    "PrivateKey",
    "loadAuthorities",
    "loadKeyStore",
    "loadPEM",
    "loadSelfSigned",
    "readPassword",
]

_log = Logger()

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

PASSWORD_VARIABLE = "TWISTED_WS_KEY_STORE_PASSWORD"

# A file of certificates is a few KiB; what is longer is another file, given by mistake (a disk image would fill the memory).
_MAX_FILE = 1024 * 1024

_SELF_SIGNED = "self-signed.pem"
# Browsers refuse a certificate that is valid for more than 398 days.
_SELF_SIGNED_LIFE = timedelta(days=397)
_SELF_SIGNED_RENEWAL_DAYS = 7
# A clock that is a little behind ours must not see a certificate of the future.
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server shows of itself.

    Attributes:
        source: the file that it came from.
        certificate: the server's own certificate.
        key: the private key that belongs to it.
        chain: the issuers, nearest first, that are sent along.
        selfSigned: whether it was made here because nothing was configured.
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


class _File(NamedTuple):
    path: str
    data: bytes
    mode: int


def readPassword(path: str | None) -> bytes | None:
    """Return the password of the key store: from the file, else from the environment, else None.

    Args:
        path: a file that holds the password and nothing else; one newline at its end is dropped. None: the environment
            variable `PASSWORD_VARIABLE` is looked at.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if path is None:
        value = os.environ.get(PASSWORD_VARIABLE)
        return None if value is None else os.fsencode(value)
    file = _read(path, "key store password file")
    warnIfExposed(file.path, file.mode)
    return file.data.removesuffix(b"\n").removesuffix(b"\r")


def loadPEM(certificate: str, privateKey: str | None = None, chain: str | None = None) -> Identity:
    """Read a certificate, its key and its chain from PEM files.

    The order inside the files does not matter: the certificate is the one that the key belongs to, and the chain is put
    in order from there.

    Args:
        certificate: a file with the certificate; it may hold the chain and the key too.
        privateKey: a file with the key; None: it is in `certificate`.
        chain: a file with the issuers; None: what `certificate` holds beside the certificate.

    Raises:
        ConfigurationError: a file cannot be read, is no PEM, or does not belong to the others.
    """
    file = _read(certificate, "certificate")
    given = _certificates(file, "certificate")
    if privateKey is None and b"PRIVATE KEY-----" not in file.data:
        raise ConfigurationError(
            f"The certificate {certificate} comes without its private key: name the key's file with --private-key."
        )
    keyFile = file if privateKey is None else _read(privateKey, "private key")
    key = _privateKey(keyFile)
    issuers = [] if chain is None else _certificates(_read(chain, "chain"), "chain")
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
    return Identity(certificate, own, key, ordered)


def loadKeyStore(path: str, password: bytes | None) -> Identity:
    """Read a certificate, its key and its chain from a PKCS #12 file (RFC 7292).

    Certificates in it that are no part of the chain are left out: key stores hold trusted certificates too.

    Args:
        path: the file, ``.p12`` or ``.pfx``.
        password: its password; None for a key store without one.

    Raises:
        ConfigurationError: the file cannot be read, is no PKCS #12, has another password, or lacks a key or certificate.
    """
    file = _read(path, "key store")
    try:
        store = load_pkcs12(file.data, password)
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            f"The key store {path} is encrypted in a way that OpenSSL no longer reads: export it anew with a current tool."
        ) from None
    except (ValueError, TypeError) as error:  # TypeError: a password that is not UTF-8
        # The words of the library are the only sign by which it tells a wrong password from another kind of file.
        if "deserialize" in str(error):
            raise ConfigurationError(
                f"The key store {path} is no PKCS #12 file: convert it (PEM: openssl pkcs12, Java: keytool -importkeystore)."
            ) from None
        mend = "check" if password is not None else f"give it with --key-store-password-file or {PASSWORD_VARIABLE}; check"
        raise ConfigurationError(f"The key store {path} does not open with this password: {mend} the password.") from None
    warnIfExposed(file.path, file.mode)
    if store.key is None or store.cert is None:
        raise ConfigurationError(f"The key store {path} lacks a private key with its certificate: export both into it.")
    own = store.cert.certificate
    ordered, _ = _chain(own, [each.certificate for each in store.additional_certs])
    return Identity(path, own, _usable(store.key, path), ordered)


def loadAuthorities(path: str) -> list[x509.Certificate]:
    """Read the certificates of the authorities that may issue client certificates, from a PEM file.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    return _certificates(_read(path, "client CA"), "client CA")


def loadSelfSigned(directory: str | None, now: datetime) -> Identity:
    """Return the certificate for localhost, which is made at the first start and kept.

    It is made anew when it expires within 7 days, or when its file is damaged. Processes that start together get the
    same one.

    Args:
        directory: where it is kept; None: ``$XDG_STATE_HOME/twisted-ws``, else ``~/.local/state/twisted-ws``.
        now: the present time, with its zone.

    Raises:
        ConfigurationError: the directory cannot be made or written.
    """
    folder = directory if directory is not None else _stateDirectory()
    path = os.path.join(folder, _SELF_SIGNED)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(folder).st_mode & 0o022:
            _log.warn(
                "The state directory {path} can be written by others, and keeps a private key: chmod 700 {path}", path=folder
            )
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Freed by the kernel when its holder ends, in whatever way.
            fcntl.flock(lock, fcntl.LOCK_EX)
            identity = _kept(path, now)
            if identity is None:
                _replace(path, _selfSigned(now))
                identity = loadPEM(path)
        finally:
            os.close(lock)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The state directory {folder} cannot keep a certificate ({_why(error)}): make it writable, or give --certificate."
        ) from None
    return Identity(path, identity.certificate, identity.key, identity.chain, selfSigned=True)


def _read(path: str, what: str) -> _File:
    try:
        # Without O_NONBLOCK, a pipe would hold up the reactor until somebody writes to it.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("it is no regular file")
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The {what} {printable(path)} cannot be read ({_why(error)}): check the path and its permissions."
        ) from None
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"The {what} {path} is larger than {_MAX_FILE} bytes: it must be another file.")
    return _File(path, data, mode)


def _why(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _certificates(file: _File, what: str) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in file.data:
        raise ConfigurationError(
            f"The {what} {file.path} holds no PEM certificate: "
            "it must have a -----BEGIN CERTIFICATE----- (DER is converted by openssl x509 -inform DER)."
        )
    try:
        found = x509.load_pem_x509_certificates(file.data)
        for each in found:
            each.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The {what} {file.path} has a certificate that is damaged or of an unknown kind: copy it anew."
        ) from None
    return found


def _privateKey(file: _File) -> PrivateKey:
    try:
        key = load_pem_private_key(file.data, None)
    except TypeError:
        raise ConfigurationError(
            f"The private key {file.path} is encrypted: decrypt it (openssl pkey -in {file.path} -out new.pem), "
            "or use a PKCS #12 file with --key-store."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The private key {file.path} is no usable PEM key: it must have a -----BEGIN PRIVATE KEY----- and be whole."
        ) from None
    warnIfExposed(file.path, file.mode)
    return _usable(key, file.path)


def _usable(key: object, path: str) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"The private key in {path} is of a kind that TLS cannot use: make an RSA, ECDSA or EdDSA one.")
    return key


def _chain(
    own: x509.Certificate, others: Iterable[x509.Certificate]
) -> tuple[tuple[x509.Certificate, ...], list[x509.Certificate]]:
    """Return the issuers of `own` among `others`, nearest first, and those that are no issuer of it at all."""
    chain = [own]
    rest = [each for each in dict.fromkeys(others) if each != own]
    for link in chain:  # which grows meanwhile; a link may have several issuers: that is a cross-signed chain
        chain += (issuers := [each for each in rest if _issued(link, each)])
        rest = [each for each in rest if each not in issuers]
    return tuple(chain[1:]), rest


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _stateDirectory() -> str:
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # which the XDG base directory specification says to ignore
        base = os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        raise ConfigurationError(
            "There is no home directory to keep a self-signed certificate in: set XDG_STATE_HOME, or give --certificate."
        )
    return os.path.join(base, "twisted-ws")


def _kept(path: str, now: datetime) -> Identity | None:
    try:
        identity = loadPEM(path)
    except ConfigurationError:
        return None  # the first start, or a damaged file: nobody but us writes it, so it is made anew
    begun = identity.certificate.not_valid_before_utc <= now
    return identity if begun and identity.daysLeft(now) > _SELF_SIGNED_RENEWAL_DAYS else None


def _replace(path: str, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f"{_SELF_SIGNED}.")  # O_EXCL and 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _selfSigned(now: datetime) -> bytes:
    """Return the PEM of a new key and its certificate: in one file, so that the two can never be of different age."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    begin = (now - _CLOCK_SKEW).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + _SELF_SIGNED_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
