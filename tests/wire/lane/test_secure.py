from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure

from tests.memory import clientFrame
from tests.wire.tls import test_server as test_tls
from tests.wire.tls.test_server import CLIENT, CLIENTS, Client, Watched, client, turn
from twisted_ws import Limits
from twisted_ws.wire import speedups
from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.lane.ports import accelerate
from twisted_ws.wire.lane.secure import SecureLaneServer
from twisted_ws.wire.loop.transports import hasTLS, setProtocol
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.speedups.pure import WANT_READ
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings
from twisted_ws.wire.tls.transport import peerCertificate


class Early(Watched):
    """Writes before there is TLS."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"welcome, ")
        self.transport.write(b"early bird")


class Closing(Watched):
    """Says one thing and closes, before there is TLS."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"bye")
        self.transport.loseConnection()


class OnTheSocket(test_tls.OverLoopback):
    """All that TLS in memory promises, by the transport that does it on the socket; and more."""

    def adopt(self, port: Any) -> None:
        self.group = PollGroup(reactor, Wheel(reactor))
        assert accelerate(port, self.group)

    def buffer(self, transport: Any) -> Any:
        assert isinstance(transport, SecureLaneServer)
        return transport

    def isReading(self, transport: Any) -> bool:
        # Asked of the system: what the peer sends while reading pauses stays with the kernel.
        return bool(self.group.sockets.asked(transport.descriptor) & 1)

    async def test_isSecure(self) -> None:
        """The transport says that it has TLS, which OpenSSL connection that is, and that there is no client certificate."""
        await self.listen()
        await self.connect()
        tls: Any = self.apps[0].transport
        assert ISSLTransport.providedBy(tls)
        assert hasTLS(tls)
        assert isinstance(tls.getHandle(), SSL.Connection)
        assert tls.getPeerCertificate() is None
        assert peerCertificate(tls) is None

    async def test_mutualTLS(self) -> None:
        """A client of the authority comes in and is known; another one is refused, by an SSL.Error."""
        ca = str(Path(self.pem).with_name("ca.pem"))
        CLIENTS.cert_pem.write_to_path(ca)
        self.server = ServerTLS(TLSSettings(certificate=self.pem, clientCA=ca))
        await self.listen()
        here: Client = await self.dial(Client(client(CLIENT)))
        await here.until(lambda: here.ready)
        here.write(b"hello")
        app = self.apps[0]
        await app.until(lambda: app.received)
        found = peerCertificate(app.transport)
        assert found is not None
        assert "CN=alice" in found.original.to_cryptography().subject.rfc4514_string()
        other: Client = await self.dial(Client(client()))
        refused = self.apps[1]
        await refused.until(lambda: refused.lost)
        assert refused.lost is not None
        assert refused.lost.check(SSL.Error)
        await other.until(lambda: other.lost)
        assert "CERTIFICATE_REQUIRED" in str(other.error).upper().replace(" ", "_")

    async def test_writtenBeforeTheHandshake(self) -> None:
        """What is written before the handshake arrives after it, in order."""
        await self.listen(Early)
        here: Client = await self.dial(Client(client()))
        await here.until(lambda: here.received == b"welcome, early bird")

    async def test_closedBeforeTheHandshake(self) -> None:
        """A close before the handshake lets what was written go out, and ends with both close_notify."""
        await self.listen(Closing)
        here: Client = await self.dial(Client(client()))
        await here.until(lambda: here.ended)
        assert here.received == b"bye"
        here.sayGoodbye()
        app = self.apps[0]
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(ConnectionDone)

    async def test_closedWithNothingToSay(self) -> None:
        """A close before the handshake with nothing written ends the connection at once: there is no TLS to end."""

        class Silent(Watched):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        await self.listen(Silent)
        here = await self.dial(Watched())
        await here.until(lambda: here.lost)
        app = self.apps[0]
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(ConnectionAborted)

    async def test_closesCleanly(self) -> None:
        """LoseConnection sends all that was written, then close_notify; the connection ends cleanly when the peer's comes."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        tls: Any = app.transport
        whole = bytes(range(256)) * 20_000
        tls.write(whole)
        tls.loseConnection()
        tls.write(b"too late")
        await here.until(lambda: here.ended)
        assert bytes(here.received) == whole
        assert app.lost is None
        here.write(b"still talking")  # for nobody
        here.sayGoodbye()
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(ConnectionDone)
        assert app.received == b""

    async def test_talksOnAfterTheClose(self) -> None:
        """Of a peer that goes on for ever after our close only so much is read."""
        self.server = ServerTLS(TLSSettings(certificate=self.pem), limits=Limits(lingerBytes=100_000))
        await self.listen()
        here = await self.connect()
        tls: Any = self.apps[0].transport
        tls.loseConnection()
        await here.until(lambda: here.ended)
        here.write(bytes(50_000))
        for _ in range(10):
            await turn()
        assert self.isReading(tls)
        for _ in range(100):
            here.write(bytes(10_000))
            await turn()
        assert not self.isReading(tls)
        assert not self.apps[0].lost

    async def test_noHalfClose(self) -> None:
        """To close the writing half is to close: TLS has no half that a WebSocket peer would go on with."""
        await self.listen()
        here = await self.connect()
        tls: Any = self.apps[0].transport
        tls.write(b"last words")
        tls.loseWriteConnection()
        await here.until(lambda: here.ended)
        assert here.received == b"last words"
        here.sayGoodbye()
        app = self.apps[0]
        await app.until(lambda: app.lost)

    async def test_thePeerEnds(self) -> None:
        """The peer's close_notify is answered and ends the connection cleanly, in each version of TLS."""
        await self.listen()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            here: Client = await self.dial(Client(client(maximum_version=version)))
            await here.until(lambda here=here: here.ready)
            here.sayGoodbye()
            app = self.apps[-1]
            await app.until(lambda app=app: app.lost)
            assert app.lost is not None
            assert app.lost.check(ConnectionDone)

    async def test_truncated(self) -> None:
        """A stream that ends without close_notify is a lost connection, as with Twisted's own TLS."""
        await self.listen()
        here = await self.connect()
        here.transport.loseConnection()
        app = self.apps[0]
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(ConnectionLost)

    async def test_brokenRecord(self) -> None:
        """A record that was changed on its way ends the connection with an SSL.Error."""
        await self.listen()
        here = await self.connect()
        here.transport.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        app = self.apps[0]
        await app.until(lambda: app.lost)
        assert app.lost is not None
        assert app.lost.check(SSL.Error)

    async def test_abortAtAnyTime(self) -> None:
        """Aborting during the handshake, after it, while closing and after the end does not raise, and ends at once."""
        await self.listen()
        raw = await self.dial(Watched())
        while not self.apps:
            await turn()
        first = self.apps[0]
        first.transport.abortConnection()  # type: ignore[union-attr]
        await first.until(lambda: first.lost)
        await raw.until(lambda: raw.lost)
        await self.connect()
        app = self.apps[1]
        tls: Any = app.transport
        tls.loseConnection()
        tls.abortConnection()
        tls.abortConnection()
        await app.until(lambda: app.lost)
        tls.abortConnection()
        tls.loseConnection()
        tls.write(b"late")
        tls.unregisterProducer()

    async def test_largeRecordsInPieces(self) -> None:
        """Messages larger than a record, and records that come byte by byte, arrive whole; nothing waits inside OpenSSL."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        whole = bytes(range(256)) * 1000
        here.write(whole)
        await app.until(lambda: len(app.received) == len(whole))
        assert bytes(app.received) == whole
        app.received.clear()
        here.tls.write(b"drop by drop")
        for byte in here.outgoing.read():
            here.transport.write(bytes([byte]))
            await turn()
        await app.until(lambda: app.received == b"drop by drop")

    async def test_readsFrames(self) -> None:
        """The lane takes frames from a connection with TLS, and gives what is none to the protocol."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        tls: Any = app.transport
        if tls.sender is None:
            return  # pyOpenSSL's methods beside the compiled part: frames come by dataReceived
        came: list[Any] = []
        done: Deferred[None] = Deferred()

        class Receiver(Watched):
            def framesReceived(self, messages: list[Any]) -> None:
                came.extend(messages)

            def dataReceived(self, data: bytes) -> None:
                came.append(("rest", data))
                done.callback(None)

            def connectionLost(self, reason: Failure = test_tls.connectionDone) -> None:
                app.connectionLost(reason)

        receiver = Receiver()
        setProtocol(tls, receiver)
        tls.setLane(came.append, 1000)
        here.write(clientFrame(1, b"a") + clientFrame(2, b"b"))
        while len(came) < 2:
            await turn()
        here.write(clientFrame(9, b"ping"))
        await done
        assert came == ["a", b"b", ("rest", clientFrame(9, b"ping"))]

    async def test_readsAllThatHasCome(self) -> None:
        """One event reads all the records that have come, as without TLS: for the protocol, and for the lane."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        tls: Any = app.transport
        pieces: list[bytes] = []
        take = app.dataReceived

        def noting(data: bytes) -> None:
            pieces.append(data)
            take(data)

        app.dataReceived = noting  # type: ignore[method-assign]
        for _ in range(50):
            here.tls.write(b"a record")
        here.flush()
        await app.until(lambda: len(app.received) == 400)
        assert pieces == [b"a record" * 50]
        if tls.sender is None:
            return  # pyOpenSSL's methods beside the compiled part: the lane is not used
        came: list[Any] = []
        setProtocol(tls, app)
        tls.setLane(came.append, 1000)
        reactor.removeReader(self.group)
        for _ in range(50):
            here.tls.write(clientFrame(1, b"a"))
        here.flush()
        while not select.select([tls.descriptor], [], [], 0)[0]:
            await turn()
        assert self.group.sockets.serve(1, 1.0) == 1
        assert came == ["a"] * 50
        reactor.addReader(self.group)

    async def test_handshakesAtOnce(self) -> None:
        """Between two handshakes the clock is looked at: with some keys each takes milliseconds."""
        await self.listen()
        peers = []
        for _ in range(3):
            peers.append(socket.create_connection(("127.0.0.1", self.port)))
            self.addCleanup(peers[-1].close)
        while len(self.apps) < len(peers):
            await turn()
        reactor.removeReader(self.group)
        for each in peers:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            out = ssl.MemoryBIO()
            with pytest.raises(ssl.SSLWantReadError):
                context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
            each.sendall(out.read())
        for each in self.apps:
            while not select.select([each.transport.descriptor], [], [], 0)[0]:  # type: ignore[union-attr]
                await turn()
        assert self.group.sockets.serve(8, 1.0) == 8  # there may be more
        assert sum([bool(select.select([each], [], [], 0)[0]) for each in peers]) == 1
        assert self.group.sockets.serve(8, 1.0) == 8
        assert sum([bool(select.select([each], [], [], 0)[0]) for each in peers]) == 2
        reactor.addReader(self.group)

    async def test_sendsStraight(self) -> None:
        """A sender of the lane sends by TLS, and what does not fit comes back for the transport to send, in order."""
        await self.listen()
        here = await self.connect()
        tls: Any = self.apps[0].transport
        sender = tls.sender
        if sender is None:
            return  # pyOpenSSL's methods beside the compiled part: frames go by write
        sender.open = True
        here.transport.pauseProducing()
        assert sender.send(0x81, "hi", 1.0) is None
        whole = bytes(1_000_000)
        sent = b"\x81\x02hi"
        while not sender.begun:
            sender.send(0x82, whole, 2.0)
            sent += clientFrame(2, whole, mask=None)
        tls.write(sender.rest())
        tls.write(b"after")
        here.transport.resumeProducing()
        await here.until(lambda: len(here.received) == len(sent) + 5)
        assert bytes(here.received) == sent + b"after"

    async def test_readingThatWantsToWrite(self) -> None:
        """If OpenSSL must write before it can read on, as for a new key, the socket is watched for that."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        real = speedups.tlsReadSome
        wants = [SSL.WantWriteError()]

        def read(*arguments: Any) -> Any:
            if wants:
                raise wants.pop()
            return real(*arguments)

        self.patch(speedups, "tlsReadSome", read)
        here.write(b"hello")
        await app.until(lambda: app.received == b"hello")
        assert not wants

    async def test_writingThatWantsToRead(self) -> None:
        """If OpenSSL must read before it can write on, it writes when the peer has sent something, and writes once."""
        await self.listen()
        here = await self.connect()
        app = self.apps[0]
        tls: Any = app.transport
        real = speedups.tlsWriteSome
        wants = [True, True]

        def write(*arguments: Any) -> Any:
            return WANT_READ if wants and wants.pop() else real(*arguments)

        self.patch(speedups, "tlsWriteSome", write)
        tls.write(b"answer")
        while wants:
            await turn()
        for _ in range(3):
            await turn()
        assert here.received == b""
        here.write(b"question")
        await here.until(lambda: here.received == b"answer")


@pytest.mark.exhaustive
@pytest.mark.parametrize("missing", ["names", "compiled"])
def test_withoutPrivateNames(missing: str) -> None:
    """Where OpenSSL's functions are not found, or nothing was compiled, all the promises hold by pyOpenSSL's own methods."""
    hide = "from cryptography.hazmat.bindings._rust import _openssl; del _openssl.ffi; " if missing == "names" else ""
    script = (
        f"import os; {'' if hide else 'os.environ.update(TWISTED_WS_SPEEDUPS=chr(48)); '}"
        "from OpenSSL import SSL; "
        f"{hide}from twisted_ws.wire import speedups; assert not speedups.tlsCompiled; "
        "import sys, pytest; "
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/wire/lane/test_secure.py', '-k', 'OnTheSocket']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
