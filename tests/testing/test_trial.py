"""The testing room in tests of every kind: trial's TestCase, plain, async and with Deferreds; unittest's; a reactor that runs."""

from __future__ import annotations

import subprocess
import sys
import unittest

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.testing.services import Chat, Odd
from twisted_ws import WebSocketService
from twisted_ws.client import HandshakeRefused
from twisted_ws.testing import NoMessage, Unflushed, serve


class Outside(WebSocketService):
    """Answers from a thread, or from the real reactor."""

    def onUpgrade(self, request):
        return deferLater(reactor, 0.01, lambda: self) if request.query else self

    async def onTextMessage(self, caller, text):
        return await deferToThread(text.upper)


class Unittest(unittest.TestCase):
    def test_chat(self):
        """A TestCase of unittest may enter the context for the length of a test."""
        server = self.enterContext(serve({"/chat": Chat()}))
        ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
        ann.writeTextMessage("hi")
        assert bob.readTextMessage() == "ann: hi"
        with pytest.raises(AssertionError):
            bob.readTextMessage()


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_chat(self):
        """A coroutine that runs in asyncio's loop may use it, too."""
        with serve({"/chat": Chat()}) as server:
            ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
            ann.writeTextMessage("hi")
            assert bob.readTextMessage() == "ann: hi"


class Trial(TestCase):
    def test_plain(self):
        """A plain method of trial leaves nothing in the reactor."""
        with serve({"/chat": Chat()}) as server:
            server.connect("/chat?name=ann")
            server.advance(100)
        assert reactor.getDelayedCalls() == []

    async def test_async(self):
        """An async method may use the plain reads, since nothing of it takes time."""
        with serve({"/chat": Chat()}) as server:
            ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
            ann.writeTextMessage("hi")
            assert bob.readTextMessage() == "ann: hi"

    async def test_outside(self):
        """What comes from a thread or the real reactor is waited for."""
        with serve({"/outside": Outside()}) as server:
            client = await server.waitFor(server.connecting("/outside?later"))
            client.writeTextMessage("hi")
            with pytest.raises(NoMessage):
                client.readTextMessage()
            assert await server.waitFor(client.readTextMessage) == "HI"

    def test_outsideWithDeferreds(self):
        """The same with Deferreds, and the client beneath."""
        server = serve({"/outside": Outside()})
        client = server.connect("/outside")
        client.writeTextMessage("hi")
        waiting = server.waitFor(client.client.readTextMessage())
        return waiting.addCallback(self.assertEqual, "HI").addCallback(lambda _: server.stop())

    async def test_waitInVain(self):
        """What does not come is waited for until the timeout, and the last error is raised."""
        with serve({"/chat": Chat()}) as server:
            client = server.connect("/chat?name=ann")
            with pytest.raises(NoMessage, match="no message came to"):
                await server.waitFor(client.readTextMessage, timeout=0.02)
            with pytest.raises(AssertionError, match=r"the Deferred has not fired in 0.01 seconds"):
                await server.waitFor(Deferred(), timeout=0.01)
            with pytest.raises(ZeroDivisionError):
                await server.waitFor(lambda: 1 / 0)
            with pytest.raises(HandshakeRefused):
                await server.waitFor(server.connecting("/chat"))

    def test_errors(self):
        """An error that is flushed at the server need not be flushed at trial, too; others stay."""
        with serve({"/odd": Odd()}) as server:
            server.connect("/odd").writeTextMessage("boom")
            assert len(server.flushErrors(ValueError)) == 1
        assert self.flushLoggedErrors() == []
        with pytest.raises(Unflushed), serve({"/odd": Odd()}) as server:
            server.connect("/odd").writeTextMessage("boom")
        assert len(self.flushLoggedErrors(ValueError)) == 1


@pytest.mark.exhaustive
def test_withoutReactor():
    """Without a reactor there is none afterwards, either."""
    code = (
        "import sys; from twisted_ws.testing import serve; from tests.testing.services import Chat\n"
        "with serve({'/chat': Chat()}) as server:\n server.connect('/chat?name=ann').writeTextMessage('hi'); server.advance(60)\n"
        "print('twisted.internet.reactor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
