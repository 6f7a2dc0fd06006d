from __future__ import annotations

import sys
from functools import partial
from typing import Any

import trustme
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.client import others
from tests.client.live import LiveCase
from tests.live.support import until
from tests.ports import freePort
from twisted_ws.client import ConnectionClosed, Retry, WebSocketClient, connect

SOON = Retry(interval=0.05, maxInterval=0.2, factor=1, jitter=0.5)

# Our own server in a process of its own, to be killed.
OURS = """
import sys
from twisted.internet import endpoints, reactor
from twisted_ws import WebSocketServer, WebSocketService

class Echo(WebSocketService):
    def onTextMessage(self, caller, text):
        return f"Echo: {text}"

server = WebSocketServer()
server.mount("/ws", Echo())
listening = endpoints.TCP4ServerEndpoint(reactor, int(sys.argv[1]), interface="127.0.0.1").listen(server.factory())
listening.addCallback(lambda port: print(port.getHost().port, flush=True))
reactor.run()
"""


class OthersTest(LiveCase):
    async def converse(self, port: int) -> None:
        """Say a little of everything that the protocol has, with and without compression."""
        for compression in (False, True):
            client = await connect(
                f"ws://127.0.0.1:{port}/ws", subProtocols=["echo"], compression=compression, maxMessageSize=2**22
            )
            assert client.negotiatedSubProtocol == "echo"
            for text in ("", "grün", "x" * 70_000, "y" * 100):
                await client.writeTextMessage(text)
                assert await client.readTextMessage() == f"Echo: {text}"
            data = bytes(range(256)) * 8000
            written = [client.writeBinaryMessage(data[:size]) for size in (0, 1, 125, 126, 65_535, 65_536, len(data))]
            for size in (0, 1, 125, 126, 65_535, 65_536, len(data)):
                assert await client.readBinaryMessage() == data[:size]
            for each in written:
                await each
            assert await client.ping() > 0
            client.pong(b"unasked")
            if compression:
                client.writeTextMessage("close")
                error = await self.assertFailure(client.readMessage(), ConnectionClosed)
                assert (error.statusCode, error.reason) == (4002, "enough")
                await client.whenClosed()
            else:
                await client.close(3000, "done")
                error = await self.assertFailure(client.readMessage(), ConnectionClosed)
                assert error.statusCode in (3000, 1000)  # some answer every Close with 1000

    async def test_websockets(self) -> None:
        """The server of websockets and our client understand each other."""
        server, port = await deferToThread(others.startWebsockets)
        self.addCleanup(deferToThread, server.shutdown)
        await self.converse(port)

    async def test_aiohttp(self) -> None:
        """The server of aiohttp and our client understand each other."""
        child, port = await deferToThread(others.startAiohttp)
        self.addCleanup(deferToThread, others.stop, child)
        await self.converse(port)

    async def test_nodeWs(self) -> None:
        """The server of npm's ws and our client understand each other."""
        child, port = await deferToThread(others.startNodeWs)
        self.addCleanup(deferToThread, others.stop, child)
        await self.converse(port)

    async def outage(self, client: WebSocketClient, down: Any, up: Any, told: list[Any]) -> None:
        """Make calls while the server goes down and comes up again, and see each answered once, in order."""
        for n in range(5):
            await client.writeTextMessage(str(n))
            assert await client.readTextMessage() == f"Echo: {n}"
        answer = client.readTextMessage()
        await down()
        while client.isOpen():
            await self.turn()
        calls = [client.writeTextMessage(str(n)) for n in range(5, 25)]
        assert not any(each.called for each in calls)
        await up()
        assert await answer == "Echo: 5"
        for n in range(6, 25):
            assert await client.readTextMessage() == f"Echo: {n}"
        assert len(told) == 1
        await client.close()

    def turn(self) -> Deferred[None]:
        """Let the reactor turn."""
        turned: Deferred[None] = Deferred()
        reactor.callLater(0.01, turned.callback, None)  # type: ignore[attr-defined]
        return turned

    async def test_killed(self) -> None:
        """A server that is killed and started again under a retrying client loses no call and no order."""
        command = (sys.executable, "-c", OURS)
        child, port = await deferToThread(others.start, *command, str(freePort()))
        told: list[Any] = []
        client = await connect(f"ws://127.0.0.1:{port}/ws", retry=SOON, onReconnect=told.append)

        async def down() -> None:
            await deferToThread(others.stop, child)

        async def up() -> None:
            again, _ = await deferToThread(others.start, *command, str(port))
            self.addCleanup(deferToThread, others.stop, again)

        await self.outage(client, down, up, told)

    async def test_nginx(self) -> None:
        """Behind nginx as a TLS proxy, the client also retries until both nginx and the server are back."""
        authority = trustme.CA()
        certificate = self.save("nginx.pem", authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
        trust = self.save("ca.pem", authority.cert_pem.bytes())
        behind, port = await self.serve(), freePort()

        def start() -> Any:
            child = others.nginx(self.directory, port, behind, certificate)
            self.addCleanup(deferToThread, lambda: (child.kill(), child.wait()))
            return child

        def kill(child: Any) -> None:
            child.kill()
            child.wait()

        child = start()
        told: list[Any] = []
        # nginx may not listen yet: it is asked until it does.
        client = await connect(f"wss://localhost:{port}/ws", trustStore=trust, retry=SOON, onReconnect=told.append)
        assert client.isSecure()

        async def down() -> None:
            await deferToThread(kill, child)

        async def up() -> None:
            start()

        await self.outage(client, down, up, told)

    async def test_nothingBehind(self) -> None:
        """Nginx's 502 for a missing server is retried, and its 404 is not."""
        certificate = self.save("nginx.pem", trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
        port = freePort()
        child = others.nginx(self.directory, port, freePort(), certificate)
        self.addCleanup(deferToThread, lambda: (child.kill(), child.wait()))
        await deferToThread(until, partial(others.listens, port))
        retry = Retry(interval=0.05, maxInterval=0.05, maxCount=40, statusCodes=frozenset())
        error = await self.assertFailure(connect(f"wss://localhost:{port}/ws", verify=False, retry=retry), Exception)
        assert error.status == 502
        assert b"nginx" in error.body
