"""Files of certificates and private keys, in PEM or PKCS #12: read, their mistakes named, and replaced."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates, load_pkcs12

from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
PEM_KEY = b"PRIVATE KEY-----"

# A bundle of all public authorities is some 220 KiB. Anything much longer is another file, given by mistake: a disk image would
# fill the memory.
MAX_FILE = 4 * 1024 * 1024


class File(NamedTuple):
    """A file that was read: its path as it may be shown, what is in it, and its mode (`os.stat_result.st_mode`)."""

    path: str
    data: bytes
    mode: int


def readFile(path: str | os.PathLike[str], what: str) -> File:
    """Read a file of certificates or keys.

    Args:
        path: where it is.
        what: what it is called in errors, such as ``key store``.

    Raises:
        ConfigurationError: it cannot be read, or is too large.
    """
    name = printable(os.fsdecode(path))
    try:
        # Without O_NONBLOCK, a pipe would hold up the reactor until somebody writes to it.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("it is not a regular file")
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigurationError(f"The {what} {name} cannot be read ({why}): check the path and its permissions.") from None
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"The {what} {name} is larger than {MAX_FILE} bytes: it must be another file.")
    return File(name, data, mode)


def replaceFile(path: str | os.PathLike[str], data: bytes) -> None:
    """Put a new file, which only its owner may read, in the place of another: whoever opens it finds the old one or the new one.

    Raises:
        OSError: that is not possible, and the old one stays.
    """
    name = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(name), prefix=f"{os.path.basename(name)}.")  # O_EXCL and 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise


def pemCertificates(file: File, what: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM file that has any.

    Raises:
        ConfigurationError: one of them is damaged.
    """
    try:
        found = tuple(x509.load_pem_x509_certificates(file.data))
        for each in found:
            each.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"The {what} {file.path} has a certificate that is damaged or of an unknown kind: copy it again."
        ) from None
    return found


def pkcs12(file: File, what: str, password: bytes | None, *, isNot: str, give: str) -> PKCS12KeyAndCertificates:
    """Return what is in a PKCS #12 file (RFC 7292).

    Args:
        file: the file.
        what: what it is called in errors.
        password: opens it; None for a file without one.
        isNot: says of a file of another kind what it is not, and what to do.
        give: says how to give a password.

    Raises:
        ConfigurationError: it is of another kind, or has another password.
    """
    try:
        return load_pkcs12(file.data, password)
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            f"The {what} {file.path} is encrypted in a way that OpenSSL no longer reads: export it anew with a current tool."
        ) from None
    except (ValueError, TypeError) as error:  # TypeError: a password that is not UTF-8
        # The words of the library are the only sign by which it tells a wrong password from another kind of file.
        if "deserialize" in str(error):
            raise ConfigurationError(f"The {what} {file.path} is {isNot}.") from None
        mend = "check the password" if password is not None else give
        raise ConfigurationError(f"The {what} {file.path} does not open: {mend}.") from None


def usableKey(key: object, path: str) -> PrivateKey:
    """Return a key that TLS can use.

    Raises:
        ConfigurationError: it is of another kind.
    """
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"The private key in {path} is of a kind that TLS cannot use: make an RSA, ECDSA or EdDSA one.")
    return key
