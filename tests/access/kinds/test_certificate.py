"""Client certificates as identities."""

from __future__ import annotations

import base64
from datetime import timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.crypto import X509
from twisted.internet.ssl import Certificate
from twisted.logger import capturedLogs, formatEvent

from tests.access.kinds.certificates import BEGIN, DAY, Authority, pem
from tests.access.kinds.support import NOW, Host, refused, request, settings
from tests.web.worlds import Client
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.certificate import CertificateAuthenticator
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import HandshakeRefused
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite

AUTHORITY = Authority()
LAMP, _ = AUTHORITY.issue("lamp-7")


def made(directory, **options):
    found = CertificateAuthenticator(settings(directory, **options), lambda: NOW)
    found.start(Host())
    return found


def over(certificate):
    """Return a request over a TLS connection with this certificate."""
    return request(clientCertificate=Certificate(X509.from_cryptography(certificate)))


def passedOn(value, *headers, **options):
    """Return a request that a proxy has passed on, with the certificate in a header."""
    return request(("x-ssl-client-cert", value), *headers, isProxied=True, **options)


def test_connection(tmp_path):
    """The certificate of the connection says who it is, since when and until when; it can be revoked by its fingerprint."""
    found = made(tmp_path).identify(over(LAMP))
    assert (found.user, found.isAmbient) == ("lamp-7", True)
    assert (found.issuedAt, found.expiresAt) == (BEGIN.timestamp(), (BEGIN + 2 * DAY).timestamp())
    claims = found.claims
    assert (claims["subject"], claims["issuer"]) == ("CN=lamp-7", "CN=Our devices")
    assert int(claims["serial"], 16) == LAMP.serial_number
    assert found.tokenId == f"sha256:{claims['fingerprint']}"
    assert made(tmp_path).identify(request()) is None


@pytest.mark.parametrize(
    ("kind", "names", "user"),
    [
        ("email", [x509.DNSName("a.example"), x509.RFC822Name("ann@a.example")], "ann@a.example"),
        ("dns", [x509.DNSName("a.example"), x509.RFC822Name("ann@a.example")], "a.example"),
        ("uri", [x509.UniformResourceIdentifier("spiffe://a.example/ann")], "spiffe://a.example/ann"),
        ("email", [x509.DNSName("a.example")], None),
        ("dns", [x509.DNSName("a.example"), x509.DNSName("b.example")], None),
        ("dns", [], None),
        ("dns", [x509.DNSName("a" * 129)], None),
    ],
)
def test_alternatives(tmp_path, kind, names, user):
    """A name of the SAN may be the user's, if there is just one of its kind."""
    certificate, _ = AUTHORITY.issue("lamp-7", *names)
    authenticator = made(tmp_path, user=kind)
    if user is None:
        assert refused(authenticator, over(certificate)).reason == "invalid"
    else:
        assert authenticator.identify(over(certificate)).user == user


def named(*values):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, value) for value in values])


@pytest.mark.parametrize("user", ["a.b", "*", "~me", "lämp ☃", "u" * 64, "a\x00b", "' OR 1=1"])
def test_users(tmp_path, user):
    """A user may have any name that a certificate can have."""
    assert made(tmp_path).identify(over(AUTHORITY.issue(named(user))[0])).user == user


@pytest.mark.parametrize("subject", [None, named("ann", "bob")])
def test_unclearNames(tmp_path, subject):
    """A certificate without a name, or with several, is refused: its holder might have chosen."""
    assert refused(made(tmp_path), over(AUTHORITY.issue(subject)[0])).reason == "invalid"


DER = LAMP.public_bytes(Encoding.DER)
FORMS = {
    "nginx": quote(pem(LAMP).decode(), safe=""),
    "Apache": pem(LAMP).decode().replace("\n", " "),
    "HAProxy": base64.b64encode(DER).decode(),
    "RFC 9440": f":{base64.b64encode(DER).decode()}:",
}


@pytest.mark.parametrize("form", FORMS)
def test_header(tmp_path, form):
    """A trusted proxy may pass the certificate on, in the form of each."""
    authenticator = made(tmp_path, header="X-SSL-Client-Cert")
    assert authenticator.identify(passedOn(FORMS[form])).user == "lamp-7"


def test_headerOfAStranger(tmp_path):
    """Nobody but a trusted proxy is believed, and the log says once what was ignored."""
    authenticator = made(tmp_path, header="X-SSL-Client-Cert")
    with capturedLogs() as events:
        assert authenticator.identify(request(("x-ssl-client-cert", FORMS["nginx"]), peerAddress="192.0.2.1")) is None
    (event,) = events
    assert "from 192.0.2.1, which is not a trusted proxy" in formatEvent(event)
    # Without the option, no header means anything.
    assert made(tmp_path).identify(passedOn(FORMS["nginx"])) is None


def test_ofTheProxyItself(tmp_path):
    """The certificate with which a proxy connects is not its client's."""
    authenticator = made(tmp_path, header="X-SSL-Client-Cert")
    certificate = Certificate(X509.from_cryptography(LAMP))
    assert authenticator.identify(request(isProxied=True, clientCertificate=certificate)) is None
    assert authenticator.identify(passedOn("", clientCertificate=certificate)) is None
    assert authenticator.identify(request(clientCertificate=certificate)).user == "lamp-7"


BROKEN = ["x", ":", "::", ":!:", "MII", "%", "%00", "-----BEGIN CERTIFICATE-----", "ü", FORMS["HAProxy"][:-8], FORMS["nginx"] * 2]


@pytest.mark.parametrize("value", BROKEN)
def test_malformed(tmp_path, value):
    """A header that is malformed is refused."""
    assert refused(made(tmp_path, header="X-SSL-Client-Cert"), passedOn(value)).reason == "invalid"


def test_twoHeaders(tmp_path):
    """Of two headers, one could be the client's own: both are refused."""
    asked = passedOn(FORMS["nginx"], ("x-ssl-client-cert", FORMS["nginx"]))
    assert refused(made(tmp_path, header="X-SSL-Client-Cert"), asked).reason == "invalid"


def test_verifiedByTheProxy(tmp_path):
    """A proxy that passes on any certificate says whether it has verified it."""
    authenticator = made(tmp_path, header="X-SSL-Client-Cert", verify_header="X-Verify")
    for value in ("SUCCESS", "0"):
        assert authenticator.identify(passedOn(FORMS["nginx"], ("x-verify", value))).user == "lamp-7"
    for headers in ((), (("x-verify", "FAILED:self signed"),), (("x-verify", "NONE"),), (("x-verify", "0"), ("x-verify", "0"))):
        assert refused(authenticator, passedOn(FORMS["nginx"], *headers)).reason == "invalid"
    assert authenticator.identify(passedOn("", ("x-verify", "NONE"))) is None


def test_time(tmp_path):
    """A certificate that is not valid yet is refused; one that has ended ends the connection, as any identity does."""
    authenticator = made(tmp_path, header="X-SSL-Client-Cert")
    early, _ = AUTHORITY.issue("lamp-7", begin=BEGIN + 2 * DAY)
    assert refused(authenticator, over(early)).reason == "invalid"
    late, _ = AUTHORITY.issue("lamp-7", begin=BEGIN - 5 * DAY)
    assert authenticator.identify(over(late)).expiresAt < NOW


def behindProxy(certificate):
    """Return a request whose proxy has verified this certificate."""
    return passedOn(quote(certificate.public_bytes(Encoding.PEM)))


@pytest.mark.parametrize("over", [over, behindProxy], ids=["connection", "proxy"])
def test_revoked(tmp_path, over):
    """A revoked certificate is refused, and so is one of an authority without a list; a reload brings a new list."""
    other, (lost, _) = Authority("Other"), AUTHORITY.issue("lost")
    path = tmp_path / "lists"
    path.write_bytes(AUTHORITY.revoke([lost]))
    authenticator = made(tmp_path, crl_file="lists", header="X-SSL-Client-Cert")
    assert authenticator.identify(over(LAMP)).user == "lamp-7"
    refusal = refused(authenticator, over(lost))
    assert (refusal.reason, refusal.detail) == ("revoked", f"serial number {lost.serial_number:x}")
    stranger, _ = other.issue("lamp-7")
    assert refused(authenticator, over(stranger)).detail == "no revocation list of its issuer"
    path.write_bytes(AUTHORITY.revoke([LAMP]) + other.revoke([]))
    authenticator.reload()
    assert refused(authenticator, over(LAMP)).reason == "revoked"
    assert authenticator.identify(over(stranger)).user == "lamp-7"
    path.write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    with pytest.raises(ConfigurationError, match="is damaged, or of another kind"):
        authenticator.reload()
    assert refused(authenticator, over(LAMP)).reason == "revoked"


def test_listOutOfDate(tmp_path):
    """A list that is out of date still counts, and the log says so."""
    (tmp_path / "lists").write_bytes(AUTHORITY.revoke([LAMP], BEGIN - timedelta(hours=1)))
    with capturedLogs() as events:
        authenticator = made(tmp_path, crl_file="lists")
    assert "is out of date" in formatEvent(events[0])
    assert refused(authenticator, over(LAMP)).reason == "revoked"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "name"}, "cn or email or dns or uri"),
        ({"header": "a b"}, "the name of a header"),
        ({"verify_header": "X-Verify"}, "needs a header"),
        ({"crl_file": "absent"}, "cannot be read"),
        ({"crl_file": "empty"}, "is damaged"),
    ],
)
def test_options(tmp_path, options, message):
    """What is wrong in the configuration is said at the start."""
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigurationError, match=message):
        made(tmp_path, **options)


def test_trustedProxies(tmp_path):
    """On each transport, the proxy is the one that is connected, whatever it says of its client."""
    authenticator = made(tmp_path, header="Client-Cert")
    header = {"Client-Cert": FORMS["RFC 9440"], "X-Forwarded-For": "198.51.100.1"}
    service = ChannelService()
    with serve(
        {"/channels/{channel}": service},
        unixTime=lambda: NOW,
        trustedProxies=["192.0.2.0/24", "127.0.0.1"],
        authenticate=["c"],
        authenticators={"c": authenticator},
        channelRules={"*": {"subscribe": "users"}},
    ) as server:
        client = server.connect("/channels/a", headers=header, address="192.0.2.1")
        assert (client.caller.user, client.caller.request.peerAddress) == ("lamp-7", "198.51.100.1")
        with pytest.raises(HandshakeRefused):
            server.connect("/channels/a", headers=header, address="198.51.100.2")
        factory = server.server.factory(pagesSite(server.server))
        lines = [f"{name}: {value}" for name, value in header.items()]
        assert Client(factory, server.clock).get("/channels/a", *lines).status == 200
        assert Client(factory, server.clock).get("/channels/a").status == 401
