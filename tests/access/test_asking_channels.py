"""The word ``ask`` of a rule: the application is asked, on every transport, and nothing overtakes anything meanwhile."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from twisted.internet.task import Clock

from tests.access.asking.support import Server
from tests.access.kinds.support import settings
from tests.access.tokens import Tokens
from tests.turns import Counting
from tests.web.worlds import Client, EventClient
from twisted_ws.access.asking.http import HTTPAuthenticator
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.websocket import ENTERING
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import STEPS

RULES = {"*": {"subscribe": ["granted", "ask"], "publish": "ask", "wildcards": True}, "news": {"subscribe": "anyone"}}
AUTH = "Authorization: Bearer ann.10000"


class World:
    """A server in memory, and an application that answers by hand."""

    def __init__(self, stack, directory, rules, chain=("tokens", "shop")):
        self.application = Server()
        clock = Clock()
        options = {"url": "http://127.0.0.1/who", "channels_url": "http://127.0.0.1/may", "cache": 1}
        shop = HTTPAuthenticator(settings(directory, clock, **options), lambda: 0.0, self.application.making(clock))
        self.hooks = []

        class Service(ChannelService):
            def onSubscribe(service, caller, channel):
                self.hooks.append(channel)

        self.memory = stack.enter_context(
            serve(
                {},
                clock=clock,
                authenticate=chain,
                authenticators={"tokens": Tokens(lambda: 0.0), "shop": shop},
                channelRules=rules,
                unixTime=lambda: 0.0,
            )
        )
        self.server = self.memory.server
        for path in "/channels/{channel}", "/channels":
            self.server.mount(path, Service())
        self.factory = self.server.factory(pagesSite(self.server))

    def v1(self, path="/channels", user="ann"):
        return self.memory.connect(path, headers={"Authorization": f"Bearer {user}.10000"}, subProtocols=["twisted-ws.v1"])

    def ask(self, client, *requests):
        for each in requests:
            client.writeMessage(each)
        self.memory.settle()
        return frames(client)

    @property
    def asked(self):
        """What the application has been asked and has not answered."""
        self.memory.settle()
        return [json.loads(each.body) for each in self.application.questions[-len(self.application.pending) :]]

    def answer(self, subscribe=(), publish=(), status=200):
        self.memory.settle()
        self.application.reply(status, json.dumps({"subscribe": subscribe, "publish": publish}).encode())
        self.memory.settle()


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


def brief(found):
    return [(each.get("ref"), each["type"], each.get("code")) for each in found]


@pytest.fixture
def worlds(tmp_path):
    with ExitStack() as stack:
        yield lambda rules=None, **options: World(stack, tmp_path, RULES | (rules or {}), **options)


@pytest.fixture
def world(worlds):
    return worlds()


def test_inOrder(world):
    """A subscription waits for the answer, and so do the requests behind it: they are answered in their order."""
    client = world.v1()
    frames(client)
    subscribe = {"type": "subscribe", "channel": "a", "ref": 1}
    assert world.ask(client, subscribe, {"type": "ping", "ref": 2}, {"type": "subscribe", "channel": "news", "ref": 3}) == []
    assert world.asked == [{"user": "ann", "subscribe": ["a"], "publish": []}]
    world.server.publish("a", "nobody hears this")
    world.answer(["a"])
    assert brief(frames(client)) == [(1, "subscribed", None), (2, "pong", None), (3, "subscribed", None)]
    assert world.hooks == ["a", "news"]


@pytest.mark.parametrize("leaves", [False, True])
def test_takesTurns(world, monkeypatch, leaves):
    """However many requests one answer is about, no turn does more of them than fit; who leaves meanwhile gets none."""
    client = world.v1()
    frames(client)
    counting = Counting(world.server.runtime.turns, monkeypatch, ChannelService, "permit")
    names = [f"c{number}" for number in range(100)]
    for name in names:
        client.writeMessage({"type": "subscribe", "channel": name})
    asked = world.asked
    while world.application.pending:
        world.application.reply(200, json.dumps({"subscribe": names, "publish": []}).encode())
        if leaves:
            client.cut()
            break
        world.memory.settle()
    world.memory.settle()
    assert asked
    if leaves:
        assert world.server.channels.count("c99") == 0
    else:
        assert [each["channel"] for each in frames(client)] == names
        assert counting.count == 100
    assert counting.most <= STEPS // ENTERING + 1


def test_oneQuestionForABurst(world):
    """What a client asks for at once is a question for what each read brings; answers come in order, those about mistakes too."""
    client = world.v1()
    frames(client)
    names = [f"c{number}" for number in range(40)]
    burst = [{"type": "subscribe", "channel": name, "ref": number} for number, name in enumerate(names)]
    mistakes = [{"type": "nothing", "ref": 40}, {"type": "subscribe", "channel": "a..b", "ref": 41}, {"type": "ping", "ref": 42}]
    for each in burst + mistakes:
        client.client.writeMessage(each)  # all in one turn
    assert frames(client) == []
    asked = world.asked
    assert [name for each in asked for name in each["subscribe"]] == names
    assert len(asked) == 2  # its socket sends the first by itself
    world.answer([])
    world.answer(names[1:])
    found = frames(client)
    assert [each["ref"] for each in found] == [*range(43)]
    assert brief(found)[0] == (0, "error", "forbidden")
    assert {kind for _, kind, _ in brief(found)[1:40]} == {"subscribed"}
    assert brief(found)[40:] == [(40, "error", "bad-request"), (41, "error", "bad-channel"), (42, "pong", None)]


def test_manyBehindAQuestion(world):
    """So many requests are read while one waits; more stay with the client until there is room, and none is lost."""
    client = world.v1()
    frames(client)
    pings = [{"type": "ping", "ref": number} for number in range(1000)]
    assert world.ask(client, {"type": "subscribe", "channel": "a", "ref": -1}, *pings) == []
    world.answer(["a"])
    assert [each["ref"] for each in frames(client)] == [*range(-1, 1000)]


def test_leavingWithManyBehind(world):
    """A client that leaves while its requests wait is done with: no hook is called for them, and nobody is subscribed."""
    client = world.v1()
    world.ask(client, *[{"type": "subscribe", "channel": name} for name in ("a", "news", "b")])
    client.cut()
    world.memory.settle()
    while world.application.pending:
        world.answer(["a", "b"])
    assert (world.hooks, world.server.channels.count("news")) == ([], 0)


def test_refused(world):
    """What the application does not allow is forbidden, and the hook of the service is not asked."""
    client = world.v1()
    frames(client)
    for channel in "a", "a.*":
        world.ask(client, {"type": "subscribe", "channel": channel, "ref": 1})
        assert world.asked[0]["subscribe"] == [channel]
        world.answer(["b"])
        assert brief(frames(client)) == [(1, "error", "forbidden")]
    assert (client.caller.channels, world.hooks) == ((), [])


@pytest.mark.parametrize("status", [500, 302])
def test_unavailable(world, status):
    """While it cannot be asked, a request is refused as unavailable, and the next one is asked again."""
    client = world.v1()
    frames(client)
    for _ in range(2):
        world.ask(client, {"type": "subscribe", "channel": "a", "ref": 1})
        world.answer(status=status)
        assert brief(frames(client)) == [(1, "error", "unavailable")]
    world.memory.flushErrors()


def test_deadline(world):
    """An application that hangs costs each question its deadline; then the requests behind it go on."""
    client = world.v1()
    frames(client)
    world.ask(client, {"type": "subscribe", "channel": "a", "ref": 1}, {"type": "ping", "ref": 2})
    world.memory.advance(3)
    assert brief(frames(client)) == [(1, "error", "unavailable"), (2, "pong", None)]
    world.memory.flushErrors()


def test_publishing(world):
    """Publishing is asked about in the same way, over WebSocket and by POST."""
    client = world.v1()
    frames(client)
    world.ask(client, {"type": "publish", "channel": "a", "data": 1, "ref": 1}, {"type": "publish", "channel": "b", "data": 1})
    world.answer(publish=["a"])
    assert [each["publish"] for each in world.asked] == [["b"]]
    world.answer(publish=["a"])
    assert brief(frames(client)) == [(1, "published", None), (None, "error", "forbidden")]
    for channel, status in ("c", 200), ("d", 403):
        post = Client(world.factory, world.memory.clock)
        post.ask(f"/channels/{channel}", "Content-Type: text/plain", AUTH, method="POST", body=b"x")
        world.answer(publish=["c"])
        assert [each.status for each in post.responses()] == [status]


def test_oneQuestionForAUrl(world):
    """What a URL names is asked about together, on every transport."""
    path = "/channels?channel=a&channel=news&channel=b"
    question = [{"user": "ann", "subscribe": ["a", "b"], "publish": []}]
    client = world.v1(path)
    assert world.asked == question
    world.answer(["b"])
    assert brief(frames(client))[1:] == [(None, "error", "forbidden"), (None, "subscribed", None), (None, "subscribed", None)]
    world.memory.advance(1)
    stream = EventClient(world.factory, world.memory.clock)
    stream.ask(path, "Accept: text/event-stream", AUTH)
    assert world.asked == question
    world.answer(["a", "b"])
    assert stream.take().startswith(b"HTTP/1.1 200 ")
    world.memory.advance(1)
    poll = Client(world.factory, world.memory.clock)
    poll.ask(path, AUTH)
    assert world.asked == question
    world.answer(["a"])
    (answer,) = poll.responses()
    assert (answer.status, json.loads(answer.body)["channel"]) == (403, "b")


def test_whoLeaves(world):
    """The answer about a client that has left meanwhile subscribes nobody."""
    client = world.v1("/channels?channel=a")
    client.cut()
    world.answer(["a"])
    assert world.server.channels.count("a") == 0


def test_afterARefresh(world):
    """New credentials are asked about: what is refused then is ended; what cannot be asked about goes on."""
    client = world.v1("/channels?channel=a&channel=b&channel=news")
    world.answer(["a", "b"])
    frames(client)
    world.memory.advance(1)
    world.ask(client, {"type": "auth", "token": "ann.20000"})
    world.answer(["b"])
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "no longer allowed"}]
    assert set(client.caller.channels) == {"b", "news"}
    world.memory.advance(1)
    world.ask(client, {"type": "auth", "token": "ann.30000"})
    world.answer(status=500)
    assert set(client.caller.channels) == {"b", "news"}
    world.memory.flushErrors()


def test_nobodyToAsk(worlds):
    """Without anybody who can be asked, nothing is allowed."""
    world = worlds(chain=("tokens",))
    client = world.v1()
    frames(client)
    assert brief(world.ask(client, {"type": "subscribe", "channel": "a", "ref": 1})) == [(1, "error", "forbidden")]
