"""A token in the first message: until it has come, nothing reaches the service, and nothing is sent to the client."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from twisted.internet.defer import Deferred

from tests.access.tokens import Tokens
from tests.web.worlds import Client
from twisted_ws import ConfigurationError, Limits, WebSocketServer, WebSocketService
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import Bearer, ConnectFailed, HandshakeRefused, Retry
from twisted_ws.testing import serve
from twisted_ws.upgrade import Reject
from twisted_ws.web.pages import pagesSite


class Late(Tokens):
    """Tokens that are looked at when the test says so."""

    def __init__(self, unixTime):
        super().__init__(unixTime, sources=["message"])
        self.asked = []

    def identify(self, request):
        found = super().identify(request)
        if found is None:
            return None
        self.asked.append(Deferred())
        return self.asked[-1].addCallback(lambda _: found)


class Echo(WebSocketService):
    """Notes what it is asked and told."""

    refuses = False

    def __init__(self):
        self.seen = []

    def onUpgrade(self, request):
        self.seen.append(("upgrade", request.user))
        if self.refuses:
            raise Reject(403, "no")
        return self

    def onOpen(self, caller):
        self.seen.append(("open", caller.user, caller.identity.by))

    def onTextMessage(self, caller, text):
        self.seen.append(text)
        return text

    def onClose(self, caller, code, reason):
        self.seen.append("close")


class World:
    """A server in memory whose clients may show their tokens in the first message."""

    def __init__(self, stack, tokens=None, scopes=(), **limits):
        self.clock = None
        self.tokens = tokens or Tokens(self.now, sources=["message"])
        self.echo = Echo()
        self.memory = stack.enter_context(
            serve({}, authenticate=["tokens"], authenticators={"tokens": self.tokens}, unixTime=self.now, limits=Limits(**limits))
        )
        self.server, self.clock = self.memory.server, self.memory.clock
        self.server.mount("/echo", self.echo, scopes=scopes)
        self.server.mount("/channels", ChannelService())
        self.server.mount("/channels/{channel}", ChannelService())
        self.rules = self.server.setChannelRules({"*": {"subscribe": "users", "publish": "users"}})

    def now(self):
        return 1000.0 + (self.clock.seconds() if self.clock is not None else 0)

    def waiting(self, path="/echo", **options):
        """Connect, without a token."""
        return self.memory.connect(path, **options)


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


@pytest.fixture
def worlds():
    with ExitStack() as stack:
        yield lambda *arguments, **options: World(stack, *arguments, **options)


def test_anyService(worlds):
    """A service of any kind knows nothing of a connection until the token has come; then it is asked and told as always."""
    world = worlds()
    client = world.waiting()
    assert world.echo.seen == []
    assert list(world.server.callers) == []
    world.server.broadcast("for callers")
    client.writeMessage({"type": "auth", "token": "ann.60", "ref": 1})
    assert frames(client) == [{"type": "auth", "user": "ann", "expires": 60.0, "ref": 1}]
    client.writeMessage("hello")
    assert client.readMessages() == ["hello"]
    assert world.echo.seen == [("upgrade", "ann"), ("open", "ann", "tokens"), "hello"]
    assert [each.user for each in world.server.callers] == ["ann"]
    world.server.broadcast("to all")
    assert client.readMessages() == ["to all"]
    world.memory.advance(60.5)
    assert client.closed == (4401, "expired")
    assert world.echo.seen[-1] == "close"


def test_channels(worlds):
    """With channels, the subscriptions of the URL begin when the token has come, and requests that came with it follow."""
    world = worlds()
    client = world.waiting("/channels?channel=a", subProtocols=["twisted-ws.v1"])
    world.server.publish("a", "before")
    assert frames(client) == []
    client.writeMessage({"type": "auth", "token": "ann.60"})
    client.writeMessage({"type": "subscribe", "channel": "b", "ref": 2})
    assert [each["type"] for each in frames(client)] == ["auth", "welcome", "subscribed", "subscribed"]
    world.server.publish("a", "after")
    assert [each["data"] for each in frames(client)] == ["after"]
    client.writeMessage({"type": "auth", "token": "ann.200", "ref": 3})
    assert frames(client) == [{"type": "auth", "user": "ann", "expires": 200.0, "ref": 3}]


def test_deadline(worlds):
    """Who has not authenticated after authDeadline is closed with 4401; who has, is not."""
    world = worlds()
    late, good = world.waiting(), world.waiting()
    good.writeMessage({"type": "auth", "token": "ann.600"})
    world.memory.advance(4.7)
    assert late.isOpen()
    world.memory.advance(1)
    assert late.closed == (4401, "not authenticated in time")
    world.memory.advance(60)
    assert good.isOpen()
    assert len(world.server._undecided) == 0


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        ("hello", (4401, "authenticate first")),
        (b"hello", (4401, "authenticate first")),
        ("[" * 100_000, (4401, "authenticate first")),
        ({"type": "subscribe", "channel": "a"}, (4401, "authenticate first")),
        ({"type": "auth"}, (4401, "authenticate first")),
        ({"type": "auth", "token": "a" * 9000}, (4401, "authenticate first")),
        ({"type": "auth", "token": ""}, (4401, "invalid")),
        ({"type": "auth", "token": "ann.x"}, (4401, "invalid")),
        ({"type": "auth", "token": "ann.0"}, (4401, "expired")),
        ({"type": "auth", "token": "\r\nx: y"}, (4401, "invalid")),
    ],
)
def test_badMessages(worlds, message, closed):
    """Anything but a good token ends the connection, with the reason; the service is told nothing."""
    world = worlds()
    client = world.waiting()
    client.writeMessage(message)
    client.readMessages()
    assert client.closed == closed
    assert world.echo.seen == []


def test_refusedByTheService(worlds):
    """A service that refuses in onUpgrade, and a scope that is missing, end the connection with 4403."""
    world = worlds()
    world.echo.refuses = True
    client = world.waiting()
    client.writeMessage({"type": "auth", "token": "ann.60"})
    client.readMessages()
    assert client.closed == (4403, "refused")
    world = worlds(scopes=["chat"])
    client = world.waiting()
    client.writeMessage({"type": "auth", "token": "ann.60"})
    client.readMessages()
    assert client.closed == (4403, "scope")
    assert world.echo.seen == []


def test_checkedLater(worlds):
    """While the token is looked at, what comes after it waits in order, and the deadline is no longer the client's."""
    tokens = Late(lambda: 1000.0)
    world = worlds(tokens)
    client = world.waiting()
    client.writeMessage({"type": "auth", "token": "ann.600"})
    for number in range(100):
        client.writeMessage(f"{number}")
    world.memory.advance(8)
    assert world.echo.seen == []
    tokens.asked.pop().callback(None)
    assert [each for each in world.echo.seen if isinstance(each, str)] == [f"{number}" for number in range(100)]
    assert client.readMessages()[1:] == [f"{number}" for number in range(100)]


def test_leftMeanwhile(worlds):
    """Who leaves while its token is looked at never was there, and the look is given up."""
    tokens = Late(lambda: 1000.0)
    world = worlds(tokens)
    client = world.waiting()
    client.writeMessage({"type": "auth", "token": "ann.600"})
    client.close()
    world.memory.settle()
    assert tokens.asked.pop().called
    assert world.echo.seen == []
    assert len(world.server._undecided) == 0


def test_neverChecked(worlds):
    """A token that nobody looks at in time ends the connection with 4503: the client may come back."""
    world = worlds(Late(lambda: 1000.0))
    client = world.waiting()
    client.writeMessage({"type": "auth", "token": "ann.600"})
    world.memory.advance(10.5)
    assert client.closed == (4503, "refused")


def test_bounded(worlds):
    """No more than maxUnauthenticated wait: beyond that, the one that has waited longest is closed with 1013."""
    world = worlds(maxUnauthenticated=3)
    good = world.waiting()
    good.writeMessage({"type": "auth", "token": "ann.60"})
    clients = [world.waiting() for _ in range(5)]
    world.memory.settle()
    assert [each.closed and each.closed[0] for each in clients] == [1013, 1013, None, None, None]
    assert good.isOpen()


def test_stop(worlds):
    """A stop closes those that wait with 1001."""
    world = worlds()
    client = world.waiting()
    world.server.stop(0)
    world.memory.settle()
    assert client.closed == (1001, "server stops")


def test_onlyWhereItIsNamed(worlds):
    """Without the source, a handshake without a token is refused with 401, as it is over HTTP with it; wrong ones are always."""
    with ExitStack() as stack:
        memory = stack.enter_context(
            serve({"/echo": Echo()}, authenticate=["tokens"], authenticators={"tokens": Tokens(lambda: 0)})
        )
        with pytest.raises(HandshakeRefused, match="401"):
            memory.connect("/echo")
    world = worlds()
    factory = world.server.factory(pagesSite(world.server))
    assert Client(factory, world.clock).get("/channels/a?after=0").status == 401
    with pytest.raises(HandshakeRefused, match="401"):
        world.waiting(headers={"Authorization": "Bearer ann.60"})


def test_noGuests():
    """A chain with guest and the source message is a mistake: whoever is to say who it is would be a guest already."""
    server = WebSocketServer(authenticators={"tokens": Tokens(lambda: 0, sources=["header", "message"])})
    with pytest.raises(ConfigurationError, match="name guest, or the source message"):
        server.mount("/echo", Echo(), authenticate=["tokens", "guest"])
    server.mount("/echo", Echo(), authenticate=["tokens"])


# The client.


def test_client(worlds):
    """A client with tokenFirst is open when the token was accepted, reads nothing of that, and comes back with another one."""
    world = worlds()
    tokens = ["ann.20", "ann.40"]
    retry = Retry(interval=1, jitter=0)
    client = world.waiting(credentials=Bearer(lambda: tokens.pop(0)), tokenFirst=True, retry=retry)
    assert client.caller.user == "ann"
    client.writeMessage("hello")
    assert client.readMessages() == ["hello"]
    world.memory.advance(25)
    assert tokens == []
    client.writeMessage("again")
    assert client.readMessages() == ["again"]
    world.memory.advance(20)
    assert client.closed == (4401, "expired")


def test_clientRefused(worlds):
    """A client whose first token is refused, or not looked at, has never been open."""
    world = worlds()
    for token, status in ("ann.x", 401), ("ann.0", 401):
        with pytest.raises(HandshakeRefused, match="the server refused the token") as refused:
            world.waiting(credentials=Bearer(token), tokenFirst=True)
        assert refused.value.status == status
    assert world.echo.seen == []
    world = worlds(Late(lambda: 1000.0))
    with pytest.raises(HandshakeRefused) as refused:
        world.waiting(credentials=Bearer("ann.60"), tokenFirst=True, timeout=15)
    assert refused.value.status == 503
    with pytest.raises(ValueError, match="tokenFirst needs credentials=Bearer"):
        world.waiting(tokenFirst=True)


def test_clientOfAnotherServer():
    """A server that takes no token in the first message is told so, and not taken for one that has accepted it."""
    with serve({"/echo": Shouting()}) as memory, pytest.raises(ConnectFailed, match="does it take one in the first message"):
        memory.connect("/echo", credentials=Bearer("ann.60"), tokenFirst=True)


class Shouting(WebSocketService):
    def onOpen(self, caller):
        return "HELLO"
