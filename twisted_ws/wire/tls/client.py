"""TLS on a client's side: whom to trust, whose name must be on the certificate, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocolFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from twisted_ws.client.errors import TLSFailed, UntrustedCertificate, WrongName, quoted
from twisted_ws.client.opening.address import isIP
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable
from twisted_ws.wire.tls.certificates import Identity
from twisted_ws.wire.tls.server import TLSTransport
from twisted_ws.wire.tls.server import openSSLReason as _reason

__all__ = ["ClientTLS", "explain"]

# For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"

# OpenSSL's X509_V_ERR_..., from x509_vfy.h.
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21, 27}


class _ClientTransport(TLSTransport):
    """The TLS of one connection.

    Attributes:
        refusal: why the server's certificate was refused; None while it was not.
    """

    refusal: TLSFailed | None = None


class _Factory(TLSMemoryBIOFactory):
    protocol = _ClientTransport


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """TLS to one server, for any number of connections, one after the other.

    Args:
        host: the name or IP address that must be on the server's certificate.
        trust: the certificates that are trusted; None: the system's authorities.
        identity: the client's certificate; None for none.
        verify: False takes any certificate, and says so in the log.

    Raises:
        ConfigurationError: OpenSSL refuses one of the certificates.
    """

    _log = Logger()

    def __init__(
        self, host: str, trust: Sequence[x509.Certificate] | None = None, identity: Identity | None = None, verify: bool = True
    ) -> None:
        self._host = host.removesuffix(".")
        self._verify = verify
        if not verify:
            self._log.warn(
                "The certificate of {host} is NOT VERIFIED: whoever is on the way can read and change everything.", host=host
            )
        self._context = _context(trust, identity)

    def wrap(self, factory: IProtocolFactory, reactor: Any) -> IProtocolFactory:
        """Return a factory for protocols that speak TLS below those of `factory`."""
        return _Factory(self, True, factory, reactor)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Return the OpenSSL side of one connection (`IOpenSSLClientConnectionCreator`)."""
        connection = SSL.Connection(self._context, None)
        if not isIP(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii"))  # never an address: RFC 6066 section 3
        if not self._verify:
            connection.set_verify(SSL.VERIFY_NONE, None)
            return connection

        def judge(_: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
            # Nothing is raised through OpenSSL: it would go nowhere.
            try:
                refusal = self._judge(certificate, code, depth, bool(ok))
            except Exception as error:
                self._log.failure("a certificate could not be judged")
                refusal = UntrustedCertificate(f"the certificate of {self._host} cannot be read ({type(error).__name__})")
            if refusal is not None and tlsProtocol.refusal is None:
                tlsProtocol.refusal = refusal
            return refusal is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, judge)
        return connection

    def _judge(self, certificate: X509, code: int, depth: int, ok: bool) -> TLSFailed | None:
        """Judge one certificate of the server's chain; the leaf, which has to have the name, comes last."""
        found = certificate.to_cryptography()
        if not ok:
            return UntrustedCertificate(f"the certificate of {self._host} is not trusted: {_why(found, code)}")
        if depth:
            return None
        wanted = IPAddress_ID(self._host) if isIP(self._host) else DNS_ID(self._host)
        try:
            verify_service_identity(extract_patterns(found), [wanted], [])
        except (VerificationError, CertificateError):
            names = ", ".join(_names(found)) or "no name"
            text = f"the server's certificate is not for {quoted(self._host)} but for {printable(names, 200)}"
            return WrongName(f"{text}: connect by a name that is on it, or have one issued for this name")
        return None


def _context(trust: Sequence[x509.Certificate] | None, identity: Identity | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_alpn_protos([b"http/1.1"])
    if trust is None:
        context.set_default_verify_paths()
    else:
        store = context.get_cert_store()
        assert store is not None  # which a context of OpenSSL always has
        # Whatever is in the store is trusted as it is: also a server's own certificate, or an authority without its root.
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        for each in trust:
            store.add_cert(X509.from_cryptography(each))
    if identity is not None:
        try:
            context.use_certificate(identity.certificate)
            context.use_privatekey(identity.key)
            for each in identity.chain:
                context.add_extra_chain_cert(each)
        except SSL.Error as error:
            raise ConfigurationError(
                f"OpenSSL refuses the client certificate {identity.source} ({_reason(error)}): have a new one issued."
            ) from None
    return context


def explain(transport: Any, where: str, error: SSL.Error) -> TLSFailed:
    """Return the error for a TLS handshake that failed.

    Args:
        transport: from `ClientTLS.wrap`.
        where: host and port.
        error: what OpenSSL says.
    """
    refusal: TLSFailed | None = getattr(transport, "refusal", None)
    if refusal is not None:
        return refusal
    reason = _reason(error)
    if reason in ("wrong version number", "packet length too long", "record layer failure", "http request"):
        return TLSFailed(f"{where} does not speak TLS: check the port, or use ws:// where nothing secret is said")
    if "certificate required" in reason or "bad certificate" in reason or "unknown ca" in reason:
        return TLSFailed(f"{where} wants a client certificate that it trusts ({reason}): give one with clientCertificate")
    if "protocol version" in reason or "unsupported protocol" in reason:
        return TLSFailed(f"{where} speaks only versions of TLS that are broken ({reason}): it has to learn TLS 1.2 or 1.3")
    return TLSFailed(f"no TLS with {where}: {printable(reason or 'broken off')}")


def _why(certificate: x509.Certificate, code: int) -> str:
    subject = printable(certificate.subject.rfc4514_string(), 100)
    if code == _EXPIRED:
        return f"that of {subject} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}; its owner has to renew it"
    if code == _NOT_YET_VALID:
        return f"that of {subject} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}; check this machine's clock"
    if code in _UNKNOWN_ISSUER:
        issuer = printable(certificate.issuer.rfc4514_string(), 100)
        return f"its authority {issuer} is unknown here; if you trust it, give its certificate as trustStore"
    return f"OpenSSL's verification error {code} for {subject}"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
