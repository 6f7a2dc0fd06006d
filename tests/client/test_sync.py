from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.client.live import Echo, LiveCase
from tests.live.nursery import start
from tests.live.support import PATIENCE
from twisted_ws.client import ConnectFailed, ConnectionClosed, HandshakeRefused, ReadTimeout, UnexpectedMessage, sync


class Talker(Echo):
    """Does what the message says."""

    def onOpen(self, caller: Any) -> None:
        self.caller = caller

    def onTextMessage(self, caller: Any, text: str) -> Any:
        if text == "three":
            return iter(["1", "2", b"3"])
        if text == "bye":
            return caller.close(4000, "bye") and None
        if text == "done":
            return caller.close() and None
        return super().onTextMessage(caller, text)


def program(*arguments: str) -> subprocess.Popen[str]:
    """Start a Python program."""
    pipe = subprocess.PIPE
    return start([sys.executable, "-c", *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)


SCRIPT = """
import sys
import twisted_ws.client.sync
client = twisted_ws.client.sync.connect(sys.argv[1])
client.writeTextMessage("hello")
print(client.readTextMessage())
"""

FORKED = """
import os, sys, warnings
import twisted_ws.client.sync
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is what this is about
def talk(client, text):
    client.writeTextMessage(text)
    print(client.readTextMessage(), flush=True)
with twisted_ws.client.sync.connect(sys.argv[1]) as client:
    talk(client, "parent")
    child = os.fork()
    if child == 0:
        with twisted_ws.client.sync.connect(sys.argv[1]) as another:
            talk(another, "child")
        os._exit(0)
    os.waitpid(child, 0)
    talk(client, "parent again")
"""

INTERRUPTED = """
import sys
import twisted_ws.client.sync
with twisted_ws.client.sync.connect(sys.argv[1]) as client:
    client.writeTextMessage("hello")
    try:
        print(client.readTextMessage(), flush=True)
        client.readTextMessage()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()
    client.writeTextMessage("again")
    print(client.readTextMessage(), flush=True)
"""


class SyncTest(LiveCase):
    async def url(self, service: Any = None) -> str:
        return f"ws://127.0.0.1:{await self.serve(service or Talker())}/ws"

    async def test_script(self) -> None:
        """A script can talk without ever seeing a Deferred."""
        url = await self.url()

        def script() -> None:
            with sync.connect(url, subProtocols=["echo"], readTimeout=10) as client:
                assert client.isOpen()
                assert not client.isSecure()
                assert client.negotiatedSubProtocol == "echo"
                assert client.response.status == 101
                assert repr(client).endswith(" open>")
                client.attributes["a"] = 1
                client.writeTextMessage("a")
                assert client.readTextMessage() == "Echo: a"
                client.writeBinaryMessage(b"b")
                assert client.readBinaryMessage() == b"b"
                client.writeMessage(b"[1, 2]")
                assert client.readMessage(list[int]) == [1, 2]
                client.writeMessage("c")
                assert client.readMessage() == "Echo: c"
                assert client.ping() > 0
                client.pong(b"x")
                assert client.bufferedAmount == 0
                client.close(1000, "done")
            assert not client.isOpen()

        await deferToThread(script)

    async def test_errors(self) -> None:
        """Errors are raised where the call was made."""
        url = await self.url()

        def script() -> list[str]:
            raised = []
            with sync.connect(url) as client:
                for call in (
                    lambda: sync.connect(url + "x/nothing"),
                    lambda: sync.connect("ws://127.0.0.1:1"),
                    lambda: sync.connect("http://127.0.0.1"),
                    lambda: client.readTextMessage(timeout=0.01),
                    lambda: client.writeTextMessage(b"x"),  # type: ignore[arg-type]
                    lambda: (client.writeTextMessage("x"), client.readBinaryMessage()),
                    lambda: (client.writeTextMessage("bye"), client.readMessage()),
                    lambda: list(client),
                ):
                    try:
                        call()
                    except Exception as error:
                        raised.append(type(error).__name__)
            return raised

        assert await deferToThread(script) == [
            HandshakeRefused.__name__,
            ConnectFailed.__name__,
            "InvalidURL",
            ReadTimeout.__name__,
            "TypeError",
            UnexpectedMessage.__name__,
            ConnectionClosed.__name__,
            ConnectionClosed.__name__,
        ]

    async def test_iterate(self) -> None:
        """A loop over a client gives each message, and ends when all is done."""
        url = await self.url()

        def script() -> list[Any]:
            with sync.connect(url) as client:
                client.writeTextMessage("three")
                seen = []
                for message in client:
                    seen.append(message)
                    if message == b"3":
                        client.writeTextMessage("done")
                return seen

        assert await deferToThread(script) == ["1", "2", b"3"]

    async def test_threads(self) -> None:
        """Many connections in many threads share one reactor."""
        url = await self.url()

        def script(name: str) -> None:
            with sync.connect(url) as client:
                for n in range(20):
                    client.writeTextMessage(f"{name} {n}")
                    assert client.readTextMessage() == f"Echo: {name} {n}"

        for each in [deferToThread(script, str(n)) for n in range(5)]:
            await each
        assert len([each for each in threading.enumerate() if each.name == "twisted_ws.client.sync"]) == 1

    async def test_reactorThread(self) -> None:
        """A call in a reactor's thread, which it would block, is refused at once."""
        url = await self.url()
        await deferLater(reactor, 0)  # a test begins before the reactor runs
        with pytest.raises(RuntimeError, match=r"await twisted_ws\.client\.connect"):
            sync.connect(url)
        told: Deferred[str] = Deferred()

        def onPong(client: Any, data: bytes) -> None:
            try:
                sync.connect(url)
            except RuntimeError as error:
                reactor.callFromThread(told.callback, str(error))  # type: ignore[attr-defined]

        service = Talker()
        client = await deferToThread(sync.connect, await self.url(service), onPong=onPong)
        service.caller.pong(b"unasked")
        assert "reactor's thread" in await told
        with pytest.raises(RuntimeError):
            client.readTextMessage()
        await deferToThread(client.close)

    async def test_program(self) -> None:
        """A program that ends without closing its clients does not hang."""
        child = program(SCRIPT, await self.url())
        output, _ = await deferToThread(child.communicate, timeout=PATIENCE)
        assert (output, child.returncode) == ("Echo: hello\n", 0)

    async def test_interrupt(self) -> None:
        """Ctrl-C interrupts a read in the main thread at once, and the message that comes later is not lost."""
        url = await self.url()
        child = program(INTERRUPTED, url)
        assert child.stdout is not None
        assert await deferToThread(child.stdout.readline) == "Echo: hello\n"
        child.send_signal(signal.SIGINT)
        assert await deferToThread(child.stdout.readline) == "interrupted\n"
        output, _ = await deferToThread(child.communicate, "\n", timeout=PATIENCE)
        assert (output, child.returncode) == ("Echo: again\n", 0)

    async def test_fork(self) -> None:
        """A forked process gets a reactor of its own, because threads are not inherited."""
        child = program(FORKED, await self.url())
        output, _ = await deferToThread(child.communicate, timeout=PATIENCE)
        assert (output, child.returncode) == ("Echo: parent\nEcho: child\nEcho: parent again\n", 0)
