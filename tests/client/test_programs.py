from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.client.live import Echo, LiveCase
from tests.live import nursery
from tests.traced import traced
from twisted_ws import WebSocketServer
from twisted_ws.client import connect
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

ASYNCIO = """
import asyncio, sys
from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted_ws.client import connect

async def talk(url):
    seen = []
    async with connect(url) as client:
        for n in range(3):
            client.writeTextMessage(str(n))
        async for message in client:
            seen.append(message)
            if len(seen) == 3:
                await client.close()
    return seen

async def main(url):
    client = await connect(url).asFuture(loop)
    try:
        await asyncio.wait_for(client.readTextMessage().asFuture(loop), 0.01)
    except asyncio.TimeoutError:
        print("nothing came")
    await client.writeTextMessage("hello").asFuture(loop)
    print(await client.readTextMessage().asFuture(loop))
    await client.close().asFuture(loop)
    print(await Deferred.fromCoroutine(talk(url)).asFuture(loop))

react(lambda reactor: Deferred.fromFuture(loop.create_task(main(sys.argv[1]))))
"""

WITHOUT_REACTOR = """
import asyncio
from twisted_ws.client import connect

async def main():
    try:
        await connect("ws://127.0.0.1:1/ws").asFuture(asyncio.get_running_loop())
    except RuntimeError as error:
        print(error)

asyncio.run(asyncio.wait_for(main(), 20))
"""

INSTALLED = """
import asyncio
from twisted.internet import asyncioreactor
from twisted_ws.client import connect

async def main():
    asyncioreactor.install(asyncio.get_running_loop())
    opening = connect("ws://127.0.0.1:1/ws")
    print(type(opening).__name__)
    opening.addErrback(lambda failure: None)
    opening.cancel()

asyncio.run(main())
"""


def run(*arguments: str, cwd: Path | None = None) -> str:
    """Run a Python program, and return what it prints."""
    done = nursery.run([sys.executable, *arguments], 60, cwd=cwd, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class ProgramTest(LiveCase):
    async def test_asyncio(self) -> None:
        """An asyncio program uses the client through futures, and coroutines of Twisted's as one future."""
        port = await self.serve()
        output = await deferToThread(run, "-c", ASYNCIO, f"ws://127.0.0.1:{port}/ws")
        assert output.splitlines() == ["nothing came", "Echo: hello", "['Echo: 0', 'Echo: 1', 'Echo: 2']"]

    async def test_asyncioWithoutReactor(self) -> None:
        """Under asyncio.run, where Twisted's reactor does not run, connect says so instead of waiting forever."""
        output = await deferToThread(run, "-c", WITHOUT_REACTOR)
        assert "asyncio runs here, but Twisted's reactor does not" in output

    async def test_asyncioInstalled(self) -> None:
        """If the reactor uses asyncio's loop, connect works although the reactor was not started."""
        assert await deferToThread(run, "-c", INSTALLED) == "Connecting\n"

    async def test_secureEcho(self) -> None:
        """The secure echo: a server with a PKCS #12 key store, and a client with a PKCS #12 trust store."""
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        own, *others = [x509.load_pem_x509_certificate(each.bytes()) for each in leaf.cert_chain_pems]
        key: Any = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        root = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
        lock = BestAvailableEncryption(b"changeit")
        keyStore = self.save("server.p12", pkcs12.serialize_key_and_certificates(b"server", key, own, others, lock))
        self.save("trust.p12", pkcs12.serialize_key_and_certificates(None, None, None, [root], lock))
        self.save("password", b"changeit\n")
        specification = importlib.util.spec_from_file_location("secure_echo_server", EXAMPLES / "secure_echo_server.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        server = WebSocketServer()
        server.mount("/echo", module.SecureEcho())
        self.addCleanup(server.stop, 0.5)
        tls = ServerTLS(TLSSettings(keyStore=keyStore, keyStorePassword=b"changeit"))
        port = await self.listen(tls.wrap(server.factory(), reactor))
        client = (EXAMPLES / "secure_echo_client.py").read_text().replace("8443", str(port))
        assert await deferToThread(run, "-c", client, cwd=self.directory) == "Response: Echo: Hello!\n"

    async def test_flood(self) -> None:
        """A server that sends faster than the client reads fills no memory, and no message is lost."""
        service = Echo()
        callers: list[Any] = []
        service.onOpen = callers.append  # type: ignore[attr-defined]
        client = await connect(f"ws://127.0.0.1:{await self.serve(service)}/ws", readBuffer=200_000)
        (caller,) = callers
        stuck = 0  # turns of the reactor in which the server could write nothing

        async def flood() -> None:
            for n in range(1000):
                await caller.writeBinaryMessage(n.to_bytes(4, "big") * 5000)

        with traced() as held:
            flooded = Deferred.fromCoroutine(flood())
            while stuck < 100 and not flooded.called:
                before = caller.bufferedAmount
                await deferLater(reactor, 0)  # type: ignore[arg-type]
                stuck = stuck + 1 if before == caller.bufferedAmount > 0 else 0
            assert held() < 2_000_000
        assert not flooded.called
        for n in range(1000):
            assert (await client.readBinaryMessage())[:4] == n.to_bytes(4, "big")
        await flooded
        await client.close()
