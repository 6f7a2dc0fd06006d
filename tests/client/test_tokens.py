"""A client whose token is made anew for each attempt to connect."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred

from tests.access.tokens import Tokens
from twisted_ws import ConnectionClosed, WebSocketService
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import Bearer, ConnectFailed, HandshakeRefused, HandshakeTimeout, Retry
from twisted_ws.testing import serve


class Echo(WebSocketService):
    def onTextMessage(self, caller, text):
        return f"{caller.user}: {text}"


class World:
    """A server that asks for tokens, on a clock that begins at 1,000,000."""

    def __init__(self):
        self.memory = serve(
            {},
            unixTime=lambda: self.now(),
            authenticate=["tokens"],
            authenticators={"tokens": Tokens(lambda: self.now())},
            channelRules={"*": {"subscribe": "users"}},
        )
        self.memory.server.mount("/echo", Echo())
        self.asked = 0

    def now(self):
        return 1_000_000.0 + (self.memory.clock.seconds() if hasattr(self, "memory") else 0)

    def token(self):
        """Return a token for 40 more seconds, and count how often that was asked for."""
        self.asked += 1
        return f"ann.{round(self.now() - 1_000_000) + 40}"

    def connect(self, token, **options):
        return self.memory.connect("/echo", credentials=Bearer(token), **options)


@pytest.fixture
def world():
    made = World()
    with made.memory:
        yield made


RETRY = Retry(interval=1, jitter=0)


def test_eachAttempt(world):
    """A function is asked for each attempt, and a client whose token has expired comes back by itself, with nothing lost."""
    client = world.connect(world.token, retry=RETRY)
    client.writeTextMessage("one")
    assert client.readTextMessage() == "ann: one"
    for _ in range(3):
        world.memory.advance(40.5)
        client.writeTextMessage("two")
        world.memory.advance(1)
        assert client.readTextMessage() == "ann: two"
    assert world.asked == 4


def test_messagesOfAChannel(world):
    """A subscriber that comes back after the end of its token goes on where it was: each message comes once, and in order."""
    world.memory.server.mount("/channels", ChannelService())
    last, numbers = [], []

    def subscribe(client):
        client.writeMessage({"type": "subscribe", "channel": "news", **({"after": last[-1]} if last else {})})

    def look():
        for message in map(json.loads, client.readMessages()):
            if message["type"] == "message":
                numbers.append(message["data"])
                last.append(message["id"])

    client = world.memory.connect(
        "/channels", credentials=Bearer(world.token), subProtocols=["twisted-ws.v1"], retry=RETRY, onReconnect=subscribe
    )
    subscribe(client)
    for number in range(400):
        world.memory.settle()
        world.memory.server.publish("news", number)
        world.memory.advance(0.5)
        look()
    world.memory.advance(2)
    look()
    assert numbers == list(range(400))
    assert world.asked == 5


def test_rawChannel(world):
    """A raw WebSocket of a channel comes back by itself, too; with ``after=0`` it gets all that is kept, so nothing is lost."""
    world.memory.server.mount("/channels/{channel}", ChannelService())
    client = world.memory.connect("/channels/news?after=0", credentials=Bearer(world.token), retry=RETRY)
    numbers = []
    for number in range(400):
        world.memory.server.publish("news", number)
        world.memory.advance(0.5)
        numbers += map(int, client.readMessages())
    world.memory.advance(2)
    numbers += map(int, client.readMessages())
    begins = [place for place, number in enumerate(numbers) if not number]
    assert len(begins) == world.asked == 5
    for begin, end in zip(begins, [*begins[1:], None], strict=True):
        part = numbers[begin:end]
        assert part == list(range(len(part)))
    assert len(part) == 400


def test_async(world):
    """The function may be async; it has as long as the handshake."""
    waiting = []

    async def token():
        waiting.append(Deferred())
        await waiting[-1]
        return world.token()

    opening = world.memory.connecting("/echo", credentials=Bearer(token))
    waiting[0].callback(None)
    world.memory.settle()
    assert opening.result.isOpen()
    with pytest.raises(HandshakeTimeout, match="function for tokens"):
        world.connect(lambda: Deferred(), handshakeTimeout=3, timeout=4)


def test_onceMore(world):
    """If the server refuses the new token as well, that is the end: no client goes on for ever with a dead token."""
    asked = []

    def token():
        asked.append(None)
        return "ann.0"

    with pytest.raises(HandshakeRefused) as caught:
        world.connect(token, retry=RETRY, timeout=60)
    assert caught.value.status == 401
    assert len(asked) == 2


def test_endsAtOnceTwice(world):
    """The same holds for connections that open, and end with 4401 at once."""
    tokens = iter(["ann.1", "ann.3", "ann.9"])
    client = world.connect(lambda: next(tokens), retry=RETRY)
    world.memory.advance(10)
    assert client.closed == (4401, "expired")
    assert list(tokens) == ["ann.9"]


def test_withoutFunction(world):
    """A token that is always the same brings nobody back."""
    client = world.connect("ann.40", retry=RETRY)
    world.memory.advance(45)
    assert client.closed == (4401, "expired")
    with pytest.raises(ConnectionClosed):
        client.client.writeTextMessage("x").result.raiseException()


def test_functionFails(world):
    """What the function raises is a failed attempt, which a `Retry` repeats; what it returns has to be a token."""
    answers = iter([ValueError("no network"), "bad token", 5, "ann.40"])

    def token():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert world.connect(token, retry=RETRY, timeout=60).isOpen()
    with pytest.raises(ConnectFailed, match="raised ValueError: no network"):
        world.connect(lambda: (_ for _ in ()).throw(ValueError("no network")))


def test_shown():
    """No token and no function is in the representation."""
    assert repr(Bearer(lambda: "secret")) == "Bearer(...)"


class Rooms(WebSocketService):
    """A service that notes which tokens for channels came with its clients, and closes one as when such a token ends."""

    def __init__(self):
        self.came = []

    def onOpen(self, caller):
        self.came.append((caller.user, caller.request.headers.get("channel-token")))
        caller.writeTextMessage("hello")

    def onTextMessage(self, caller, text):
        caller.close(4401, "expired")


@pytest.fixture
def rooms(world):
    service = Rooms()
    world.memory.server.mount("/rooms", service)
    return service


def test_subscriptionTokens(world, rooms):
    """A function for subscription tokens is asked for each attempt too, beside other credentials of any kind."""
    numbers = iter(range(10))

    async def granted():
        return f"room.{next(numbers)}"

    client = world.memory.connect("/rooms", credentials=Bearer(world.token), subscriptionToken=granted, retry=RETRY)
    client.writeTextMessage("end")
    world.memory.advance(1)
    world.memory.connect("/rooms", credentials=Bearer("ann.60"), subscriptionToken=granted)
    world.memory.connect("/rooms", credentials=Bearer(world.token), subscriptionToken="room.x")
    world.memory.connect("/rooms", credentials=Bearer("ann.60"))
    assert rooms.came == [("ann", each) for each in ("room.0", "room.1", "room.2", "room.x", None)]
    assert world.asked == 3


def test_badSubscriptionTokens(world, rooms):
    """A subscription token has the characters of a header, and is given once; no text about it shows it."""
    for token in "", "a b", "é", "secret\r\nx: y":
        with pytest.raises(ValueError, match="bearer token must be ASCII") as caught:
            world.memory.connect("/rooms", subscriptionToken=token)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="given twice"):
        world.memory.connect("/rooms", subscriptionToken="room.1", headers={"channel-token": "room.2"})
    with pytest.raises(ConnectFailed, match="bearer token must be ASCII"):
        world.memory.connect("/rooms", credentials=Bearer("ann.60"), subscriptionToken=lambda: "")
