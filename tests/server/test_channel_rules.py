"""Rules for channels that change while the server runs."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.access.tokens import Tokens
from tests.turns import Counting
from tests.web.worlds import Client, EventClient
from twisted_ws import ConfigurationError, WebSocketServer
from twisted_ws.channels.permissions import JUDGING, Permissions
from twisted_ws.channels.service import ChannelService
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import STEPS

OPEN = {"*": {"subscribe": "users", "presence": "subscribers", "wildcards": True}}
AUTH = "Authorization: Bearer ann.10000"


class World:
    """A server in memory whose clients have tokens."""

    def __init__(self, stack, rules, service=None, **options):
        self.memory = stack.enter_context(
            serve(
                {},
                unixTime=lambda: 0.0,
                channelRules=rules,
                **{"authenticate": ["tokens"], "authenticators": {"tokens": Tokens(lambda: 0.0)}, **options},
            )
        )
        self.server = self.memory.server
        service = service or ChannelService()
        for path in "/channels/{channel}", "/channels":
            self.server.mount(path, service)
        self.factory = self.server.factory(pagesSite(self.server))

    def raw(self, channel):
        return self.memory.connect(f"/channels/{channel}", headers={"Authorization": "Bearer ann.10000"})

    def v1(self, *channels, **options):
        headers = {"Authorization": "Bearer ann.10000"}
        client = self.memory.connect("/channels", headers=headers, subProtocols=["twisted-ws.v1"])
        for each in channels:
            client.writeMessage({"type": "subscribe", "channel": each, **options})
        frames(client)
        return client

    def change(self, rules):
        self.server.setChannelRules(rules)
        self.memory.settle()


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


@pytest.fixture
def worlds():
    with ExitStack() as stack:
        yield lambda *rules, **options: World(stack, *rules, **options)


def test_whatIsNotAllowedEnds(worlds):
    """New decisions hold at once: subscriptions that are no longer allowed end with the reason, on every transport."""
    world = worlds(OPEN)
    client, raw = world.v1("a", "b", "*"), world.raw("a")
    stream = EventClient(world.factory, world.memory.clock).open("/channels?channel=a&channel=b", AUTH)
    alone = EventClient(world.factory, world.memory.clock).open("/channels/a", AUTH)
    poll = Client(world.factory, world.memory.clock)
    poll.ask("/channels/a?wait=20", AUTH)
    for each in stream, alone:
        each.events()
    world.change({"*": {"subscribe": "users"}, "a": {"subscribe": "nobody"}})
    gone = {"channel": "a", "reason": "no longer allowed"}
    assert frames(client) == [{"type": "unsubscribed", **gone}, {"type": "unsubscribed", **gone, "channel": "*"}]
    assert client.caller.channels == ("b",)
    assert raw.closed == (4403, "no longer allowed")
    assert stream.frames() == [{"type": "unsubscribed", **gone}]
    assert [json.loads(data) for kind, _, data in alone.events() if kind == "unsubscribed"] == [gone]
    assert alone.ended
    assert not stream.ended
    (answer,) = poll.responses()
    assert answer.status == 200  # what waits is answered; what comes next is refused
    assert poll.get("/channels/a?wait=20", AUTH).status == 403


def test_takesTurns(worlds, monkeypatch):
    """However many channels each subscriber has, no turn of the reactor looks at more subscriptions than fit into it."""
    world = worlds(OPEN)
    names = [f"c{number}" for number in range(100)]
    clients = [world.v1(*names) for _ in range(10)]
    counting = Counting(world.server.runtime.turns, monkeypatch, Permissions, "mayStay")
    world.change({"*": {"subscribe": "nobody"}})
    assert [len(frames(each)) for each in clients] == [100] * 10
    assert counting.count == 1000
    assert counting.most <= STEPS // JUDGING + 100


def test_whatIsAllowedGoesOn(worlds):
    """A change that allows more, or the same, ends nothing."""
    world = worlds({"a": {"subscribe": "users"}})
    client = world.v1("a")
    world.change(OPEN)
    world.memory.publish("a", 1)
    assert [each["type"] for each in frames(client)] == ["message"]
    client.writeMessage({"type": "subscribe", "channel": "b"})
    assert [each["type"] for each in frames(client)] == ["subscribed"]


def test_aMistakeChangesNothing(worlds):
    """Rules with a mistake are refused whole, and the old ones go on."""
    world = worlds(OPEN)
    client = world.v1("a")
    with pytest.raises(ConfigurationError, match=r'channels\."b"\.subscribe'):
        world.server.setChannelRules({"*": {"subscribe": "nobody"}, "b": {"subscribe": "everybody"}})
    client.writeMessage({"type": "subscribe", "channel": "b"})
    assert [each["type"] for each in frames(client)] == ["subscribed"]


def test_rulesComeAndGo(worlds):
    """A server that began without rules and authenticators may get rules, and lose them again."""
    world = worlds(None, service=ChannelService(wildcards=True), authenticate=None)
    client = world.v1("a", "*", "~x")
    world.change({"*": {"subscribe": "anyone", "wildcards": False}, "a": {"subscribe": "nobody"}})
    assert {each["channel"] for each in frames(client)} == {"a", "*", "~x"}
    world.change({})
    for channel in "~x", "*":
        client.writeMessage({"type": "subscribe", "channel": channel})
    assert [each["type"] for each in frames(client)] == ["subscribed", "subscribed"]


def test_presence(worlds):
    """Who may no longer know who is there is told so, and nothing more about who comes and goes."""
    world = worlds(OPEN)
    client = world.v1("a", presence=True)
    world.raw("a")
    assert [each["type"] for each in frames(client)] == []  # the same user
    world.change({"*": {"subscribe": "users", "presence": "nobody"}})
    (told,) = frames(client)
    assert (told["type"], told["code"], told["channel"], "ref" in told) == ("error", "forbidden", "a", False)
    world.memory.connect("/channels/a", headers={"Authorization": "Bearer bob.10000"})
    assert frames(client) == []


class Choosing(ChannelService):
    """A service that leaves each connection to another object."""

    def onUpgrade(self, request):
        return ChannelService(publish=True)


def test_whatOnUpgradeChooses(worlds):
    """Rules decide for a service of channels that onUpgrade returns as for one that is mounted, also after a change."""
    world = worlds({"*": {"subscribe": "nobody"}, "a": {"subscribe": "users"}}, service=Choosing())
    assert world.raw("b").closed[0] == 4403
    stream = EventClient(world.factory, world.memory.clock).open("/channels/b", AUTH)
    assert stream.head.status == 403
    raw = world.raw("a")
    stream = EventClient(world.factory, world.memory.clock).open("/channels/a", AUTH)
    assert (raw.caller.channels, stream.head.status) == (("a",), 200)
    world.change({"*": {"subscribe": "nobody"}})
    assert raw.closed == (4403, "no longer allowed")
    stream.events()
    assert stream.ended


class Slow(ChannelService):
    """A service whose hook takes until it is told."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def onSubscribe(self, caller, channel):
        self.asked.append(Deferred())
        return self.asked[-1]


def test_underWay(worlds):
    """What old rules have let in, and a hook has held up, does not stay when the new ones refuse it."""
    service = Slow()
    world = worlds(OPEN, service=service)
    client = world.v1("a")
    raw = world.raw("a")
    stream = EventClient(world.factory, world.memory.clock)
    stream.ask("/channels/a", "Accept: text/event-stream", AUTH)
    poll = Client(world.factory, world.memory.clock)
    poll.ask("/channels/a", AUTH)
    world.change({"*": {"subscribe": "nobody"}})
    for each in service.asked:
        each.callback(None)
    assert [each["type"] for each in frames(client)] == ["subscribed", "unsubscribed"]
    assert raw.closed == (4403, "no longer allowed")
    assert stream.take().startswith(b"HTTP/1.1 503 ")
    assert [each.status for each in poll.responses()] == [503]


class Asker(Tokens):
    """Tokens, and an application that is asked about channels.

    Attributes:
        most: how many questions there were at the same time.
    """

    canAsk = True

    def __init__(self):
        super().__init__(lambda: 0.0)
        self.pending = []
        self.most = 0

    async def may(self, identity, subscribe, publish):
        answer = Deferred()
        self.pending.append(answer)
        self.most = max(self.most, len(self.pending))
        allowed = await answer
        self.pending.remove(answer)
        return set(subscribe) if allowed else set(), set()


def test_theApplicationIsAskedAgain(worlds):
    """Where the new rules leave it to the application, that is asked, about some subscribers at a time."""
    asker = Asker()
    world = worlds(OPEN, authenticators={"tokens": asker})
    clients = [world.v1("a") for _ in range(100)]
    world.change({"*": {"subscribe": "ask"}})
    answers = 0
    while asker.pending:
        answers += 1
        asker.pending[0].callback(answers % 2 == 0)
        world.memory.settle()
    assert answers == 100
    assert asker.most <= 40
    assert sum(each.caller.channels == ("a",) for each in clients) == 50


def test_oneObjectAtTwoPaths():
    """One service of channels has the same authenticators wherever it is mounted: rules do not know by which path one came."""
    server = WebSocketServer(reactor=Clock())
    service = ChannelService()
    server.mount("/a/{channel}", service, authenticate=["guest"])
    server.mount("/b/{channel}", service, authenticate=["guest"])
    with pytest.raises(ConfigurationError, match=r"/c/\{channel\}: this service has other authenticators elsewhere"):
        server.mount("/c/{channel}", service)
    assert set(server.services) == {"/a/{channel}", "/b/{channel}"}
