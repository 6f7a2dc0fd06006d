"""Rates of users, addresses and keys: how much they let through, what a client sees, and what they keep in memory."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.access.tokens import Tokens
from tests.memory import SteadyClock
from tests.traced import traced
from tests.web.worlds import Client
from twisted_ws import ConfigurationError, Limits, WebSocketServer, WebSocketService
from twisted_ws.access.namespaces import Namespaces
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.access.rates import PublicationRates, Rates
from twisted_ws.channels.service import ChannelService
from twisted_ws.errors import ChannelError
from twisted_ws.identity import GUEST, Identity
from twisted_ws.testing import serve
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.websocket.runtime import Runtime

ANN, BOB = Identity("ann"), Identity("bob")
# Steps of a client: how long it waits, in eighths of a second, before the next event.
WAITS = st.lists(st.integers(0, 40), max_size=150)


def made(**limits):
    clock = SteadyClock()
    return Rates(Runtime(clock, Limits(**limits))), clock


# How much.


@given(WAITS, st.sampled_from([0.5, 1, 3, 20]))
def test_neverMoreThanTheRate(waits, rate):
    """In no span of time are more events let through than its length at the rate, and a burst of one second."""
    rates, clock = made()
    times = []
    for wait in waits:
        clock.advance(wait / 8)
        if not rates.take("a", rate):
            times.append(clock.seconds())
    burst = max(rate, 1)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - begin) * rate + burst + 1e-6


@given(WAITS, st.sampled_from([0.5, 1, 3, 20]))
def test_theWaitIsTrue(waits, rate):
    """Who waits for as long as it was told is let through, and not before."""
    rates, clock = made()
    for wait in waits:
        clock.advance(wait / 8)
        told = rates.take("a", rate)
        if told:
            clock.advance(told * 0.9)
            assert rates.take("a", rate)
            clock.advance(told * 0.1 + 1e-6)
            assert not rates.take("a", rate)


@given(WAITS, st.sampled_from([0.5, 1, 3, 20]))
def test_whoeverKeepsToItIsNotRefused(waits, rate):
    """Who never sends faster than the rate is never refused, after whatever pauses."""
    rates, clock = made()
    for wait in waits:
        clock.advance(wait / 8 + 1 / rate + 1e-9)
        assert not rates.take("a", rate)


def test_oursIsNotTheirs():
    """What came in time while the server stood still is let through when it goes on, and nothing beyond."""
    rates, clock = made()
    assert [rates.take("a", 4) for _ in range(4)] == [0] * 4
    clock.advance(0.5)
    clock.jump(5)
    clock.advance(0.25)
    allowed = sum(not rates.take("a", 4) for _ in range(100))
    assert 5 * 4 <= allowed <= 5.75 * 4 + 4


def test_whatWaitedIsExcusedOnce():
    """Time in which nothing was taken from several connections of one user counts once, not for each."""
    rates, clock = made()
    while not rates.take("a", 2):
        pass
    clock.advance(10)
    allowed = sum(not rates.take("a", 2, 10.0) for _ in range(100))
    assert allowed == 10 * 2 + 2


# Memory.


def test_idleIsForgotten():
    """Who has been idle for as long as a burst takes costs nothing, however many they were."""
    rates, clock = made()
    for number in range(3000):
        rates.take(number, 2)
    assert len(rates) == 3000
    clock.advance(10)
    assert len(rates) == 0
    assert rates.wheelSlot is None
    rates.take("slow", 0.01)
    clock.advance(90)
    assert len(rates) == 1
    assert rates.take("slow", 0.01)
    clock.advance(20)
    assert len(rates) == 0


def test_addressesAreBounded():
    """A hundred thousand addresses at once take no more places than rateKeys, and no more than 500 bytes each."""
    rates, clock = made(rateKeys=5000)
    with traced() as held:
        for number in range(100_000):
            rates.take(("publish", "chat.*", number), 1)
        assert len(rates) == 5000
        assert held() < 5000 * 500
    clock.advance(10)
    assert len(rates) == 0


# Whose.


def decided(tables, *publications):
    """Return how many of each of these publications of (channel, identity, address) are let through, in one moment."""
    found = PublicationRates(Namespaces(tables), made()[0])
    return [sum(_passes(found, each) for _ in range(50)) for each in publications]


def _passes(found, publication):
    try:
        found.check(*publication)
    except ChannelError as error:
        return error.reason != "rate"
    return True


def test_byUserAndAddress():
    """A user has one rate from all addresses, guests and those whom nobody knows have one for each address."""
    tables = {"chat.*": {"publish-rate-per-user": 5, "publish-rate-per-ip": 10}}
    assert decided(
        tables,
        ("chat.a", ANN, "192.0.2.1"),
        ("chat.b", ANN, "192.0.2.2"),
        ("chat.a", BOB, "192.0.2.1"),
        ("chat.a", GUEST, "192.0.2.1"),
        ("chat.a", None, "192.0.2.1"),
        ("chat.a", None, "192.0.2.2"),
        ("chat.a", GUEST, "2001:db8::1"),
        ("chat.a", GUEST, "2001:db8::2"),
        ("chat.a", None, ""),
        ("other", ANN, "192.0.2.1"),
    ) == [5, 0, 5, 10, 0, 10, 10, 0, 50, 50]


def test_byNamespace():
    """The rate of the narrowest table that says one holds, for all names together for which it does; 0 is no limit."""
    tables = {
        "*": {"publish-rate-per-user": 3},
        "chat.*": {"publish-rate-per-user": 6},
        "chat.free.*": {"publish-rate-per-user": 0},
        "chat.quiet.*": {"publish": "users"},
    }
    assert decided(
        tables,
        ("a", ANN, ""),
        ("b", ANN, ""),
        ("chat.a", ANN, ""),
        ("chat.quiet.a", ANN, ""),
        ("chat.free.a", ANN, ""),
        ("a", GUEST, "192.0.2.1"),
    ) == [3, 0, 6, 0, 50, 50]


@pytest.mark.parametrize("value", [-1, True, "5", float("inf"), float("nan"), None])
def test_mistakes(value):
    """A rate that is none is refused at the start, with its table and name."""
    with pytest.raises(
        ConfigurationError, match=r'channels."a".publish-rate-per-ip must be a number of messages a second, 0 for'
    ):
        Namespaces({"a": {"publish-rate-per-ip": value}})


# On each transport.


class World:
    """A server in memory with channels that everybody may publish to, and its broadcast port."""

    def __init__(self, stack, tables=None, service=None, credentials=None, **limits):
        self.memory = stack.enter_context(
            serve(
                {},
                authenticate=["tokens", "guest"],
                authenticators={"tokens": Tokens(lambda: 0)},
                channelRules={"*": {"subscribe": "anyone", "publish": "anyone"}, **(tables or {})},
                unixTime=lambda: 0,
                limits=Limits(**limits),
            )
        )
        self.server, self.clock = self.memory.server, self.memory.clock
        service = service or ChannelService()
        self.server.mount("/channels/{channel}", service)
        self.server.mount("/channels", service)
        self.factory = self.server.factory(pagesSite(self.server))
        self.back = broadcastSite(self.server, credentials or Credentials(reactor=self.clock))

    def v1(self, *user, **options):
        client = self.memory.connect("/channels", headers=dict(carried(*user)), subProtocols=["twisted-ws.v1"], **options)
        client.readMessages()
        return client

    def http(self, channel, *user):
        headers = [f"{name}: {value}" for name, value in carried(*user)]
        return Client(self.factory, self.clock).post(f"/channels/{channel}", b"x", *headers)


def carried(*user):
    return [("Authorization", f"Bearer {each}.1000") for each in user]


def publish(client, channel, times=1):
    """Publish, and return the answers."""
    for _ in range(times):
        client.writeMessage({"type": "publish", "channel": channel, "data": 1})
    return [json.loads(each) for each in client.readMessages()]


@pytest.fixture
def worlds():
    with ExitStack() as stack:
        yield lambda *arguments, **options: World(stack, *arguments, **options)


TABLES = {"chat.*": {"publish-rate-per-user": 2, "publish-rate-per-ip": 4, "publish-rate-per-key": 3}}


def test_publishedBySocket(worlds):
    """A twisted-ws.v1 client is told that it publishes too often, and after how many seconds it may again; it stays connected."""
    world = worlds(TABLES)
    client = world.v1("ann")
    *good, bad = publish(client, "chat.a", 3)
    assert [each["type"] for each in good] == ["published"] * 2
    assert {**bad, "message": ""} == {
        "type": "error",
        "code": "too-many-requests",
        "reason": "rate",
        "retryAfter": 0.5,
        "channel": "chat.a",
        "message": "",
    }
    world.memory.advance(0.5)
    assert [each["type"] for each in publish(client, "chat.b", 2)] == ["published", "error"]
    assert client.isOpen()


def test_allTransportsTogether(worlds):
    """Publications of a user count together over all connections and transports; others' do not."""
    world = worlds(TABLES)
    assert publish(world.v1("ann"), "chat.a")[0]["type"] == "published"
    assert world.http("chat.a", "ann").status == 200
    assert publish(world.v1("ann"), "chat.a")[0]["code"] == "too-many-requests"
    response = world.http("chat.a", "ann")
    assert response.status == 429
    assert response.header("retry-after") == "1"
    assert response.json == {
        "error": "too-many-requests",
        "message": "You publish too often to this channel.",
        "channel": "chat.a",
        "reason": "rate",
    }
    assert world.http("chat.a", "bob").status == 200
    assert [world.http("chat.a").status for _ in range(5)] == [200] * 4 + [429]


def test_rawSocket(worlds):
    """A raw caller that publishes too often is closed with 4429, as with any refusal, and comes back later."""
    world = worlds(TABLES)
    client = world.memory.connect("/channels/chat.a", headers=dict(carried("ann")))
    for _ in range(3):
        client.writeMessage("x")
    client.readMessages()
    assert client.closed == (4429, "You publish too often to this channel.")


def test_refusedIsNotCounted(worlds):
    """What is not allowed anyway takes nothing of the rate, and what is too often is not shown to the service."""
    seen = []

    class Noting(ChannelService):
        def onPublish(self, caller, channel, message):
            seen.append(channel)

    world = worlds({**TABLES, "chat.closed": {"publish": "nobody"}}, Noting())
    client = world.v1("ann")
    assert {each["code"] for each in publish(client, "chat.closed", 20)} == {"forbidden"}
    publish(client, "chat.a", 20)
    assert seen == ["chat.a"] * 2


def test_slowServiceIsNotTheirs(worlds):
    """Messages that wait for a slow hook, and come all at once then, are not too often if they were sent in time."""
    waiting = []

    class Slow(ChannelService):
        def onPublish(self, caller, channel, message):
            waiting.append(Deferred())
            return waiting[-1]

    world = worlds(TABLES, Slow())
    client = world.v1("ann")
    answers = []
    for _ in range(20):
        client.writeMessage({"type": "publish", "channel": "chat.a", "data": 1})
        world.memory.advance(0.5)
    while waiting:
        waiting.pop().callback(None)
        answers += [json.loads(each)["type"] for each in client.readMessages()]
    assert answers == ["published"] * 20
    publish(client, "chat.a", 20)
    while waiting:
        waiting.pop().callback(None)
        answers += [json.loads(each)["type"] for each in client.readMessages()]
    assert "error" in answers


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"shop: {'s' * 32}\nops: {'o' * 32}\n")
    path.chmod(0o600)
    return path


def test_keys(worlds, keys):
    """An API key that publishes too often gets a 429 with the time to wait; other keys, and other channels, go on."""
    clock = Clock()
    world = worlds(TABLES, credentials=Credentials(keyFile=str(keys), reactor=clock))

    def post(channel, key):
        client = Client(world.back, world.clock)
        return client.post(f"/channels/{channel}", b"x", f"Authorization: Bearer {key * 32}")

    assert [post("chat.a", "s").status for _ in range(4)] == [200] * 3 + [429]
    response = post("chat.b", "s")
    assert (response.header("retry-after"), response.json["reason"]) == ("1", "rate")
    assert post("chat.a", "o").status == 200
    assert post("news", "s").status == 200
    batch = {"messages": [{"channel": each, "data": 1} for each in ("chat.a", "news", "chat.a", "chat.a", "chat.a")]}
    client = Client(world.back, world.clock)
    results = client.post(
        "/api/batch", json.dumps(batch).encode(), f"Authorization: Bearer {'o' * 32}", "Content-Type: application/json"
    ).json["results"]
    assert [each.get("error", "") for each in results] == ["", "", "", "too-many-requests", "too-many-requests"]
    assert results[-1]["retryAfter"] == pytest.approx(1 / 3, abs=0.001)


def test_changed(worlds):
    """Other rates count as soon as the rules are read again."""
    world = worlds(TABLES)
    client = world.v1("ann")
    assert publish(client, "chat.a", 3)[-1]["code"] == "too-many-requests"
    world.server.setChannelRules({"*": {"subscribe": "anyone", "publish": "anyone", "publish-rate-per-user": 4}})
    assert [each["type"] for each in publish(client, "chat.a", 5)] == ["published"] * 4 + ["error"]
    world.server.setChannelRules({"*": {"subscribe": "anyone", "publish": "anyone"}})
    assert [each["type"] for each in publish(client, "chat.a", 50)] == ["published"] * 50


def test_withoutKeys(worlds):
    """Where publishers need no key, they count together."""
    world = worlds(TABLES)
    statuses = [Client(world.back, world.clock).post("/channels/chat.a", b"x").status for _ in range(5)]
    assert statuses == [200] * 3 + [429] * 2


def test_servicesOwnCode(worlds):
    """What the server's own code publishes is not counted."""
    world = worlds(TABLES)
    for _ in range(20):
        world.server.publish("chat.a", "x")


# Messages.


class Echo(WebSocketService):
    def onTextMessage(self, caller, text):
        return text


def served(stack, authenticate=("tokens", "guest"), **limits):
    return stack.enter_context(
        serve(
            {"/echo": Echo()},
            authenticate=list(authenticate),
            authenticators={"tokens": Tokens(lambda: 0)},
            unixTime=lambda: 0,
            limits=Limits(**limits),
        )
    )


def test_messagesOfAUser():
    """A user's messages count over all connections: the one that sends too many is closed with 1008, and no other."""
    with ExitStack() as stack:
        memory = served(stack, messageRatePerUser=5)
        first, second, other = (memory.connect("/echo", headers=dict(carried(user))) for user in ("ann", "ann", "bob"))
        for client in (first, second, first, second, first, other):
            client.writeMessage("x")
            assert client.readMessages() == ["x"]
        second.writeMessage("x")
        memory.settle()
        assert second.closed == (1008, "too many messages")
        assert first.isOpen()
        memory.advance(0.2)
        first.writeMessage("y")
        assert first.readMessages() == ["y"]
        guest = memory.connect("/echo")
        for _ in range(100):
            guest.writeMessage("x")
        assert len(guest.readMessages()) == 100


def test_messagesOfAnAddress():
    """Those whom nobody knows count by address, together; users do not."""
    with ExitStack() as stack:
        memory = served(stack, messageRatePerIp=5)
        clients = [memory.connect("/echo", address="192.0.2.1") for _ in range(2)]
        far = memory.connect("/echo", address="192.0.2.2")
        ann = memory.connect("/echo", address="192.0.2.1", headers=dict(carried("ann")))
        for _ in range(5):
            clients[0].writeMessage("x")
        for _ in range(50):
            ann.writeMessage("x")
        for client in (clients[1], far):
            client.writeMessage("x")
        memory.settle()
        assert clients[1].closed == (1008, "too many messages")
        assert [each.isOpen() for each in (clients[0], far, ann)] == [True] * 3


def test_messagesByHTTP(worlds):
    """A message by POST counts with those of the user's connections, and gets a 429."""
    world = worlds(messageRatePerUser=3)
    publish(world.v1("ann"), "a", 2)
    assert [world.http("a", "ann").status for _ in range(2)] == [200, 429]


def test_nothingWithoutRates():
    """Without rates nobody is counted."""
    with ExitStack() as stack:
        memory = served(stack)
        client = memory.connect("/echo", headers=dict(carried("ann")))
        client.writeMessage("x")
        memory.settle()
        assert len(memory.server.rates) == 0
        assert WebSocketServer(reactor=Clock()).channelRules.rates is None
