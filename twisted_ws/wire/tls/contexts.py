"""What the OpenSSL contexts of both ends have in common."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.certificates import CertifiedKey

# For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"


def newContext(method: int, minimum: int = SSL.TLS1_2_VERSION) -> SSL.Context:
    """Return a context for one end (``SSL.TLS_SERVER_METHOD`` or ``SSL.TLS_CLIENT_METHOD``) that refuses older versions."""
    context = SSL.Context(method)
    context.set_min_proto_version(minimum)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    return context


def showKey(context: SSL.Context, key: CertifiedKey, what: str) -> None:
    """Make a context show a certificate, which an error calls `what`.

    Raises:
        ConfigurationError: OpenSSL refuses it.
    """
    try:
        context.use_certificate(key.certificate)
        context.use_privatekey(key.key)
        context.check_privatekey()
        for each in key.chain:
            context.add_extra_chain_cert(each)
    except SSL.Error as error:
        raise ConfigurationError(
            f"OpenSSL refuses the {what} {key.source} ({openSSLReason(error)}): have a new one issued."
        ) from None


def trust(context: SSL.Context, certificates: Iterable[x509.Certificate]) -> None:
    """Make a context trust each of these as it is: an authority without its root, too, and the other end's own certificate."""
    store = context.get_cert_store()
    assert store is not None  # which a context of OpenSSL always has
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for each in certificates:
        store.add_cert(X509.from_cryptography(each))


def openSSLReason(error: BaseException | None) -> str:
    """Return the reason of an error of pyOpenSSL: the last of the three words of its first entry; "" if it has none."""
    entries = error.args[0] if error is not None and error.args else ()
    return str(entries[0][2]) if isinstance(entries, list) and entries else ""
