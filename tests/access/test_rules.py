"""Who may do what with channels: the decision, from tables, and its explanation."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.access.tokens import Tokens
from tests.web.worlds import Client, EventClient
from twisted_ws import Grants, Identity, channelToken
from twisted_ws.access.namespaces import Namespaces
from twisted_ws.access.rules import LONGEST_TOKEN, ChannelAccess
from twisted_ws.channels.service import ChannelService
from twisted_ws.names import checkName
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite

TABLES = {
    "*": {"subscribe": "granted", "publish": "nobody"},
    "news.*": {"subscribe": "anyone", "wildcards": True},
    "news.internal.*": {"subscribe": "scope:staff"},
    "news.internal.menu": {"subscribe": "users"},
    "users.{user}.*": {"subscribe": "owner", "publish": ["owner", "scope:staff"], "presence": "owner"},
    "users.admin.*": {"subscribe": "scope:staff"},
    "rooms.*": {"subscribe": ["granted", "users"], "publish": "subscribers", "presence": "subscribers"},
    "~open": {"subscribe": "anyone"},
}
ANN = Identity("ann", subscribe=Grants(["orders.*", "private"]), publish=Grants(["orders.42"]))
STAFF = Identity("sam", scopes=frozenset({"staff"}))
GUEST = Identity("")


def access(tables=TABLES, isAuthenticated=True, **options):
    return ChannelAccess(
        Namespaces(tables), isAuthenticated, **{"publish": False, "presence": False, "wildcards": False, **options}
    )


@pytest.mark.parametrize(
    ("action", "channel", "identity", "allowed"),
    [
        # The longest that fits holds, and its silence is filled by the next.
        ("subscribe", "news.today", GUEST, True),
        ("subscribe", "news", GUEST, False),
        ("subscribe", "news.internal.pay", ANN, False),
        ("subscribe", "news.internal.pay", STAFF, True),
        ("subscribe", "news.internal.menu", ANN, True),
        ("subscribe", "news.internal.menu", GUEST, False),
        ("publish", "news.today", STAFF, False),
        # Grants.
        ("subscribe", "orders.42", ANN, True),
        ("subscribe", "orders", ANN, False),
        ("subscribe", "ordersx", ANN, False),
        ("subscribe", "private", ANN, True),
        ("subscribe", "private.x", ANN, False),
        ("subscribe", "orders.42", STAFF, False),
        # Owners; a literal token wins over {user}.
        ("subscribe", "users.ann.orders", ANN, True),
        ("subscribe", "users.bob.orders", ANN, False),
        ("subscribe", "users.ann", ANN, False),
        ("subscribe", "users.ann.orders", GUEST, False),
        ("publish", "users.ann.orders", STAFF, True),
        ("publish", "users.bob.orders", ANN, False),
        ("presence", "users.ann.orders", ANN, True),
        ("subscribe", "users.admin.x", Identity("admin"), False),
        ("subscribe", "users.admin.x", STAFF, True),
        ("publish", "users.admin.x", Identity("admin"), True),  # what the literal table does not say
        # Patterns: wildcards, and all that they stand for.
        ("subscribe", "news.*", ANN, False),  # not the internal ones
        ("subscribe", "news.*", STAFF, True),  # who has the scope, and is a user
        ("subscribe", "news.today.*", GUEST, True),
        ("subscribe", "orders.*", ANN, False),  # no wildcards there
        ("subscribe", "users.ann.*", ANN, False),
        ("subscribe", "*", ANN, False),
        # Names of the server.
        ("subscribe", "~me", Identity("~me", subscribe=Grants(["*"])), False),
        ("subscribe", "~open", GUEST, True),
        ("subscribe", "~open.x", GUEST, False),
    ],
)
def test_decisions(action, channel, identity, allowed):
    """One decision, from the tables, the grants of an identity and the name of a channel."""
    assert access().decide(action, channel, identity) is allowed


@pytest.mark.parametrize(
    ("tables", "pattern", "identity", "allowed"),
    [
        # A table within a pattern that says so closes the pattern, whoever may subscribe to each name.
        ({"*": {"subscribe": "anyone", "wildcards": True}, "news.*": {"wildcards": False}}, "*", GUEST, False),
        ({"*": {"subscribe": "anyone", "wildcards": True}, "news.*": {"wildcards": False}}, "shop.*", GUEST, True),
        ({"*": {"subscribe": "anyone", "wildcards": True}, "a.b": {"wildcards": False}}, "a.*", GUEST, False),
        # Where a literal token has won for all names of a pattern, the table with {user} has no say.
        (
            {"*": {"wildcards": True}, "users.{user}.*": {"subscribe": "owner"}, "users.news.*": {"subscribe": "anyone"}},
            "users.news.*",
            GUEST,
            True,
        ),
        (
            {"*": {"wildcards": True}, "users.{user}.*": {"subscribe": "owner"}, "users.news.*": {"subscribe": "anyone"}},
            "users.*",
            GUEST,
            False,
        ),
        ({"users.{user}.*": {"subscribe": "owner", "wildcards": True}}, "users.ann.*", ANN, True),
        ({"users.{user}.*": {"subscribe": "owner", "wildcards": True}}, "users.bob.*", ANN, False),
        # A table that is longer than the pattern holds for some of its names, also with {user}.
        (
            {"a.b.*": {"subscribe": "anyone", "wildcards": True}, "a.{user}.secret": {"subscribe": "nobody"}},
            "a.b.*",
            GUEST,
            False,
        ),
    ],
)
def test_patterns(tables, pattern, identity, allowed):
    """Who may subscribe to a pattern may subscribe to every channel that it stands for, and each table within allows patterns."""
    assert access(tables).decide("subscribe", pattern, identity) is allowed


def test_subscribers():
    """Who is subscribed to a channel may publish there, and see who is there."""
    assert access().decide("publish", "rooms.1", ANN, ("rooms.1",))
    assert not access().decide("publish", "rooms.1", ANN, ("rooms.2", "rooms.*"))
    assert access().decide("presence", "rooms.1", ANN, ("rooms.1",))


def test_defaults():
    """Without rules: where clients are asked who they are, grants to subscribe and nothing else, unless the service allows it."""
    asked, open_ = access({}), access({"x": {}}, isAuthenticated=False)
    assert asked.decide("subscribe", "orders.1", ANN)
    assert not asked.decide("subscribe", "news", ANN)
    assert not asked.decide("publish", "orders.42", ANN)
    assert access({"*": {"publish": "granted"}}).decide("publish", "orders.42", ANN)
    assert not access({"*": {"publish": "granted"}}).decide("publish", "orders.1", ANN)
    assert not asked.decide("presence", "orders.1", ANN)
    assert open_.decide("subscribe", "news", None)
    assert not open_.decide("publish", "news", None)
    assert access({}, publish=True).decide("publish", "news", GUEST)
    assert access({}, presence=True).decide("presence", "news", GUEST)
    granted = Identity("ann", subscribe=Grants(["orders.*"]))
    assert access({}, wildcards=True).decide("subscribe", "orders.*", granted)
    assert access({}, wildcards=True).decide("subscribe", "orders.eu.*", granted)
    assert not access({}, wildcards=True).decide("subscribe", "*", granted)


@pytest.mark.parametrize(
    "user", ["a.b", "*", "~me", "auth0|6123", "ann@example.org", "\U0001f600" * 128, "x" * 128, "~h", "..", "%2e"]
)
def test_strangeUsers(user):
    """No user's name lets anybody stand inside what is another's; each can have their own."""
    own = f"users.{channelToken(user)}.orders"
    checkName(own, 128)
    everybody = access()
    assert everybody.decide("subscribe", own, Identity(user)) is True
    for other in ("ann", "a", "b", "h", user + "x" if len(user) < 128 else "y"):
        assert not everybody.decide("subscribe", own, Identity(other))
        assert not everybody.decide("subscribe", f"users.{channelToken(other)}.orders", Identity(user))


# Those of the browser client, too.
VECTORS = json.loads((Path(__file__).parents[2] / "js" / "test" / "channel-tokens.json").read_text())


@pytest.mark.parametrize(("user", "token"), VECTORS.items())
def test_tokens(user, token):
    """A user's name as a token of a channel's name."""
    assert channelToken(user) == token


@given(st.text(min_size=1, max_size=128), st.text(min_size=1, max_size=128))
def test_tokensDiffer(one, other):
    """Two users never have the same token, and each is a legal one, no longer than 64 characters."""
    try:
        tokens = channelToken(one), channelToken(other)
    except UnicodeEncodeError:
        return
    assert (tokens[0] == tokens[1]) is (one == other)
    for token in tokens:
        assert len(token) <= LONGEST_TOKEN
        checkName(token, 128)


def test_explained():
    """Each step of a decision is told: the table, who may, and who said so."""
    steps = []
    access().decide("publish", "users.bob.orders", ANN, steps=steps)
    assert steps == [
        ('users.bob.orders falls under channels."users.{user}.*"', ("channels", "users.{user}.*")),
        ('publish = [owner, scope:staff] (channels."users.{user}.*"): no', ("channels", "users.{user}.*", "publish")),
    ]
    steps.clear()
    access().decide("publish", "users.admin.x", Identity("admin"), steps=steps)
    assert steps[1].text == 'publish = [owner, scope:staff] (channels."users.{user}.*"): owner, yes'
    steps.clear()
    access().decide("subscribe", "*", ANN, steps=steps)
    assert steps[1] == ("wildcards = false (by default)", ())


ASKING = {
    "*": {"subscribe": ["ask", "granted"], "publish": "ask", "wildcards": True},
    "b.*": {"subscribe": "users"},
    "c": {"wildcards": False},
}


@pytest.mark.parametrize(
    ("action", "channel", "identity", "answers"),
    [
        # Without an answer, with a yes, with a no.
        ("subscribe", "a", GUEST, (None, True, False)),
        ("publish", "a", ANN, (None, True, False)),
        ("subscribe", "orders.1", ANN, (True, True, True)),  # granted: nobody need be asked
        ("subscribe", "b.a", GUEST, (False, False, False)),  # not for the back end to say
        ("subscribe", "a.*", GUEST, (None, True, False)),
        ("subscribe", "a", None, (False, False, False)),  # somebody whom nobody asks who they are
        ("subscribe", "*", ANN, (False, False, False)),  # closed by the table c
    ],
)
def test_asking(action, channel, identity, answers):
    """What only the back end can say is neither yes nor no until it has said so; a rule or grant that says yes comes before."""
    found = access(ASKING)
    assert tuple(found.decide(action, channel, identity, asked=asked) for asked in (None, True, False)) == answers


# On every transport.


class Early(Tokens):
    """The tokens of tests; those that end before 1,000 have the scope ``early``."""

    def identify(self, request):
        found = super().identify(request)
        return found and replace(found, scopes=frozenset({"early"} if found.expiresAt < 1000 else ()))


class World:
    """A server that asks for tokens and has rules."""

    def __init__(self, stack, tables):
        self.hooks = []

        class Service(ChannelService):
            def onSubscribe(service, caller, channel):
                self.hooks.append(channel)

        self.memory = stack.enter_context(
            serve(
                {},
                unixTime=lambda: 0.0,
                channelRules=tables,
                authenticate=["tokens", "guest"],
                authenticators={"tokens": Early(lambda: 0.0)},
            )
        )
        service = Service()
        for path in "/channels/{channel}", "/channels":
            self.memory.server.mount(path, service)
        self.factory = self.memory.server.factory(pagesSite(self.memory.server))

    def tries(self, channel, user):
        """Return what each transport answers to a subscription: a status."""
        headers = {} if user is None else {"Authorization": f"Bearer {user}.1000"}
        lines = [f"{name}: {value}" for name, value in headers.items()]
        raw = self.memory.connect(f"/channels/{channel}", headers=headers)
        framed = self.memory.connect("/channels", headers=headers, subProtocols=["twisted-ws.v1"])
        framed.writeMessage({"type": "subscribe", "channel": channel})
        answer = [json.loads(each) for each in framed.readMessages()][-1]
        yield 403 if raw.closed and raw.closed[0] == 4403 else 200
        yield 403 if answer.get("code") == "forbidden" else 200
        yield EventClient(self.factory, self.memory.clock).open(f"/channels/{channel}", *lines).head.status
        yield Client(self.factory, self.memory.clock).get(f"/channels/{channel}", *lines).status


@pytest.fixture
def worlds():
    with ExitStack() as stack:
        yield lambda tables: World(stack, tables)


@pytest.mark.parametrize(
    ("channel", "user", "status"),
    [
        ("users.ann.x", "ann", 200),
        ("users.ann.x", "bob", 403),
        ("users.ann.x", None, 403),
        ("news.a", None, 200),
        ("~x", "ann", 403),
    ],
)
def test_transports(worlds, channel, user, status):
    """The same decision on every transport, before the service's hook, which is not asked about what is refused."""
    world = worlds(TABLES)
    assert [*world.tries(channel, user)] == [status] * 4
    assert bool(world.hooks) is (status == 200)


def test_publishing(worlds):
    """Rules decide on publishing too, over WebSocket and by POST; nothing has to be allowed in code."""
    world = worlds({"*": {"subscribe": "anyone", "publish": "users"}, "rooms.*": {"publish": "subscribers"}})
    auth = "Authorization: Bearer ann.1000"

    def post(path, *headers):
        return Client(world.factory, world.memory.clock).post(path, b"x", "Content-Type: text/plain", *headers)

    assert post("/channels/a", auth).status == 200
    answer = post("/channels/a")
    assert (answer.status, json.loads(answer.body)["error"], json.loads(answer.body)["channel"]) == (403, "forbidden", "a")
    assert post("/channels/rooms.1", auth).status == 403
    client = world.memory.connect("/channels/rooms.1", headers={"Authorization": "Bearer ann.1000"})
    client.writeTextMessage("hello")
    assert client.readTextMessage() == "hello"


def test_presenceForSubscribers(worlds):
    """Who asks together with a subscription who is on a channel is one of its subscribers, on every transport."""
    world = worlds({"*": {"subscribe": "users", "presence": "subscribers"}, "b": {"presence": "nobody"}})
    auth = {"Authorization": "Bearer ann.1000"}
    client = world.memory.connect("/channels", headers=auth, subProtocols=["twisted-ws.v1"])
    client.readMessages()
    for channel, kind in ("a", "subscribed"), ("b", "error"):
        client.writeMessage({"type": "subscribe", "channel": channel, "presence": True})
        answer = json.loads(client.readMessages()[-1])
        assert answer["type"] == kind
    client.writeMessage({"type": "presence", "channel": "c"})
    assert json.loads(client.readMessages()[-1])["code"] == "forbidden"
    for path, status in ("/channels/a?format=json&presence=true", 200), ("/channels/b?format=json&presence=true", 403):
        line = "Authorization: Bearer ann.1000"
        assert EventClient(world.factory, world.memory.clock).open(path, line).head.status == status
        assert Client(world.factory, world.memory.clock).get(path, line).status == status


def test_reservedNamesArePrivate(worlds):
    """A subscriber to every channel gets nothing of those of the server."""
    world = worlds({"*": {"subscribe": "anyone", "wildcards": True}, "~x": {"subscribe": "nobody"}})
    client = world.memory.connect("/channels/*", headers={"Authorization": "Bearer ann.1000"})
    for channel, message in ("~x", "a"), ("x", "b"):
        world.memory.publish(channel, message)
    assert [*client.readMessages()] == ["b"]


def test_withoutRulesNoNameIsReserved():
    """Without rules and authenticators ``*`` stands for every channel."""
    with serve({"/channels/{channel}": ChannelService(wildcards=True)}) as memory:
        client = memory.connect("/channels/*")
        memory.publish("~x", "a")
        assert [*client.readMessages()] == ["a"]


def test_afterARefresh(worlds):
    """A subscription that the new credentials do not allow any more is ended; the others go on."""
    world = worlds({"*": {"subscribe": "anyone"}, "a": {"subscribe": "scope:early"}})
    client = world.memory.connect("/channels", headers={"Authorization": "Bearer ann.500"}, subProtocols=["twisted-ws.v1"])
    client.readMessages()
    for channel in ("a", "b"):
        client.writeMessage({"type": "subscribe", "channel": channel})
    assert [json.loads(each)["type"] for each in client.readMessages()] == ["subscribed", "subscribed"]
    client.writeMessage({"type": "auth", "token": "ann.1000"})
    first, second = (json.loads(each) for each in client.readMessages())
    assert first["type"] == "auth"
    assert second == {"type": "unsubscribed", "channel": "a", "reason": "no longer allowed"}
    assert client.caller.channels == ("b",)
