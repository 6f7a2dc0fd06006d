"""Client certificates as identities: of a TLS connection, or as a trusted proxy passes them on."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.logger import Logger

from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import INVALID, REVOKED, AccessRefused, unauthorized
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import LONGEST_USER, Identity
from twisted_ws.upgrade import UpgradeRequest, isToken
from twisted_ws.wire.tls.files import readFile

_Named = type[x509.RFC822Name] | type[x509.DNSName] | type[x509.UniformResourceIdentifier]
_NAMES: dict[str, _Named] = {
    "email": x509.RFC822Name,
    "dns": x509.DNSName,
    "uri": x509.UniformResourceIdentifier,
}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
# How proxies write that they have verified a certificate: nginx and Apache, HAProxy.
_VERIFIED = ("SUCCESS", "0")


class CertificateAuthenticator:
    """The authenticator ``certificate``: the user is named in a client certificate that somebody has verified.

    That is the TLS of this server (``--client-ca``; a server without a daemon must verify certificates itself), or a trusted
    proxy, which passes the certificate on in a header.

    Options: ``user`` (``cn``, or the first kind of name of the SAN: ``email``, ``dns``, ``uri``), ``header`` (in which trusted
    proxies pass certificates on), ``verify-header`` (which says ``SUCCESS`` or ``0`` then), ``crl-file`` (revocation lists).

    Raises:
        ConfigurationError: an option or the file is wrong.
    """

    _log = Logger()

    findsGuests = False

    def __init__(self, settings: AuthenticatorSettings, unixTime: Callable[[], float] = time.time) -> None:
        options = Options(f"authenticators.{settings.name}", settings.options, settings.directory)
        self._name = settings.name
        self._unixTime = unixTime
        self._user = options.choice("user", ("cn", *_NAMES), "cn")
        self._header: str | None = options.text("header", None)
        self._verify: str | None = options.text("verify-header", None)
        for name, each in (("header", self._header), ("verify-header", self._verify)):
            if each is not None and not isToken(each):
                raise options.wrong(name, "the name of a header")
        crlFile = options.path("crl-file", None)
        options.done()
        if self._verify is not None and self._header is None:
            raise ConfigurationError(f"authenticators.{settings.name}.verify-header needs a header with the certificate.")
        self._revoked = RevocationLists(crlFile, unixTime) if crlFile is not None else None
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<CertificateAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who limits the lines of the log."""
        self._host = host

    def reload(self) -> None:
        """Read the revocation lists anew.

        Raises:
            ConfigurationError: the file cannot be used, and the old lists stay.
        """
        if self._revoked is not None:
            self._revoked.reload()

    def identify(self, request: UpgradeRequest) -> Identity | None:
        """Return whom the client's certificate names; None without one."""
        try:
            certificate = self._certificate(request)
            if certificate is None:
                return None
            identity = self._read(certificate)
            begin = certificate.not_valid_before_utc.timestamp()
        except AccessRefused:
            raise
        except Exception:  # whatever cryptography has for a certificate that is malformed, in any part that it reads late
            raise unauthorized(INVALID, "The certificate cannot be read.") from None
        if begin > self._unixTime():
            raise unauthorized(INVALID, "The certificate is not valid yet.")
        if self._revoked is not None:
            self._revoked.check(certificate)
        return identity

    def _certificate(self, request: UpgradeRequest) -> x509.Certificate | None:
        if self._header is not None and request.isProxied:
            # Only this: a certificate of the connection is the proxy's own.
            values = [each.strip() for each in request.headers.getAll(self._header)]
            if not any(values):
                return None
            if self._verify is not None and request.headers.get(self._verify) not in _VERIFIED:
                raise unauthorized(INVALID, "The proxy did not accept the certificate.")
            (value,) = values
            return _parsed(value)
        if self._header is not None and request.headers.get(self._header):
            self._warn(request)
        certificate = request.clientCertificate
        return None if certificate is None else certificate.original.to_cryptography()

    def _warn(self, request: UpgradeRequest) -> None:
        if self._host is not None and (turn := self._host.mayLog(f"authenticator {self._name}: header of a stranger")):
            self._log.info(
                "the authenticator {by} ignores {header} from {peer}, which is not a trusted proxy (--trusted-proxy)",
                by=self._name,
                header=self._header,
                peer=request.peerAddress or "a local socket",
                event="auth.header_ignored",
                suppressed=turn - 1,
            )

    def _read(self, certificate: x509.Certificate) -> Identity:
        users = _users(certificate, self._user)
        # Of several names, a client could have chosen the one that suits it.
        if len(users) != 1 or not 0 < len(users[0]) <= LONGEST_USER:
            what = "name" if self._user == "cn" else "subject alternative name"
            raise unauthorized(INVALID, f"The certificate must have one {what} of at most {LONGEST_USER} characters.")
        fingerprint = certificate.fingerprint(SHA256()).hex()
        claims = {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "fingerprint": fingerprint,
        }
        return Identity(
            users[0],
            expiresAt=certificate.not_valid_after_utc.timestamp(),
            issuedAt=certificate.not_valid_before_utc.timestamp(),
            tokenId=f"sha256:{fingerprint}",
            isAmbient=True,
            payload=msgspec.json.encode(claims),
        )


class RevocationLists:
    """The certificates that their authorities have revoked (RFC 5280 section 5), from a file with one list, or several as PEM.

    A list that is out of date still counts, and the log says so: an authority that is late must not lock everybody out.

    Args:
        path: the file.
        unixTime: the wall clock.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    _log = Logger()

    def __init__(self, path: str, unixTime: Callable[[], float]) -> None:
        self._path = path
        self._unixTime = unixTime
        self._serials: dict[bytes, frozenset[int]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again; if that raises, the old lists stay.

        Raises:
            ConfigurationError: as for the class.
        """
        file = readFile(self._path, "file of revocation lists")
        found: dict[bytes, frozenset[int]] = {}
        try:
            lists = _lists(file.data)
            for each in lists:
                # Looked up with each certificate, and cryptography reads the whole list for that.
                serials = frozenset(entry.serial_number for entry in each)
                issuer = each.issuer.public_bytes()
                found[issuer] = found.get(issuer, frozenset()) | serials
        except Exception:
            raise ConfigurationError(f"The file of revocation lists {file.path} is damaged, or of another kind.") from None
        now = datetime.fromtimestamp(self._unixTime(), UTC)
        for each in lists:
            if each.next_update_utc is not None and each.next_update_utc < now:
                self._log.warn(
                    "a revocation list in {file} is out of date: fetch it again", file=file.path, event="auth.revocations_old"
                )
        self._serials = found

    def check(self, certificate: x509.Certificate) -> None:
        """Refuse a certificate that is revoked, or whose authority has no list here.

        Raises:
            AccessRefused: it is.
        """
        serials = self._serials.get(certificate.issuer.public_bytes())
        if serials is None:
            raise unauthorized(INVALID, "The certificate cannot be checked.", detail="no revocation list of its issuer")
        if certificate.serial_number in serials:
            raise unauthorized(REVOKED, "The certificate is revoked.", detail=f"serial number {certificate.serial_number:x}")


def _lists(data: bytes) -> list[x509.CertificateRevocationList]:
    if b"-----BEGIN" not in data:
        return [x509.load_der_x509_crl(data)]
    end = b"-----END X509 CRL-----"
    parts = [part + end for part in data.split(end)[:-1]]
    if not parts:
        raise ValueError
    return [x509.load_pem_x509_crl(part) for part in parts]


def _users(certificate: x509.Certificate, kind: str) -> list[str]:
    if kind == "cn":
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [each.value for each in names if isinstance(each.value, str)]
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    found: list[Any] = extension.value.get_values_for_type(_NAMES[kind])
    return [str(each) for each in found]


def _parsed(value: str) -> x509.Certificate:
    """Return a certificate from a header: PEM, percent-encoded or with spaces; DER in base64; or as RFC 9440 has it.

    Raises:
        ValueError: it is none of these.
    """
    raw = unquote_to_bytes(value) if "-----BEGIN" in value or "%" in value else value.encode("ascii")
    pem = _PEM.fullmatch(raw.strip())
    if pem is not None:
        raw = b"".join(pem[1].split())
    elif raw.startswith(b":"):
        if len(raw) < 2 or not raw.endswith(b":"):
            raise ValueError
        raw = raw[1:-1]
    return x509.load_der_x509_certificate(base64.b64decode(raw, validate=True))
