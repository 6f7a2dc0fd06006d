"""The keys that verify tokens, in files: secrets, or public keys in PEM."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.tokens.verification import Key
from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.files import PEM_KEY, readFile

# Keys in a file; each is tried, at up to 100 us (ES512: 600 us), for every token that is wrong.
MOST_KEYS = 16
# RFC 7518 section 3.3.
SHORTEST_RSA = 2048
# RFC 7518 section 3.2: a secret has at least as many bytes as the hash.
_HASHES = (("HS256", 32), ("HS384", 48), ("HS512", 64))
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
_RSA = ("RS256", "RS384", "RS512")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class KeyFile:
    """A file of keys.

    Args:
        path: the file.
        read: reads it: `secretKeys` or `publicKeys`.

    Attributes:
        keys: the keys; any of them may have signed a token.

    Raises:
        ConfigurationError: it cannot be used.
    """

    def __init__(self, path: str, read: Callable[[str], Iterable[Key]]) -> None:
        self._path = path
        self._read = read
        self.keys: tuple[Key, ...] = ()
        self.reload()

    def __repr__(self) -> str:
        return f"<KeyFile {self._path}>"

    def reload(self) -> None:
        """Read the file again; if that raises, the old keys stay.

        Raises:
            ConfigurationError: as for the class.
        """
        self.keys = tuple(self._read(self._path))


def secretKeys(path: str) -> Iterable[Key]:
    """Read secrets for HS256, HS384 and HS512, one a line.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    secrets = SecretFile(path).secrets
    if any(each.startswith(b"-----BEGIN") for each in secrets):
        raise ConfigurationError(f"The secret file {path} is a key in PEM: give it as key-file.")
    if len(secrets) > MOST_KEYS:
        raise ConfigurationError(f"The secret file {path} has more than {MOST_KEYS} secrets.")
    return [Key(each, tuple(name for name, least in _HASHES if len(each) >= least)) for each in secrets]


def publicKeys(path: str) -> Iterable[Key]:
    """Read public keys and certificates in PEM.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    file = readFile(path, "key file")
    where = f"The key file {file.path}"
    if PEM_KEY in file.data:
        raise ConfigurationError(f"{where} has a private key, which verifies nothing: export the public one.")
    keys = []
    for number, block in enumerate(_BLOCK.finditer(file.data), 1):
        keys.append(_public(block[0], block[1] == b"CERTIFICATE", f"Key {number} of the key file {file.path}"))
        if number > MOST_KEYS:
            raise ConfigurationError(f"{where} has more than {MOST_KEYS} keys.")
    if not keys:
        raise ConfigurationError(f"{where} has no public key in PEM (-----BEGIN PUBLIC KEY-----).")
    return keys


def _public(pem: bytes, isCertificate: bool, what: str) -> Key:
    try:
        key = x509.load_pem_x509_certificate(pem).public_key() if isCertificate else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{what} is damaged or of an unknown kind: copy it again.") from None
    algorithms = algorithmsOf(key)
    if not algorithms:
        raise ConfigurationError(f"{what} is of a kind that signs no tokens: use RSA, ECDSA or EdDSA.")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SHORTEST_RSA:
        raise ConfigurationError(f"{what} has fewer than {SHORTEST_RSA} bits: make a longer one.")
    return Key(key, algorithms)


def algorithmsOf(key: object) -> tuple[str, ...]:
    """Return the algorithms that a public key verifies if nothing else is said of it; () for none.

    RSA-PSS (PS256) is not among them: a key should be used with one of both (RFC 8017 section 8.1).
    """
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        found = _CURVES.get(key.curve.name)
        return () if found is None else (found,)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA", "Ed25519"
    return ("EdDSA", "Ed448") if isinstance(key, ed448.Ed448PublicKey) else ()
