"""Subscription tokens, on every transport: what they allow, which are refused, and how a subscription ends with its token."""

from __future__ import annotations

import json
from contextlib import ExitStack

import jwt
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from tests.access.kinds.support import SECRET, secretFile, settings
from tests.access.tokens import Tokens
from tests.turns import Counting
from tests.web.worlds import Client, EventClient
from twisted_ws.access.chain import Chain
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.refusals import EXPIRED, INVALID, AccessRefused, unavailable
from twisted_ws.access.refusals import unauthorized as refusal
from twisted_ws.access.revocations import Revocations
from twisted_ws.channels.permissions import VERIFYING
from twisted_ws.channels.service import ChannelService
from twisted_ws.engines.contract import Revocation
from twisted_ws.frames import maskedFrame
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import STEPS

BEGIN = 1_000_000.0
LEEWAY = 10


class World:
    """A server in memory: connections by simple tokens, and subscription tokens of a site with its secret."""

    jump = 0.0

    def __init__(self, stack, directory, chain=("tokens", "site"), rules=None, service=None):
        site = JWTAuthenticator(settings(directory, secret_file=secretFile(directory)), self.now)
        rules = {"*": {"subscribe": "granted", "publish": "granted", "presence": "granted", "wildcards": True}, **(rules or {})}
        self.memory = stack.enter_context(
            serve(
                {},
                unixTime=self.now,
                authenticate=chain,
                authenticators={"tokens": Tokens(self.now), "site": site},
                channelRules=rules,
                limits=Limits(pollWait=600),
            )
        )
        self.server = self.memory.server
        self.service = service or ChannelService()
        self.server.mount("/channels/{channel}", self.service)
        self.server.mount("/channels", self.service)
        self.factory = self.server.factory(pagesSite(self.server))

    def now(self):
        return BEGIN + (self.memory.clock.seconds() + self.jump if hasattr(self, "memory") else 0)

    def token(self, *channels, seconds=100, user="ann", key=SECRET, **more):
        """Sign a subscription token that ends so many seconds from now, without leeway."""
        claims = {"sub": user, "channels": channels, "exp": self.now() + seconds - LEEWAY, **more}
        return jwt.encode(claims, key, "HS256", {"typ": "twisted-ws-sub+jwt"})

    def v1(self, token="ann.10000"):
        client = self.memory.connect("/channels", headers={"Authorization": f"Bearer {token}"}, subProtocols=["twisted-ws.v1"])
        frames(client)
        return client

    def http(self):
        return Client(self.factory, self.memory.clock)

    def events(self, path, *headers):
        return EventClient(self.factory, self.memory.clock).open(path, ANN, *headers)

    def publish(self, channel, message):
        self.server.publish(channel, message)
        self.memory.settle()


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


def ask(client, **request):
    client.writeMessage(request)
    return frames(client)


ANN = "Authorization: Bearer ann.10000"


def carrying(token):
    return f"Channel-Token: {token}"


@pytest.fixture
def worlds(tmp_path):
    with ExitStack() as stack:
        yield lambda **options: World(stack, tmp_path, **options)


@pytest.fixture
def world(worlds):
    return worlds()


def test_everyTransport(world):
    """A subscription token lets its user have the channels that it names, on every transport, and no others."""
    token = world.token("orders.*", "news")
    client = world.v1()
    (answer,) = ask(client, type="subscribe", channel="orders.42", token=token, ref=1)
    assert (answer["type"], answer["ref"]) == ("subscribed", 1)
    assert ask(client, type="subscribe", channel="orders.*", token=token)[0]["type"] == "subscribed"
    assert world.events("/channels?channel=orders.42&channel=news", carrying(token)).head.status == 200
    assert world.http().get("/channels/news", ANN, carrying(token)).status == 200
    raw = world.memory.connect("/channels/news", headers={"Authorization": "Bearer ann.10000", "Channel-Token": token})
    assert raw.caller.channels == ("news",)
    # Without it, and for others.
    assert ask(client, type="subscribe", channel="news")[0]["code"] == "forbidden"
    assert ask(client, type="subscribe", channel="other", token=token)[0]["code"] == "forbidden"
    for path in "/channels/other", "/channels?channel=news&channel=other":
        assert world.events(path, carrying(token)).head.status == 403
        assert world.http().get(path, ANN, carrying(token)).status == 403
    assert world.events("/channels/news").head.status == 403


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda world: world.token("a", seconds=0), "expired"),
        (lambda world: world.token("a", user="bob"), "another-user"),
        (lambda world: world.token("a", key="x" * 32), "invalid"),
        (lambda world: jwt.encode({"sub": "ann", "channels": ["a"], "exp": world.now() + 60}, SECRET, "HS256"), "invalid"),
        (lambda world: "nonsense", "invalid"),
        (lambda world: "", "invalid"),
        (lambda world: world.token("a", jti="t1"), "revoked"),
    ],
)
def test_refused(worlds, make, reason):
    """A wrong subscription token is refused with its reason on every transport, also where none is needed; nothing ends."""
    world = worlds(rules={"a": {"subscribe": "anyone", "publish": "anyone"}})
    world.server.engine.revoke(Revocation("t1", None, 0, BEGIN + 1000))
    token = make(world)
    client = world.v1()
    assert ask(client, type="subscribe", channel="b", token=world.token("b"))[0]["type"] == "subscribed"
    for request in {"type": "subscribe"}, {"type": "publish", "data": 1}:
        (answer,) = ask(client, channel="a", token=token, ref="r", **request)
        assert {key: answer[key] for key in ("type", "code", "reason", "channel", "ref")} == {
            "type": "error",
            "code": "forbidden",
            "reason": reason,
            "channel": "a",
            "ref": "r",
        }
    assert client.caller.channels == ("b",)
    for answer in (
        world.events("/channels/a", carrying(token)).head,
        world.http().get("/channels/a", ANN, carrying(token)),
        world.http().post("/channels/a", b"x", ANN, carrying(token)),
    ):
        assert answer.status == 403
        body = json.loads(answer.body)
        assert (body["error"], body["reason"]) == ("forbidden", reason)
    raw = world.memory.connect("/channels/a", headers={"Authorization": "Bearer ann.10000", "Channel-Token": token})
    assert raw.closed[0] == 4403


def test_logged(world):
    """A refused subscription token is a line of the log, with user, address, authenticator and reason, and nothing of itself."""
    token = world.token("a", user="bob")
    with capturedLogs() as events:
        ask(world.v1(), type="subscribe", channel="a", token=token)
        world.http().get("/channels/a", ANN, carrying(token))
    lines = [*map(formatEvent, events)]
    why = "The subscription token is for another user. (another-user) by site"
    assert lines[0].startswith(f"127.0.0.1 sent a subscription token that is refused: {why}")
    assert events[0]["user"] == "ann"
    assert not [part for part in token.split(".") for line in lines if part in line]


def test_endsOneSubscription(world):
    """When a subscription token ends, with leeway, so does its subscription, no sooner; the connection and the others go on."""
    client = world.v1()
    ask(client, type="subscribe", channel="a", token=world.token("a", seconds=100))
    ask(client, type="subscribe", channel="b", token=world.token("b", seconds=200))
    world.memory.advance(99.9)
    assert frames(client) == []
    world.memory.advance(0.4)
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]
    assert client.caller.channels == ("b",)
    world.memory.advance(100)
    assert frames(client) == [{"type": "unsubscribed", "channel": "b", "reason": "expired"}]
    assert client.isOpen()


@pytest.mark.parametrize(
    ("query", "last"),
    [
        ("channel=a&channel=b", [f'{{"type":"unsubscribed","channel":"{each}","reason":"expired"}}' for each in "ab"]),
        ("channel=a", ['{"channel":"a","reason":"expired"}']),
    ],
)
def test_streams(world, query, last):
    """An event stream loses a channel when its token ends; the last one ends it, without the id that forbids to come back."""
    stream = world.events(f"/channels?{query}", carrying(world.token("a", "b", seconds=60)))
    stream.events()
    stream.advance(59.5)
    assert stream.events() == []
    stream.advance(1)
    assert [data for _, _, data in stream.events()] == last
    assert stream.ended
    assert "disconnected" not in stream.lastId


def test_streamsKeepWhatNeedsNoToken(worlds):
    """Of a stream with a token, the channels stay that need none."""
    world = worlds(rules={"news": {"subscribe": "anyone"}})
    stream = world.events("/channels?channel=a&channel=news", carrying(world.token("a", "news", seconds=60)))
    stream.events()
    stream.advance(61)
    assert stream.frames() == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]
    world.publish("news", "hello")
    assert [each["data"] for each in stream.frames()] == ["hello"]


def test_polls(world):
    """A long poll that waits is answered when its token ends; the next one is refused."""
    client = world.http()
    token = world.token("a", seconds=60)
    client.ask("/channels/a?wait=300", ANN, carrying(token))
    client.advance(59.5)
    assert client.responses() == []
    client.advance(1)
    (answer,) = client.responses()
    assert answer.status == 200
    again = world.http().get("/channels/a?wait=300", ANN, carrying(token))
    assert (again.status, json.loads(again.body)["reason"]) == (403, "expired")


@pytest.mark.parametrize(("isOpen", "status"), [(False, 403), (True, 200)])
def test_pollsRevoked(worlds, isOpen, status):
    """A long poll that waits is answered when its token is revoked, and gets no more of what needs it; the next is refused."""
    world = worlds(rules={"b": {"subscribe": "anyone"}} if isOpen else None)
    client, token = world.http(), world.token("a", "b", jti="t1")
    client.ask("/channels?channel=a&channel=b&wait=300", ANN, carrying(token))
    world.server.engine.revoke(Revocation("t2", None, 0, BEGIN + 1000))
    world.memory.settle()
    assert client.responses() == []
    world.server.engine.revoke(Revocation("t1", None, 0, BEGIN + 1000))
    world.server.publish("a", "secret")
    world.memory.settle()
    (answer,) = client.responses()
    assert (answer.status, json.loads(answer.body)["messages"]) == (200, [])
    assert list(world.server.channels.visitors) == []
    again = world.http().get("/channels/a?wait=300", ANN, carrying(token))
    assert (again.status, json.loads(again.body)["reason"]) == (403, "revoked")
    assert world.http().get("/channels/b", ANN).status == status


def countIn(world, monkeypatch, name):
    return Counting(world.server.runtime.turns, monkeypatch, Chain, name)


@pytest.mark.parametrize(
    ("name", "kind"), [("grantsOf", "subscribe"), ("grantsOf", "publish"), ("grantsOf", "history"), ("identify", "auth")]
)
def test_turns(worlds, monkeypatch, name, kind):
    """However many tokens a client sends at once, no turn of the reactor verifies more of them than fit into it."""
    world = worlds(chain=("site",) if name == "identify" else ("tokens", "site"))
    now = {"sub": "ann", "exp": world.now() + 1000}
    client = world.v1(jwt.encode(now, SECRET, "HS256") if name == "identify" else "ann.10000")
    counting = countIn(world, monkeypatch, name)
    more = {} if kind == "auth" else {"channel": "a", **({"data": 1} if kind == "publish" else {})}
    wrong = world.token("a", key="x" * 32)
    requests = [json.dumps({"type": kind, "token": wrong, "ref": ref, **more}).encode() for ref in range(300)]
    client.sendBytes(b"".join([maskedFrame(TEXT, each) for each in requests]))
    assert [each["ref"] for each in frames(client)] == [*range(300)]
    assert counting.count == 300
    assert counting.most <= STEPS // VERIFYING + 1


@pytest.mark.parametrize("isRaw", [False, True])
@pytest.mark.parametrize("isRight", [False, True])
def test_oncePerHandshake(world, monkeypatch, isRaw, isRight):
    """The token of a handshake is verified once, for however many channels it is; each is answered."""
    counting = countIn(world, monkeypatch, "grantsOf")
    token = world.token("*", **({} if isRight else {"key": "x" * 32}))
    names = [f"c{number}" for number in range(100)]
    client = world.memory.connect(
        "/channels?" + "&".join([f"channel={name}" for name in names]),
        headers={"Authorization": "Bearer ann.10000", "Channel-Token": token},
        subProtocols=[] if isRaw else ["twisted-ws.v1"],
    )
    assert counting.count == 1
    assert client.caller.channels == (tuple(names) if isRight else ())
    if isRaw:
        assert client.isOpen() is isRight
        assert isRight or client.closed[0] == 4403
    else:
        answers = frames(client)[1:]
        assert [(each["channel"], each.get("reason")) for each in answers] == [
            (name, None if isRight else "invalid") for name in names
        ]


def test_raw(world):
    """A raw WebSocket is closed with 4401 when the token of its last channel ends."""
    token = world.token("a", "b", seconds=60)
    raw = world.memory.connect(
        "/channels?channel=a&channel=b", headers={"Authorization": "Bearer ann.10000", "Channel-Token": token}
    )
    world.memory.advance(60.5)
    assert raw.closed == (4401, "expired")


def test_renewed(world):
    """Another subscribe with a new token lets a subscription go on, with no message lost or double."""
    client = world.v1()
    ask(client, type="subscribe", channel="a", token=world.token("a", seconds=60))
    world.memory.advance(50)
    assert ask(client, type="subscribe", channel="a", token=world.token("a", seconds=100), ref=1) == [
        {"type": "renewed", "channel": "a", "ref": 1}
    ]
    world.memory.advance(20)
    world.publish("a", "hello")
    assert [each["data"] for each in frames(client)] == ["hello"]
    world.memory.advance(81)
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]


def test_badRenewal(world):
    """A refused token changes nothing: a subscription goes on to the end of the one that it has."""
    client = world.v1()
    ask(client, type="subscribe", channel="a", token=world.token("a", seconds=60))
    assert ask(client, type="subscribe", channel="a", token=world.token("b", seconds=600))[0]["code"] == "forbidden"
    assert ask(client, type="subscribe", channel="a", token=world.token("a", user="bob"))[0]["reason"] == "another-user"
    assert ask(client, type="subscribe", channel="a")[0]["code"] == "already-subscribed"
    world.memory.advance(60.5)
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]


def test_subscribedAgain(worlds):
    """A subscription that has ended takes its token with it: one that is made later without a token goes on."""
    world = worlds(rules={"news": {"subscribe": "anyone"}})
    client = world.v1()
    ask(client, type="subscribe", channel="news", token=world.token("news", seconds=60))
    ask(client, type="unsubscribe", channel="news")
    ask(client, type="subscribe", channel="news")
    world.memory.advance(61)
    assert frames(client) == []
    assert client.caller.channels == ("news",)


def test_revokedLater(worlds):
    """What a token that is revoked has allowed ends at once, on open connections too, and nothing else does."""
    world = worlds(rules={"news": {"subscribe": "anyone"}})
    token, other = world.token("a", "news", jti="t1"), world.token("b", jti="t2")
    client = world.v1()
    for channel, each in ("a", token), ("news", token), ("b", other):
        ask(client, type="subscribe", channel=channel, token=each)
    stream = world.events("/channels/a?format=json", carrying(token))
    raw = world.memory.connect("/channels/a", headers={"Authorization": "Bearer ann.10000", "Channel-Token": token})
    stream.events()
    world.server.engine.revoke(Revocation("t1", None, 0, BEGIN + 1000))
    world.memory.settle()
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "revoked"}]
    assert stream.frames() == [{"type": "unsubscribed", "channel": "a", "reason": "revoked"}]
    assert (stream.ended, stream.lastId, raw.closed) == (True, "disconnected", (4403, "revoked"))
    assert client.caller.channels == ("news", "b")


@pytest.mark.parametrize("reason", ["revoked", "expired"])
def test_endsWhileAHookIsAsked(worlds, reason):
    """A token that ends while a hook is asked allows nothing when the hook has answered."""
    waiting = []

    class Slow(ChannelService):
        def onSubscribe(self, caller, channel):
            waiting.append(Deferred())
            return waiting[-1]

    world = worlds(service=Slow())
    client = world.v1()
    assert ask(client, type="subscribe", channel="a", token=world.token("a", seconds=5, jti="t1")) == []
    if reason == "revoked":
        world.server.engine.revoke(Revocation("t1", None, 0, BEGIN + 1000))
    else:
        world.memory.advance(6)
    waiting[0].callback(None)
    world.memory.settle()
    assert [each.get("reason") for each in frames(client)] == [None, reason]
    assert client.caller.channels == ()


@pytest.mark.parametrize("ending", ["token", "credentials"])
@pytest.mark.parametrize("reason", ["revoked", "expired"])
@pytest.mark.parametrize("query", ["", "?wait=100", "?before=", "POST"])
def test_endsWhileAHookIsAskedOverHTTP(worlds, query, reason, ending):
    """A request whose token or credentials end while a hook is asked is refused, and nothing is published or told."""
    waiting = []

    class Slow(ChannelService):
        def onSubscribe(self, caller, channel):
            waiting.append(Deferred())
            return waiting[-1]

        def onPublish(self, caller, channel, message):
            return self.onSubscribe(caller, channel)

    world = worlds(service=Slow())
    kept = world.server.publish("a", "secret").result.id
    seconds = {"token": 5 if ending == "token" else 1000, "credentials": 5 if ending == "credentials" else 1000}
    token = world.token("a", seconds=seconds["token"], jti="t1", publish=["a"])
    headers = [f"Authorization: Bearer ann.{seconds['credentials']}", carrying(token)]
    client = world.http()
    if query == "POST":
        client.ask("/channels/a", *headers, "Content-Type: text/plain", method="POST", body=b"more")
    else:
        client.ask(f"/channels/a{query}{kept if query == '?before=' else ''}", *headers)
    if reason == "expired":
        world.memory.advance(6)
    else:
        world.server.engine.revoke(Revocation("t1" if ending == "token" else "ann.5", None, 0, BEGIN + 1000))
    waiting[0].callback(None)
    world.memory.settle()
    (answer,) = client.responses()
    assert answer.status == (403 if ending == "token" else 401)
    assert json.loads(answer.body)["reason"] == reason
    assert world.server.publish("a", 1).result.id.endswith(":2")
    assert list(world.server.channels.visitors) == []


def test_withTheIdentity(world):
    """New credentials leave subscriptions with a token alone, and the connection ends with the credentials, not the tokens."""
    client = world.v1("ann.60")
    ask(client, type="subscribe", channel="a", token=world.token("a", seconds=300))
    assert [each["type"] for each in ask(client, type="auth", token="ann.400")] == ["auth"]
    world.memory.advance(299)
    assert frames(client) == []
    world.memory.advance(1.5)
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]
    world.memory.advance(100)
    assert client.closed == (4401, "expired")


def test_publishing(world):
    """A token may allow to publish, with POST, a request, or the subscription that it was for; `channels` alone does not."""
    token = world.token("a", publish=["a"])
    assert world.http().post("/channels/a", b"1", ANN, carrying(token), "Content-Type: text/plain").status == 200
    assert world.http().post("/channels/a", b"1", ANN, carrying(world.token("a"))).status == 403
    assert world.http().post("/channels/b", b"1", ANN, carrying(token)).status == 403
    client = world.v1()
    assert ask(client, type="publish", channel="a", data=1)[0]["code"] == "forbidden"
    assert ask(client, type="publish", channel="a", data=1, token=token)[0]["type"] == "published"
    ask(client, type="subscribe", channel="a", token=token)
    assert [each["type"] for each in ask(client, type="publish", channel="a", data=1)] == ["message", "published"]
    ask(client, type="subscribe", channel="b", token=world.token("b"))
    assert ask(client, type="publish", channel="b", data=1)[0]["code"] == "forbidden"


def test_presence(world):
    """Where presence is for those with grants, a subscription token is one."""
    client = world.v1()
    (answer,) = ask(client, type="subscribe", channel="a", presence=True, token=world.token("a"))
    assert answer["presence"]["count"] == 1
    assert ask(client, type="presence", channel="a")[0]["count"] == 1
    assert ask(client, type="presence", channel="b")[0]["code"] == "forbidden"
    answer = world.http().get("/channels/a?presence=true", ANN, carrying(world.token("a")))
    assert json.loads(answer.body)["presence"]["count"] == 1


def test_guests(worlds):
    """A guest may use a token for nobody, and no user may."""
    world = worlds(chain=("tokens", "site", "guest"))
    client = world.memory.connect("/channels", subProtocols=["twisted-ws.v1"])
    frames(client)
    nobodys = world.token("a", user="")
    assert ask(client, type="subscribe", channel="a", token=nobodys)[0]["type"] == "subscribed"
    assert ask(client, type="subscribe", channel="b", token=world.token("b"))[0]["reason"] == "another-user"
    assert ask(world.v1(), type="subscribe", channel="a", token=nobodys)[0]["reason"] == "another-user"


def test_nobodyReadsThem(worlds):
    """Where no authenticator reads subscription tokens, they are refused; where nobody is asked at all, they are ignored."""
    client = worlds(chain=("tokens",)).v1()
    assert ask(client, type="subscribe", channel="a", token="x")[0]["reason"] == "invalid"
    with serve({"/channels": ChannelService()}) as server:
        client = server.connect("/channels", subProtocols=["twisted-ws.v1"])
        frames(client)
        assert ask(client, type="subscribe", channel="a", token="x")[0]["type"] == "subscribed"


def test_clockSetAhead(world):
    """If the wall clock is set ahead, a subscription whose token has ended by it ends within a minute."""
    client = world.v1()
    ask(client, type="subscribe", channel="a", token=world.token("a", seconds=8000))
    world.jump = 9000
    world.memory.advance(61)
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": "expired"}]


def test_hooksThatClose(worlds):
    """A service may close a connection, or end its other subscriptions, when one ends with its token."""

    class Closing(ChannelService):
        def onUnsubscribe(self, caller, channel):
            if channel == "a":
                caller.unsubscribe("b")
            elif channel == "c":
                caller.close(4000, "no more")

    world = worlds(service=Closing())
    client = world.v1()
    for channel in "abcd":
        ask(client, type="subscribe", channel=channel, token=world.token(channel, seconds=60))
    world.memory.advance(61)
    assert [each["channel"] for each in frames(client)] == ["a"]
    assert client.closed == (4000, "no more")


class Reader:
    """An authenticator that answers about subscription tokens as it is told."""

    def __init__(self, answer):
        self.answer = answer

    def identify(self, request):
        return None

    def grantsOf(self, token, user):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((refusal(INVALID, "x"), refusal(EXPIRED, "x")), "expired"),
        ((refusal(EXPIRED, "x"), refusal(INVALID, "x")), "expired"),
        ((refusal(INVALID, "x"), refusal(INVALID, "x")), "invalid"),
        ((unavailable("x"), refusal(INVALID, "x")), ""),
    ],
)
def test_severalAuthenticators(answers, reason):
    """Of several authenticators that refuse a token, the one counts that knows most about it."""
    chain = Chain([(f"a{n}", Reader(each)) for n, each in enumerate(answers)], Revocations(lambda: 0), lambda: 0, lambda _: True)
    failed = []
    Deferred.fromCoroutine(chain.grantsOf("x", "ann")).addErrback(lambda failure: failed.append(failure.value))
    assert isinstance(failed[0], AccessRefused)
    assert failed[0].reason == reason


def test_waits(worlds):
    """A token whose key has to be fetched is waited for, and one that is not verified in time is "unavailable"."""
    world = worlds()
    late = Reader(Deferred())
    world.service.permissions.chain = Chain([("late", late)], Revocations(world.now), world.now, lambda _: True)
    client = world.v1()
    assert ask(client, type="subscribe", channel="a", token="x") == []
    world.memory.advance(world.server.limits.upgradeDeadline + 0.1)
    assert frames(client)[0]["code"] == "unavailable"


def test_aSubscriptionTokenIsNoLongerLife(world):
    """A connection that subscribes with a token at once still ends with its own credentials."""
    client = world.v1("ann.1000")
    assert ask(client, type="subscribe", channel="a", token=world.token("a", seconds=5000))[0]["type"] == "subscribed"
    world.memory.advance(999)
    assert client.isOpen()
    world.memory.advance(2)
    assert client.closed == (4401, "expired")


def test_endedBeforeARequest(world):
    """A request whose credentials have ended gets no answer but the close, so that a client repeats it with new ones."""
    client = world.v1("ann.100")
    ask(client, type="subscribe", channel="a", token=world.token("a", publish=["a"]))
    world.jump = 101  # the wall clock; the connection is reminded later
    assert ask(client, type="publish", channel="a", data=1, ref=7) == []
    assert client.closed == (4401, "expired")
    assert world.server.publish("a", 1).result.id.endswith(":1")
