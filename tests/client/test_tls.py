from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import LogLevel, capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.client.live import Echo, LiveCase, ScriptFactory
from tests.seams import connectionOf
from twisted_ws import WebSocketServer
from twisted_ws.client import (
    ConnectFailed,
    HandshakeTimeout,
    Retry,
    Store,
    TLSFailed,
    UntrustedCertificate,
    WebSocketClient,
    WrongName,
    connect,
)
from twisted_ws.client.http.tls import explain
from twisted_ws.wire.tls.client import ClientTLS

ROOT = trustme.CA()
BETWEEN = ROOT.create_child_ca()
SERVER = BETWEEN.issue_cert("localhost", "127.0.0.1")
ELSEWHERE = ROOT.issue_cert("other.example", "192.0.2.1")
NOW = datetime.now(UTC)
EXPIRED = ROOT.issue_cert("localhost", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=2))
CLIENTS = trustme.CA()
CLIENT = CLIENTS.issue_cert("alice@example.org", common_name="alice")


def pem(leaf: trustme.LeafCert) -> bytes:
    return leaf.private_key_and_cert_chain_pem.bytes()


@implementer(IOpenSSLServerConnectionCreator)
class OldTLS:
    """The TLS of a server that has nothing newer than 1.2."""

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        SERVER.configure_cert(context)
        return SSL.Connection(context, None)


def parse(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


def selfSigned(begin: datetime, names: bool = True) -> bytes:
    """Return key and certificate of a server that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, begin, begin + timedelta(days=30))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate


class TrustTest(LiveCase):
    async def client(self, port: int, host: str = "localhost", **options: Any) -> WebSocketClient:
        return await connect(f"wss://{host}:{port}/ws", **options)

    async def talk(self, port: int, host: str = "localhost", **options: Any) -> None:
        """Have one exchange."""
        async with connect(f"wss://{host}:{port}/ws", **options) as client:
            assert client.isSecure()
            await client.writeTextMessage("Hello!")
            assert await client.readTextMessage() == "Echo: Hello!"

    async def refused(self, kind: type[Exception], port: int, host: str = "localhost", **options: Any) -> str:
        """Fail to connect, and return the message."""
        error = await self.assertFailure(connect(f"wss://{host}:{port}/ws", **options), kind)
        return str(error)

    def bundle(self) -> str:
        return self.save("ca.pem", b"# our authority\n", ROOT.cert_pem.bytes())

    async def test_pem(self) -> None:
        """A server whose authority is in the PEM bundle is accepted, by its name and by its address."""
        port = await self.serve(certificate=self.save("server.pem", pem(SERVER)))
        for host in ("localhost", "127.0.0.1"):
            await self.talk(port, host, trustStore=self.bundle())

    async def test_pkcs12(self) -> None:
        """A trust store may be PKCS #12 with a password, as Java's keytool makes it, too."""
        port = await self.serve(certificate=self.save("server.pem", pem(SERVER)))
        authority = pkcs12.PKCS12Certificate(parse(ROOT.cert_pem.bytes()), b"root")
        lock = BestAvailableEncryption(b"changeit")
        plain = self.save("plain.p12", pkcs12.serialize_key_and_certificates(None, None, None, [authority.certificate], lock))
        java = self.save("java.p12", pkcs12.serialize_java_truststore([authority], lock))
        await self.talk(port, trustStore=Store(plain, "changeit"))
        await self.talk(port, trustStore=Store(java, b"changeit"))

    async def test_partOfTheChain(self) -> None:
        """Everything in the trust store is trusted: an authority without its root, or a server's own certificate."""
        port = await self.serve(certificate=self.save("server.pem", pem(SERVER)))
        await self.talk(port, trustStore=self.save("between.pem", SERVER.cert_chain_pems[1].bytes()))
        own = selfSigned(NOW - timedelta(days=1))
        port = await self.serve(certificate=self.save("own.pem", own))
        await self.talk(port, trustStore=self.save("trust.pem", own))

    async def test_unknownAuthority(self) -> None:
        """A server with an unknown authority is refused, with the way to trust it; no byte of the request reaches it."""
        service = Echo()
        port = await self.serve(service, certificate=self.save("server.pem", pem(SERVER)))
        text = await self.refused(UntrustedCertificate, port)
        assert "give its certificate as trustStore" in text
        text = await self.refused(UntrustedCertificate, port, trustStore=self.save("other.pem", CLIENTS.cert_pem.bytes()))
        assert "unknown here" in text
        assert service.requests == []

    async def test_wrongName(self) -> None:
        """A certificate for another name or address is refused, and the error has the names that are on it."""
        service = Echo()
        port = await self.serve(service, certificate=self.save("server.pem", pem(ELSEWHERE)))
        for host in ("localhost", "127.0.0.1"):
            text = await self.refused(WrongName, port, host, trustStore=self.bundle())
            assert f'not for "{host}" but for other.example, 192.0.2.1' in text
        assert service.requests == []

    async def test_noName(self) -> None:
        """A certificate without any name is refused."""
        own = selfSigned(NOW - timedelta(days=1), names=False)
        port = await self.serve(certificate=self.save("own.pem", own))
        assert "but for no name" in await self.refused(WrongName, port, trustStore=self.save("trust.pem", own))

    async def test_dates(self) -> None:
        """A certificate that has expired, or is not valid yet, is refused, and the error says which."""
        port = await self.serve(certificate=self.save("server.pem", pem(EXPIRED)))
        text = await self.refused(UntrustedCertificate, port, trustStore=self.bundle())
        assert f"expired on {NOW - timedelta(days=2):%Y-%m-%d}" in text
        own = selfSigned(NOW + timedelta(days=3))
        port = await self.serve(certificate=self.save("own.pem", own))
        text = await self.refused(UntrustedCertificate, port, trustStore=self.save("trust.pem", own))
        assert "check this machine's clock" in text

    async def test_unverified(self) -> None:
        """`verify=False` takes any certificate, and the log says so aloud."""
        port = await self.serve(certificate=self.save("server.pem", pem(ELSEWHERE)))
        with capturedLogs() as logs:
            await self.talk(port, verify=False)
        (line,) = [each for each in logs if each["log_namespace"] == "twisted_ws.wire.tls.client.ClientTLS"]
        assert (line["log_level"], line["name"]) == (LogLevel.warn, "localhost")
        assert "NOT VERIFIED" in line["log_format"]

    async def test_clientCertificate(self) -> None:
        """A server that wants a client certificate gets it, from PEM or PKCS #12; without one, the error says so."""
        port = await self.serve(
            certificate=self.save("server.pem", pem(SERVER)), clientCA=self.save("clients.pem", CLIENTS.cert_pem.bytes())
        )
        trust = self.bundle()
        await self.talk(port, trustStore=trust, clientCertificate=self.save("client.pem", pem(CLIENT)))
        store = pkcs12.serialize_key_and_certificates(
            b"alice",
            load_pem_private_key(CLIENT.private_key_pem.bytes(), None),  # type: ignore[arg-type]
            parse(CLIENT.cert_chain_pems[0].bytes()),
            None,
            BestAvailableEncryption(b"secret"),
        )
        await self.talk(port, trustStore=trust, clientCertificate=Store(self.save("client.p12", store), "secret"))
        assert "give one with clientCertificate" in await self.refused(TLSFailed, port, trustStore=trust)
        stranger = self.save("stranger.pem", pem(trustme.CA().issue_cert("eve@example.org")))
        text = await self.refused(TLSFailed, port, trustStore=trust, clientCertificate=stranger)
        assert "that it trusts" in text

    async def test_chainOfTheClient(self) -> None:
        """The issuers of the client's certificate are sent along."""
        leaf = CLIENTS.create_child_ca().issue_cert("bob@example.org")
        port = await self.serve(
            certificate=self.save("server.pem", pem(SERVER)), clientCA=self.save("clients.pem", CLIENTS.cert_pem.bytes())
        )
        await self.talk(port, trustStore=self.bundle(), clientCertificate=self.save("client.pem", pem(leaf)))

    async def test_plainServer(self) -> None:
        """A server without TLS is named as such."""
        answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        port = await self.listen(ScriptFactory(lambda script, data: script.transport.write(answer)))
        assert "does not speak TLS" in await self.refused(TLSFailed, port)

    async def test_mute(self) -> None:
        """A server that stalls in TLS is given up at the handshake's timeout; one that hangs up counts as failed."""
        factory = ScriptFactory()
        port = await self.listen(factory)
        text = await self.refused(HandshakeTimeout, port, handshakeTimeout=1)
        assert "did not answer in 1 second" in text
        await factory.empty()
        factory.act = lambda script, data: script.transport.loseConnection()
        await self.refused(ConnectFailed, port)

    async def test_abruptEnd(self) -> None:
        """A TLS connection that ends abruptly, or by garbage, is lost like any other."""
        for ending in ("abortConnection", "garbage"):
            held: list[Any] = []
            service = Echo()
            service.onOpen = held.append  # type: ignore[attr-defined]
            port = await self.serve(service, certificate=self.save("server.pem", pem(SERVER)))
            client = await self.client(port, trustStore=self.bundle())
            transport = connectionOf(held[0]).transport
            if ending == "garbage":
                transport.transport.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            else:
                transport.abortConnection()
            error = await self.assertFailure(client.readMessage(), Exception)
            assert error.statusCode == 1006
            await client.whenClosed()

    async def test_largeMessages(self) -> None:
        """Megabytes go through TLS in both directions, and writes tell when the kernel has them."""
        port = await self.serve(certificate=self.save("server.pem", pem(SERVER)))
        data = bytes(range(256)) * 4000
        async with connect(f"wss://localhost:{port}/ws", trustStore=self.bundle()) as client:
            for _ in range(3):
                await client.writeBinaryMessage(data)
                assert await client.readBinaryMessage() == data
            assert await client.ping() > 0

    async def test_unreadable(self) -> None:
        """A certificate that cannot even be checked is refused, with a traceback in the log."""
        port = await self.serve(certificate=self.save("server.pem", pem(SERVER)))

        def fail(*arguments: object) -> None:
            raise ValueError("a certificate that no library can read")

        self.patch(ClientTLS, "judge", fail)
        with capturedLogs() as logs:
            assert "cannot be read (ValueError)" in await self.refused(UntrustedCertificate, port, trustStore=self.bundle())
        assert [each for each in logs if each["log_namespace"] == "twisted_ws.wire.tls.client.ClientTLS"]
        self.flushLoggedErrors(ValueError)

    async def test_again(self) -> None:
        """A connection over TLS that is lost is made again over TLS, with the same trust."""
        held: list[Any] = []
        service = Echo()
        service.onOpen = held.append  # type: ignore[attr-defined]
        port = await self.serve(service, certificate=self.save("server.pem", pem(SERVER)))
        retry = Retry(interval=0, maxInterval=0)
        async with connect(f"wss://localhost:{port}/ws", trustStore=self.bundle(), retry=retry) as client:
            for n in range(3):
                await client.writeTextMessage(str(n))
                assert await client.readTextMessage() == f"Echo: {n}"
                connectionOf(held[-1]).transport.abortConnection()
        assert len(held) >= 3

    async def test_oldVersions(self) -> None:
        """TLS 1.2 is used with servers that have nothing newer; older versions are not."""
        server = WebSocketServer()
        server.mount("/ws", Echo())
        self.addCleanup(server.stop, 0.5)
        await self.talk(await self.listen(TLSMemoryBIOFactory(OldTLS(), False, server.factory())), trustStore=self.bundle())


def test_explain():
    """Each way in which TLS fails has a message that says what to do."""
    for reason, hint in (
        ("wrong version number", "does not speak TLS"),
        ("tlsv13 alert certificate required", "clientCertificate"),
        ("tlsv1 alert protocol version", "TLS 1.2"),
        ("unsupported protocol", "TLS 1.2"),
        ("sslv3 alert handshake failure", "no TLS with server:1: sslv3 alert handshake failure"),
    ):
        assert hint in str(explain(None, "server:1", SSL.Error([("SSL routines", "", reason)])))
    assert "broken off" in str(explain(None, "server:1", SSL.Error()))
