"""Services to try the testing room on."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from twisted_ws import Reject, WebSocketService


@dataclass
class Point:
    x: int
    y: int = 0


class Chat(WebSocketService):
    """Sends each message to all other callers."""

    subProtocols = ["chat.v2", "chat.v1"]
    idleTimeout = 600

    def __init__(self):
        self.callers = []
        self.closes = []

    def onUpgrade(self, request):
        name = request.user or request.query.get("name", [None])[0]
        if name is None:
            raise Reject(401, "Who are you?")
        request.user = name
        return self, {"X-Name": name}

    def onOpen(self, caller):
        self.callers.append(caller)

    def onTextMessage(self, caller, text):
        for other in self.callers:
            if other is not caller:
                other.writeTextMessage(f"{caller.user}: {text}")

    def onClose(self, caller, statusCode, reason):
        self.callers.remove(caller)
        self.closes.append((caller.user, statusCode, reason))


class Odd(WebSocketService):
    """Does what a text says."""

    spinning = True

    def __init__(self, clock=None):
        self.clock = clock
        self.gate = Deferred()
        self.requests = []
        self.heard = []

    def onUpgrade(self, request):
        self.requests.append(request)
        return self.gate if "wait" in request.query else self

    def onTextMessage(self, caller, text):
        return getattr(self, text)(caller)

    def onBinaryMessage(self, caller, data):
        self.heard.append(data)
        return data[::-1]

    def onPong(self, caller, data):
        self.heard.append(data)

    def onClose(self, caller, statusCode, reason):
        self.heard.append((statusCode, reason))

    def text(self, caller):
        return "text"

    def binary(self, caller):
        return b"\x00\xff"

    def point(self, caller):
        return Point(1, 2)

    def boom(self, caller):
        raise ValueError("boom")

    def later(self, caller):
        return deferLater(self.clock, 5, lambda: "after 5 seconds")

    async def asynchronous(self, caller):
        await deferLater(self.clock, 1)
        await caller.writeTextMessage("after 1 second")
        return "done"

    async def never(self, caller):
        await Deferred()

    def forgotten(self, caller):
        async def background():
            error = ValueError("nobody looked")
            raise error  # whose traceback has this frame, which has the error

        Deferred.fromCoroutine(background())

    def gated(self, caller):
        return self.gate

    def three(self, caller):
        return iter(["one", "two", "three"])

    def endless(self, caller):
        while True:
            yield "more"

    def spin(self, caller):
        if self.spinning:
            self.clock.callLater(0, self.spin, caller)

    def late(self, caller):
        self.clock.callLater(1, self.boom, caller)

    def flood(self, caller):
        for _ in range(40):
            caller.writeTextMessage("x" * 32 * 1024)

    def away(self, caller):
        caller.close(4001, "go away")
