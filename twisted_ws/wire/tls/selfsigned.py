"""The self-signed certificate for localhost, for development."""

from __future__ import annotations

import fcntl
import ipaddress
import os
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.certificates import CertifiedKey, loadPEM
from twisted_ws.wire.tls.files import replaceFile

_log = Logger()

_FILE_NAME = "self-signed.pem"
# Browsers refuse a certificate that is valid for more than 398 days.
_LIFE = timedelta(days=397)
_RENEWAL_DAYS = 7
# To a clock that is a little behind ours, the certificate must not be from the future.
_CLOCK_SKEW = timedelta(hours=1)


def loadSelfSigned(directory: str | None, now: datetime) -> CertifiedKey:
    """Return the certificate for localhost, which is made at the first start and kept.

    It is replaced when it expires within 7 days, or when its file is damaged. Processes that start together get the same one.

    Args:
        directory: where it is kept; None: ``$XDG_STATE_HOME/twisted-ws``, else ``~/.local/state/twisted-ws``.
        now: the current time, with its zone.

    Raises:
        ConfigurationError: the directory cannot be created or written to.
    """
    folder = directory if directory is not None else stateDirectory()
    path = os.path.join(folder, _FILE_NAME)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(folder).st_mode & 0o022:
            _log.warn(
                "The state directory {file} can be written by others, and keeps a private key: chmod 700 {file}",
                file=folder,
                event="secret.exposed",
            )
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # The kernel frees it when its holder ends, in whatever way.
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _kept(path, now)
            if found is None:
                replaceFile(path, _selfSigned(now))
                found = loadPEM(path)
        finally:
            os.close(lock)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigurationError(
            f"The state directory {folder} cannot keep a certificate ({why}): make it writable, or give --certificate."
        ) from None
    return replace(found, selfSigned=True)


def stateDirectory() -> str:
    """Return where a server of this user keeps what it makes itself.

    Raises:
        ConfigurationError: there is no home directory.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the XDG base directory specification says to ignore it then
        base = os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        raise ConfigurationError(
            "There is no home directory to keep a self-signed certificate in: set XDG_STATE_HOME, or give --certificate."
        )
    return os.path.join(base, "twisted-ws")


def _kept(path: str, now: datetime) -> CertifiedKey | None:
    try:
        found = loadPEM(path)
    except ConfigurationError:
        return None  # the first start, or a damaged file: nothing else writes it, so it is replaced
    begun = found.certificate.not_valid_before_utc <= now
    return found if begun and found.daysLeft(now) > _RENEWAL_DAYS else None


def _selfSigned(now: datetime) -> bytes:
    """Return the PEM of a new key and its certificate: one file, so that the two can never be of different age."""
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
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
