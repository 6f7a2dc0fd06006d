from __future__ import annotations

import ssl
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.loop.transports import hasTLS
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings
from twisted_ws.wire.tls.transport import peerCertificate

ROOT = trustme.CA()
BETWEEN = ROOT.create_child_ca()
SERVER = BETWEEN.issue_cert("localhost")
RENEWED = BETWEEN.issue_cert("localhost")
CLIENTS = trustme.CA()
CLIENT = CLIENTS.issue_cert("alice@example.org", common_name="alice")


def save(path: Path, issued: trustme.LeafCert) -> str:
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    return save(tmp_path / "server.pem", SERVER)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    CLIENTS.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return str(tmp_path / "clients.pem")


def client(certificate: trustme.LeafCert | None = None, **settings: Any) -> ssl.SSLContext:
    """Return a context of Python's own ssl module that trusts the root, and nothing between."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ROOT.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


class Watched(Protocol):
    """Lets a test wait for what a connection does."""

    lost: Failure | None = None

    def __init__(self) -> None:
        self.received = bytearray()
        self.waiting: list[tuple[Callable[[], object], Deferred[None]]] = []

    def until(self, condition: Callable[[], object]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.waiting.append((condition, done))
        self.look()
        return done

    def look(self) -> None:
        for each in [each for each in self.waiting if each[0]()]:
            self.waiting.remove(each)
            each[1].callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.look()


class Keys:
    """Writes the records of a client of TLS 1.3 that has sent nothing since its handshake (RFC 8446 sections 5.2, 7.2).

    Args:
        log: the keys of its context (`ssl.SSLContext.keylog_filename`).
        cipher: as `ssl.SSLSocket.cipher` has it.
    """

    def __init__(self, log: Path, cipher: Any) -> None:
        lines = [line.split() for line in log.read_text().splitlines()]
        (self.secret,) = [bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        assert cipher[0].startswith("TLS_AES_")
        self.hash: Any = SHA384() if cipher[0].endswith("384") else SHA256()
        self.size = cipher[2] // 8
        self.number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self.hash, size, info).derive(self.secret)

    def _record(self, kind: int, content: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self._expand(b"iv", 12), "big") ^ self.number
        self.number += 1
        sealed = AESGCM(self._expand(b"key", self.size)).encrypt(nonce.to_bytes(12, "big"), content + bytes([kind]), header)
        return header + sealed

    def data(self, data: bytes) -> bytes:
        """Return a record of the application."""
        return self._record(23, data)

    def update(self) -> bytes:
        """Return a KeyUpdate that asks for none of the other side's, and change the key."""
        record = self._record(22, b"\x18\0\0\x01\0")
        self.secret = self._expand(b"traffic upd", self.hash.digest_size)
        self.number = 0
        return record


class Client(Watched):
    """A TLS client on the ssl module: another OpenSSL, and other code, than the server's."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        super().__init__()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost", session=session)
        self.ready = self.ended = False
        self.error: ssl.SSLError | None = None

    def connectionMade(self) -> None:
        self.step()

    def dataReceived(self, data: bytes) -> None:
        self.incoming.write(data)
        self.step()

    def step(self) -> None:
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            while data := self.tls.read(65536):
                self.received += data
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        self.flush()
        self.look()

    def flush(self) -> None:
        assert self.transport is not None
        if data := self.outgoing.read():
            self.transport.write(data)

    def write(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def sayGoodbye(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    @property
    def serverCertificate(self) -> x509.Certificate:
        der = self.tls.getpeercert(True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


class Pair:
    """A server's protocol and a client's, joined in memory."""

    def __init__(self, server: ServerTLS, other: Client) -> None:
        self.app = Watched()
        self.client = other
        self.near, self.far = StringTransport(), StringTransport()
        self.tls: Any = server.wrap(Factory.forProtocol(lambda: self.app), Clock()).buildProtocol(None)
        self.tls.makeConnection(self.near)
        other.makeConnection(self.far)
        self.pump()

    def pump(self) -> None:
        while (up := self.far.value()) or self.near.value():
            self.far.clear()
            if up and not self.near.disconnecting:
                self.tls.dataReceived(up)
            down = self.near.value()
            self.near.clear()
            if down:
                self.client.dataReceived(down)

    def refused(self) -> bool:
        return self.near.disconnecting and self.client.error is not None and not self.app.received


def shake(server: ServerTLS, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Pair:
    return Pair(server, Client(context, session))


def test_dataPassesBothWaysAtOnce(pem: str) -> None:
    """What is written goes to the TCP transport in the same call, and what arrives reaches the protocol."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem)), client())
    assert pair.client.tls.version() == "TLSv1.3"
    pair.near.clear()
    pair.tls.write(b"down")
    assert pair.near.value()
    pair.client.write(b"up")
    pair.pump()
    assert (bytes(pair.app.received), bytes(pair.client.received)) == (b"up", b"down")


def test_theChainIsSent(pem: str, tmp_path: Path) -> None:
    """A client that trusts only the root verifies the certificate, which needs the authority between."""
    assert shake(ServerTLS(TLSSettings(certificate=pem)), client()).client.ready
    SERVER.cert_chain_pems[0].write_to_path(str(tmp_path / "alone.pem"))
    alone = TLSSettings(certificate=str(tmp_path / "alone.pem"), privateKey=pem)
    error = shake(ServerTLS(alone), client()).client.error
    assert error is not None
    assert "unable to get local issuer" in str(error)


def test_aKeyStoreServes(tmp_path: Path) -> None:
    """A PKCS #12 key store with its password gives certificate, key and chain."""
    own, between = (x509.load_pem_x509_certificate(each.bytes()) for each in SERVER.cert_chain_pems)
    key: Any = load_pem_private_key(SERVER.private_key_pem.bytes(), None)
    store = tmp_path / "s.p12"
    store.write_bytes(pkcs12.serialize_key_and_certificates(b"s", key, own, [between], BestAvailableEncryption(b"secret")))
    store.chmod(0o600)
    settings = TLSSettings(keyStore=str(store), keyStorePassword=b"secret")
    assert shake(ServerTLS(settings), client()).client.serverCertificate == own


@pytest.mark.parametrize(("minimum", "accepted"), [("1.2", True), ("1.3", False)])
def test_theMinimumVersionIsKept(pem: str, minimum: str, accepted: bool) -> None:
    """A client of TLS 1.2 is refused when the minimum is 1.3."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem, minimum=minimum)), client(maximum_version=ssl.TLSVersion.TLSv1_2))
    assert pair.client.ready is accepted
    assert pair.refused() is not accepted


def test_olderVersionsAreRefused(pem: str) -> None:
    """TLS 1.1 is refused by the alert that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = client(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        context.set_ciphers("ALL:@SECLEVEL=0")
    pair = shake(ServerTLS(TLSSettings(certificate=pem)), context)
    assert pair.refused()
    assert "PROTOCOL_VERSION" in str(pair.client.error).upper().replace(" ", "_")


def test_onlyForwardSecrecyWithAuthenticatedEncryption(pem: str) -> None:
    """Every cipher is ECDHE with an AEAD, and a client that has only CBC is refused."""
    server = ServerTLS(TLSSettings(certificate=pem))
    for name in server.serverConnectionForTLS(None).get_cipher_list():
        assert name.startswith(("TLS_", "ECDHE-RSA-", "ECDHE-ECDSA-"))
        assert "GCM" in name or "CHACHA20" in name
    context = client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")
    assert shake(server, context).refused()


def openSSLClient(
    server: ServerTLS, setUp: Callable[[SSL.Context], object] = lambda context: None
) -> tuple[SSL.Connection, SSL.Connection]:
    """Return both sides after the handshake, or after what could be done of it."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    setUp(context)
    here, there = SSL.Connection(context, None), server.serverConnectionForTLS(None)
    here.set_connect_state()
    there.set_accept_state()
    for one, other in [(here, there), (there, here)] * 3:
        try:
            one.do_handshake()
        except SSL.Error:  # more is wanted, or it failed: the tests look at what is known then
            pass
        try:
            other.bio_write(one.bio_read(65536))
        except SSL.WantReadError:
            pass
    return here, there


def test_renegotiationIsRefused(pem: str) -> None:
    """A TLS 1.2 client that asks for another handshake is told no."""
    server = ServerTLS(TLSSettings(certificate=pem))
    here, there = openSSLClient(server, lambda context: context.set_max_proto_version(SSL.TLS1_2_VERSION))
    assert there.get_protocol_version_name() == "TLSv1.2"
    here.renegotiate()
    with pytest.raises(SSL.WantReadError):
        here.do_handshake()
    there.bio_write(here.bio_read(65536))
    with pytest.raises(SSL.WantReadError):
        there.recv(1)
    here.bio_write(there.bio_read(65536))
    with pytest.raises(SSL.Error, match="no renegotiation"):
        here.do_handshake()


def test_theContextKeepsMemoryAndTimeInBounds(pem: str) -> None:
    """Idle connections give their buffers back, no session is kept here, a ticket lasts an hour, and nothing is compressed."""
    context = ServerTLS(TLSSettings(certificate=pem))._context
    assert context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS
    for option in (SSL.OP_NO_COMPRESSION, SSL.OP_NO_RENEGOTIATION):
        assert context.set_options(0) & option
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    assert context.get_timeout() == 3600


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["http/1.1"], "http/1.1"),
        (["h2", "http/1.0", "http/1.1"], "http/1.1"),
        (["http/1.0"], "http/1.0"),
        (["h2"], False),
        (["http/0.9", "ws"], False),
    ],
)
def test_onlyHTTP1IsNegotiated(pem: str, offered: list[str], chosen: str | bool | None) -> None:
    """http/1.1 is chosen if it is offered, else http/1.0; offering only others gets the alert no_application_protocol."""
    context = client()
    if offered:
        context.set_alpn_protocols(offered)
    with capturedLogs() as events:
        pair = shake(ServerTLS(TLSSettings(certificate=pem)), context)
    if chosen is False:
        assert pair.refused()
        assert "no application protocol" in str(pair.client.error)
        assert [e["log_level"].name for e in events] == ["info"]
    else:
        assert pair.client.tls.selected_alpn_protocol() == chosen
        assert pair.tls.negotiatedProtocol == (chosen.encode() if isinstance(chosen, str) else None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mutual", [False, True])
def test_aClientThatComesBackResumesItsSession(pem: str, ca: str, version: ssl.TLSVersion, mutual: bool) -> None:
    """A ticket spares the full handshake, also with mutual TLS, whose certificate is still known; after a reload it does not."""
    server = ServerTLS(TLSSettings(certificate=pem, clientCA=ca if mutual else None))
    context = client(CLIENT if mutual else None, maximum_version=version)
    first = shake(server, context)
    assert not first.client.tls.session_reused
    second = shake(server, context, first.client.tls.session)
    assert second.client.tls.session_reused
    assert (peerCertificate(second.tls) is not None) is mutual
    server.reload()
    third = shake(server, context, second.client.tls.session)
    assert third.client.ready
    assert not third.client.tls.session_reused


def test_mutualTLSAcceptsAClientOfTheAuthority(pem: str, ca: str) -> None:
    """A client whose certificate the authority issued comes in, and its certificate is known."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem, clientCA=ca)), client(CLIENT))
    pair.client.write(b"hello")
    pair.pump()
    assert pair.app.received == b"hello"
    assert hasTLS(pair.tls)
    found = peerCertificate(pair.tls)
    assert found is not None
    assert "CN=alice" in found.original.to_cryptography().subject.rfc4514_string()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificate", [None, trustme.CA().issue_cert("alice@example.org"), SERVER])
def test_mutualTLSRefusesEverybodyElse(pem: str, ca: str, version: ssl.TLSVersion, certificate: trustme.LeafCert | None) -> None:
    """No certificate, or one of another authority: the handshake fails and nothing reaches the protocol."""
    server = ServerTLS(TLSSettings(certificate=pem, clientCA=ca))
    with capturedLogs() as events:
        pair = shake(server, client(certificate, maximum_version=version))
        if pair.client.error is None:
            pair.client.write(b"hello")
            pair.pump()
        pair.tls.connectionLost(Failure(ConnectionAborted()))
    assert pair.refused()
    assert pair.app.lost is not None
    assert pair.app.lost.check(SSL.Error)
    assert not events


def test_mutualTLSRefusesACertificateThatHasExpired(pem: str, ca: str) -> None:
    """An expired client certificate is refused."""
    expired = CLIENTS.issue_cert("bob@example.org", not_before=datetime(2020, 1, 1), not_after=datetime(2021, 1, 1))
    assert shake(ServerTLS(TLSSettings(certificate=pem, clientCA=ca)), client(expired)).near.disconnecting


def test_mutualTLSNamesItsAuthorities(pem: str, ca: str) -> None:
    """The names of the authorities are sent, so that a browser offers the certificates that fit."""
    here, _ = openSSLClient(ServerTLS(TLSSettings(certificate=pem, clientCA=ca)))
    names = here.get_client_ca_list(as_cryptography=True)
    assert names == [x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes()).subject]


def test_anAuthorityBetweenIsEnoughForMutualTLS(pem: str, tmp_path: Path) -> None:
    """A client CA file may name an intermediate authority without its root; others of that root stay out."""
    BETWEEN.cert_pem.write_to_path(str(tmp_path / "between.pem"))
    server = ServerTLS(TLSSettings(certificate=pem, clientCA=str(tmp_path / "between.pem")))
    assert not shake(server, client(BETWEEN.issue_cert("carol@example.org"))).near.disconnecting
    assert shake(server, client(ROOT.issue_cert("dave@example.org"))).near.disconnecting


def test_aLongListOfAuthoritiesIsSentWhole(pem: str, tmp_path: Path) -> None:
    """A handshake whose flight is longer than 32 KiB goes on (stock Twisted sends 32 KiB of it, and both sides wait)."""
    issued = x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes())
    key: Any = load_pem_private_key(CLIENTS.private_key_pem.bytes(), None)
    with (tmp_path / "many.pem").open("wb") as file:
        file.write(CLIENTS.cert_pem.bytes())
        for number in range(150):
            attributes = [x509.NameAttribute(oid, f"{number:060}") for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)]
            attributes += [x509.NameAttribute(NameOID.LOCALITY_NAME, "x" * 120)]
            builder = x509.CertificateBuilder(
                x509.Name(attributes),
                x509.Name(attributes),
                issued.public_key(),
                number + 1,
                issued.not_valid_before_utc,
                issued.not_valid_after_utc,
            )
            file.write(builder.sign(key, issued.signature_hash_algorithm).public_bytes(Encoding.PEM))
    server = ServerTLS(TLSSettings(certificate=pem, clientCA=str(tmp_path / "many.pem")))
    pair = shake(server, client(CLIENT))
    pair.client.write(b"hello")
    pair.pump()
    assert pair.app.received == b"hello"


# Settings


def test_thePasswordIsNotInTheRepr() -> None:
    """Neither the settings nor the server show the password of the key store."""
    assert "secret" not in repr(TLSSettings(keyStore="x", keyStorePassword=b"secret"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (TLSSettings(certificate="a", keyStore="b"), "--key-store has certificate, key and chain: leave out --certificate"),
        (TLSSettings(privateKey="a", keyStore="b"), "--key-store has certificate, key and chain: leave out"),
        (TLSSettings(chain="a", keyStore="b"), "--key-store has certificate, key and chain: leave out"),
        (TLSSettings(privateKey="a"), "--private-key and --chain belong to a certificate: give --certificate too."),
        (TLSSettings(chain="a"), "--private-key and --chain belong to a certificate: give --certificate too."),
        (TLSSettings(certificate="/nowhere"), "The certificate /nowhere cannot be read"),
        (TLSSettings(keyStore="/nowhere"), "The key store /nowhere cannot be read"),
        (TLSSettings(minimum="1.1"), '--tls-minimum must be 1.2 or 1.3, not "1.1".'),
        (TLSSettings(minimum="1.2\n"), '--tls-minimum must be 1.2 or 1.3, not "1.2\\n".'),
    ],
)
def test_settingsThatContradictEachOtherAreOneLine(settings: TLSSettings, line: str) -> None:
    """What cannot be meant is refused with one line that names the options."""
    with pytest.raises(ConfigurationError) as caught:
        ServerTLS(settings)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_aKeyThatOpenSSLFindsTooWeakIsOneLine(tmp_path: Path) -> None:
    """A certificate that OpenSSL refuses is named, with its reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    weak = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=99)).sign(key, SHA256())
    path = tmp_path / "weak.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + weak.public_bytes(Encoding.PEM))
    path.chmod(0o600)
    with pytest.raises(
        ConfigurationError, match=r"^OpenSSL refuses the certificate .*weak.pem \(ee key too small\): have a new one"
    ):
        ServerTLS(TLSSettings(certificate=str(path)))


def logged(settings: TLSSettings, now: datetime) -> list[tuple[str, str]]:
    with capturedLogs() as events:
        ServerTLS(settings, now=lambda: now)
    return [(e["log_level"].name, e["log_format"].format(**e)) for e in events]


def test_theLogTellsWhichCertificateIsUsed(pem: str) -> None:
    """One line gives path, fingerprint and end."""
    own = x509.load_pem_x509_certificate(SERVER.cert_chain_pems[0].bytes())
    server = ServerTLS(TLSSettings(certificate=pem))
    until = f"{own.not_valid_after_utc:%Y-%m-%d}"
    expected = f"TLS certificate {pem}, SHA-256 {server.fingerprint}, valid until {until}."
    assert logged(TLSSettings(certificate=pem), own.not_valid_after_utc - timedelta(days=14)) == [("info", expected)]


@pytest.mark.parametrize(
    ("days", "line"),
    [
        (14 - 1e-4, "expires in 13 days, on {until}: renew it, then reload."),
        (1.5, "expires in 1 day, on {until}: renew it, then reload."),
        (0.5, "expires in less than a day, on {until}: renew it, then reload."),
        (-1, "HAS EXPIRED on {until}, and clients refuse it: renew it, then reload."),
    ],
)
def test_aCertificateNearItsEndIsWarnedOf(pem: str, days: float, line: str) -> None:
    """Within 14 days of its end, and after it, the server starts and warns; the days can be asked for."""
    end = x509.load_pem_x509_certificate(SERVER.cert_chain_pems[0].bytes()).not_valid_after_utc
    now = end - timedelta(days=days)
    assert logged(TLSSettings(certificate=pem), now)[1:] == [
        ("warn", f"The certificate {pem} " + line.format(until=f"{end:%Y-%m-%d}"))
    ]
    assert ServerTLS(TLSSettings(certificate=pem), now=lambda: now).daysLeft() == pytest.approx(days)


def test_aCertificateOfTheFutureIsWarnedOf(pem: str) -> None:
    """A certificate that is not valid yet is warned of: mostly it is the clock."""
    begin = x509.load_pem_x509_certificate(SERVER.cert_chain_pems[0].bytes()).not_valid_before_utc
    (level, line) = logged(TLSSettings(certificate=pem), begin - timedelta(days=1))[1]
    assert level == "warn"
    assert f"is NOT VALID BEFORE {begin:%Y-%m-%d %H:%M} UTC" in line


def test_aClientAuthorityThatHasExpiredIsWarnedOf(pem: str, tmp_path: Path) -> None:
    """An expired client CA refuses all its clients, so it is said at start."""
    BETWEEN.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    end = x509.load_pem_x509_certificate(BETWEEN.cert_pem.bytes()).not_valid_after_utc
    lines = logged(TLSSettings(certificate=pem, clientCA=str(tmp_path / "ca.pem")), end + timedelta(days=1))
    assert "has expired, and its clients are refused." in lines[-1][1]
    assert len(lines) == 3


def test_withoutACertificateASelfSignedOneServes(tmp_path: Path) -> None:
    """A strict client that trusts the file accepts it for localhost; the log gives its path and fingerprint."""
    settings = TLSSettings(stateDirectory=str(tmp_path))
    with capturedLogs() as events:
        server = ServerTLS(settings)
    assert [e["log_level"].name for e in events] == ["info"]
    assert events[0]["file"] == str(tmp_path / "self-signed.pem")
    assert events[0]["fingerprint"] == server.fingerprint == ServerTLS(settings).fingerprint
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(tmp_path / "self-signed.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    pair = shake(server, context)
    assert pair.client.error is None
    assert pair.client.ready


# Reload


def test_aReloadServesTheNewCertificateAndLogsIt(pem: str) -> None:
    """After the files changed, new handshakes show the new certificate; the log gives its fingerprint."""
    server = ServerTLS(TLSSettings(certificate=pem))
    before = server.fingerprint
    save(Path(pem), RENEWED)
    with capturedLogs() as events:
        server.reload()
    assert events[0]["fingerprint"] == server.fingerprint != before
    assert shake(server, client()).client.serverCertificate == x509.load_pem_x509_certificate(RENEWED.cert_chain_pems[0].bytes())


def test_aReloadMayBringNewSettings(pem: str, ca: str) -> None:
    """New settings are used from the reload on, and by the next one."""
    server = ServerTLS(TLSSettings(certificate=pem))
    mutual = TLSSettings(certificate=pem, clientCA=ca)
    server.reload(mutual)
    server.reload()
    assert server.settings is mutual
    assert shake(server, client()).near.disconnecting


@pytest.mark.parametrize("content", [b"", b"garbage", SERVER.cert_chain_pems[0].bytes() + RENEWED.private_key_pem.bytes()])
def test_aBadReloadKeepsTheOld(pem: str, content: bytes) -> None:
    """A new file that cannot be used is said, and the old certificate goes on."""
    server = ServerTLS(TLSSettings(certificate=pem))
    before, settings = server.fingerprint, server.settings
    Path(pem).write_bytes(content)
    with capturedLogs() as events, pytest.raises(ConfigurationError, match=pem):
        server.reload(TLSSettings(certificate=pem, minimum="1.3"))
    assert (server.fingerprint, server.settings) == (before, settings)
    assert not [e for e in events if "fingerprint" in e]
    assert shake(server, client(maximum_version=ssl.TLSVersion.TLSv1_2)).client.ready


# The transport


@implementer(ITCPTransport)
class TCPTransport(StringTransport):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.calls: list[object] = []
        self.error = error

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.calls.append(enabled)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [None, OSError(22, "Invalid argument")])
def test_smallPacketsAreSentAtOnce(pem: str, error: Exception | None) -> None:
    """TCP_NODELAY is set before the handshake, and a peer that has left already is not an error there."""
    seen: list[object] = []

    class App(Protocol):
        def connectionMade(self) -> None:
            seen.extend(transport.calls)

    transport = TCPTransport(error)
    server = ServerTLS(TLSSettings(certificate=pem))
    protocol: Any = server.wrap(Factory.forProtocol(App), Clock()).buildProtocol(None)
    protocol.makeConnection(transport)
    assert seen == [True]


def test_aFactoryMayRefuseAConnection(pem: str) -> None:
    """None from the wrapped factory is None from the wrapping one: the connection is closed, without a traceback."""

    class Full(Factory):
        def buildProtocol(self, addr: object) -> None:
            return None

    assert ServerTLS(TLSSettings(certificate=pem)).wrap(Full(), Clock()).buildProtocol(None) is None


def test_abortIsSafeAtAnyTime(pem: str) -> None:
    """Aborting before, after and during the end of the connection does not raise (stock: AttributeError after it)."""
    server = ServerTLS(TLSSettings(certificate=pem))
    pair = shake(server, client())
    pair.tls.loseConnection()
    pair.tls.abortConnection()
    pair.tls.abortConnection()
    pair.app.until(lambda: pair.app.lost).addCallback(lambda _: pair.tls.abortConnection())
    pair.tls.connectionLost(Failure(ConnectionAborted()))
    assert pair.app.lost is not None
    pair.tls.abortConnection()
    pair.tls.loseConnection()
    pair.tls.write(b"late")
    pair.tls.unregisterProducer()
    assert peerCertificate(pair.tls) is None


@pytest.mark.parametrize("transport", [StringTransport(), object()])
def test_whatIsNotTLSIsNotSecure(transport: object) -> None:
    """A plain transport is not secure and has no certificate."""
    assert not hasTLS(transport)
    assert peerCertificate(transport) is None


def test_withoutMutualTLSThereIsNoClientCertificate(pem: str) -> None:
    """A client certificate that was not asked for is not known."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem)), client(CLIENT))
    assert hasTLS(pair.tls)
    assert peerCertificate(pair.tls) is None


@implementer(IPushProducer)
class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


@pytest.mark.parametrize("end", ["goodbye", "garbage"])
def test_aProducerIsStoppedWhenThePeerEndsTLS(pem: str, end: str) -> None:
    """After close_notify or a broken record nothing can be sent, so the producer is stopped, once, and taken off."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem)), client())
    producer = Producer()
    pair.tls.registerProducer(producer, True)
    if end == "goodbye":
        pair.client.sayGoodbye()
        pair.pump()
    else:
        pair.tls.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert pair.near.disconnecting
    assert pair.near.producer is None
    pair.tls.connectionLost(connectionDone)
    assert producer.calls == ["stop"]
    pair.tls.unregisterProducer()


def turn() -> Deferred[None]:
    """Fire at the reactor's next turn."""
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    return done


def noise(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the log events of the server: without those of the test's own client factories."""
    return [each for each in events if "OneShotFactory" not in each["log_namespace"]]


def test_aProducerMayBeTakenOffWhenAllIsOver(pem: str) -> None:
    """Unregistering after the end does nothing, also when loseConnection still waited for it (stock: AttributeError)."""
    pair = shake(ServerTLS(TLSSettings(certificate=pem)), client())
    pair.tls.registerProducer(Producer(), True)
    pair.tls.loseConnection()
    pair.tls.connectionLost(connectionDone)
    pair.tls.unregisterProducer()
    assert pair.app.lost is not None


class OverLoopback(TestCase):
    """Real sockets: the reactor's part in it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.pem = save(Path(folder.name) / "server.pem", SERVER)
        self.server = ServerTLS(TLSSettings(certificate=self.pem))
        self.apps: list[Watched] = []
        self.clients: list[Watched] = []

    def adopt(self, port: Any) -> None:
        """Leave a port as it is; see `tests.wire.lane.test_secure`."""

    def buffer(self, transport: Any) -> Any:
        """Return the transport that keeps what the kernel does not take."""
        return transport.transport

    def isReading(self, transport: Any) -> bool:
        """Say whether the reactor reads what comes."""
        return transport.transport in reactor.getReaders()

    async def listen(self, app: Callable[[], Watched] = Watched) -> None:
        def build() -> Watched:
            self.apps.append(app())
            return self.apps[-1]

        factory = self.server.wrap(Factory.forProtocol(build), reactor)
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.adopt(port)
        self.addCleanup(self.end, port)
        self.port = port.getHost().port

    async def end(self, port: Any) -> None:
        await port.stopListening()
        for each in self.clients + self.apps:
            if each.lost is None and each.transport is not None:
                each.transport.abortConnection()
        for each in self.clients + self.apps:
            await each.until(lambda each=each: each.lost)

    async def dial(self, protocol: Watched) -> Any:
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), protocol)
        self.clients.append(protocol)
        return protocol

    async def connect(self) -> Client:
        """Connect, and wait for the other side to be through its handshake too."""
        here: Client = await self.dial(Client(client()))
        await here.until(lambda: here.ready)
        here.write(b"hi")
        app = self.apps[-1]
        await app.until(lambda: app.received)
        app.received.clear()
        return here

    async def test_manyNewKeys(self) -> None:
        """A peer may change its keys now and then; thousands of changes, which OpenSSL would take in one read, break it."""
        await self.listen()
        log = str(Path(self.pem).with_name("keys"))
        here: Client = await self.dial(Client(client(minimum_version=ssl.TLSVersion.TLSv1_3, keylog_filename=log)))
        await here.until(lambda: here.ready)
        app = self.apps[0]
        await app.until(lambda: app.transport)
        keys = Keys(Path(log), here.tls.cipher())
        for number in range(3):
            here.transport.write(keys.update() + keys.update() + keys.data(b"%d" % number))
        await app.until(lambda: app.received == b"012")
        here.transport.write(b"".join([keys.update() for _ in range(1000)]))
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(SSL.Error)
        assert "too many messages of TLS itself" in app.lost.getErrorMessage()

    async def test_theEndBehindData(self) -> None:
        """A close_notify that comes along with data ends the connection, also where reading paused at the data."""
        await self.listen()
        for pauses in (False, True):
            here = await self.connect()
            app = self.apps[-1]
            tls: Any = app.transport
            if pauses:
                take = app.dataReceived

                def pausing(data: bytes, take: Any = take, tls: Any = tls) -> None:
                    tls.pauseProducing()
                    take(data)

                app.dataReceived = pausing  # type: ignore[method-assign]
            here.tls.write(b"last words")
            here.sayGoodbye()
            await app.until(lambda app=app: app.received == b"last words")
            if pauses:
                tls.resumeProducing()
            await app.until(lambda app=app: app.lost)
            assert app.lost is not None
            assert app.lost.check(ConnectionDone)

    async def test_aReloadLeavesOpenConnectionsAlone(self) -> None:
        """The old connection goes on in both directions, while the next client is shown the new certificate."""
        await self.listen()
        old = await self.connect()
        save(Path(self.pem), RENEWED)
        self.server.reload()
        new = await self.connect()
        assert old.serverCertificate != new.serverCertificate
        app = self.apps[0]
        old.write(b"still here")
        await app.until(lambda: app.received == b"still here")
        assert app.transport is not None
        app.transport.write(b"so am I")
        await old.until(lambda: old.received == b"so am I")

    async def test_aProducerFollowsTheTCPBuffer(self) -> None:
        """A producer is paused when more than bufferSize waits in the TCP transport, and resumed when none does."""
        await self.listen()
        here = await self.connect()
        here.transport.pauseProducing()
        tls: Any = self.apps[0].transport
        self.buffer(tls).bufferSize = 1000
        drained: Deferred[None] = Deferred()
        producer = Producer()
        producer.resumeProducing = lambda: drained.callback(None)
        tls.registerProducer(producer, True)
        tls.write(b"x" * 100)
        assert producer.calls == []
        sent = [bytes([number % 251]) * 65536 for number in range(128)]
        for each in sent:
            tls.write(each)
        assert set(producer.calls) == {"pause"}
        here.transport.resumeProducing()
        await drained
        assert len(self.buffer(tls).dataBuffer) + self.buffer(tls)._tempDataLen == 0
        await here.until(lambda: len(here.received) == 100 + 128 * 65536)
        assert bytes(here.received) == b"x" * 100 + b"".join(sent)
        tls.unregisterProducer()

    async def test_readingCanBePaused(self) -> None:
        """The calls of pauseProducing and resumeProducing reach the socket."""
        await self.listen()
        await self.connect()
        tls: Any = self.apps[0].transport
        assert self.isReading(tls)
        tls.pauseProducing()
        assert not self.isReading(tls)
        tls.resumeProducing()
        assert self.isReading(tls)

    async def test_aGoodbyeBehindAFullBufferEndsTheConnection(self) -> None:
        """A peer that ends TLS while our producer is paused is let go once it has read (stock: never)."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        tls: Any = app.transport
        here.transport.pauseProducing()
        producer = Producer()
        tls.registerProducer(producer, True)
        while not producer.calls:  # the kernel takes no more
            tls.write(bytes(1024 * 1024))
            await turn()
        assert set(producer.calls) == {"pause"}
        here.sayGoodbye()
        here.transport.resumeProducing()
        await app.until(lambda: app.lost)
        assert producer.calls[-1] == "stop"

    async def test_aProducerIsStoppedOnceWhenTheConnectionBreaks(self) -> None:
        """A peer that vanishes stops the producer, and does it once."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        producer = Producer()
        assert app.transport is not None
        app.transport.registerProducer(producer, True)
        here.transport.abortConnection()
        await app.until(lambda: app.lost)
        assert producer.calls == ["stop"]

    async def test_aPeerThatSaysNothingIsEndedByAbort(self) -> None:
        """A loseConnection waits for the peer's close_notify; abortConnection ends the wait."""
        await self.listen()
        here = await self.connect()
        here.transport.pauseProducing()
        app = self.apps[0]
        tls: Any = app.transport
        tls.loseConnection()
        for _ in range(3):
            await turn()
        assert app.lost is None
        tls.abortConnection()
        await app.until(lambda: app.lost)
        tls.abortConnection()

    async def test_plainHTTPIsAnsweredAndQuiet(self) -> None:
        """A browser that speaks HTTP to the TLS port is told so, and the log has nothing."""
        await self.listen()
        with capturedLogs() as events:
            here = await self.dial(Watched())
            here.transport.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await here.until(lambda: here.lost)
        assert here.received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        head, _, body = bytes(here.received).partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert b"use https:// or wss://" in body
        assert noise(events) == []
        assert self.apps[0].received == b""

    async def test_garbageIsQuiet(self) -> None:
        """Bytes that are not TLS, complete or cut, end that connection without a log line."""
        await self.listen()
        with capturedLogs() as events:
            for data in (
                b"\x00" * 64,
                b"\x16\x03\x01\x00\x05hello",
                b"\xff" * 20000,
                b"CONNECT x:1 HTTP/1.1\r\n\r\n",
                b"\x16\x03",
            ):
                here = await self.dial(Watched())
                here.transport.write(data)
                if len(data) == 2:  # a record that never comes: the peer leaves
                    here.transport.loseConnection()
                await here.until(lambda here=here: here.lost)
                app = self.apps[-1]
                await app.until(lambda app=app: app.lost)
        assert noise(events) == []
        assert not any(each.received for each in self.apps)
