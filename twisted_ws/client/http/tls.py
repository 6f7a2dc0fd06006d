"""Why there is no TLS with a server."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from twisted_ws.client.errors import TLSFailed, UntrustedCertificate, WrongName
from twisted_ws.logs import printable
from twisted_ws.wire.tls.client import Refusal
from twisted_ws.wire.tls.contexts import openSSLReason


def explain(transport: Any, where: str, error: SSL.Error) -> TLSFailed:
    """Return the error for a TLS handshake that failed.

    Args:
        transport: from `twisted_ws.wire.tls.client.ClientTLS.wrap`.
        where: host and port.
        error: what OpenSSL says.
    """
    refusal: Refusal | None = getattr(transport, "refusal", None)
    if refusal is not None:
        return (WrongName if refusal.isWrongName else UntrustedCertificate)(refusal.text)
    reason = openSSLReason(error)
    if reason in ("wrong version number", "packet length too long", "record layer failure", "http request"):
        return TLSFailed(f"{where} does not speak TLS: check the port, or use ws:// where nothing secret is said")
    if "certificate required" in reason or "bad certificate" in reason or "unknown ca" in reason:
        return TLSFailed(f"{where} wants a client certificate that it trusts ({reason}): give one with clientCertificate")
    if "protocol version" in reason or "unsupported protocol" in reason:
        return TLSFailed(f"{where} speaks only versions of TLS that are broken ({reason}): it has to learn TLS 1.2 or 1.3")
    return TLSFailed(f"no TLS with {where}: {printable(reason or 'broken off')}")
