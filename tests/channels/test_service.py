from __future__ import annotations

import json
import re
from contextlib import ExitStack

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from twisted_ws import ChannelError, Limits, Reject, ServiceError, WebSocketServer, WebSocketService
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.channels.visitor import Visitor
from twisted_ws.client import HandshakeRefused
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.testing import Complaint, MemoryServer, serve
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.loop.wheel import Wheel


class World:
    """A server in memory, with channels as they are mounted by default."""

    def __init__(self, service=None, **limits):
        self.service = service or ChannelService(publish=True, wildcards=True, presence=True)
        self.memory = serve({"/channels/{channel}": self.service, "/channels": self.service}, limits=Limits(**limits))
        self.server = self.memory.server

    def raw(self, path):
        return self.memory.connect(path)

    def v1(self, path="/channels"):
        """Return a client of the subprotocol, and what it was sent first."""
        client = self.memory.connect(path, subProtocols=["twisted-ws.v1"])
        return client, answers(client)

    def publish(self, channel, *messages):
        return [self.memory.publish(channel, message) for message in messages]


def ask(client, text, **fields):
    """Send a request, and return what comes."""
    client.writeTextMessage(text or json.dumps(fields))
    return answers(client)


def answers(client):
    """Return the JSON that came; ids without their epoch, which differs in each run."""
    found = [json.loads(message) for message in client.readMessages()]
    for each in found:
        if each.get("id"):
            each["id"] = int(each["id"].partition(":")[2])
    return found


def subscribed(channel, number=0, recovered=False, count=0, **more):
    return {"type": "subscribed", "channel": channel, "id": number, "recovered": recovered, "count": count, **more}


def message(channel, number, data, **more):
    return {"type": "message", "channel": channel, "id": number, "data": data, **more}


@pytest.fixture
def worlds():
    with ExitStack() as stack:

        def world(*arguments, **options):
            made = World(*arguments, **options)
            stack.enter_context(made.memory)
            return made

        yield world


@pytest.fixture
def world(worlds):
    return worlds()


# What can be mounted.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"publish": "yes"}, "publish must be true or false, not 'yes'"),
        ({"policy": "drop"}, "close, drop-oldest or latest, not 'drop'"),
    ],
)
def test_options(options, text):
    """An invalid option is named."""
    with pytest.raises(ValueError, match=text):
        ChannelService(**options)


@pytest.mark.parametrize(
    ("name", "hook", "text"),
    [
        ("onSubscribe", lambda self, caller: None, r"onSubscribe must take \(caller, channel\)"),
        ("onSubscibe", lambda self, caller, channel: None, "onSubscibe is not an event: did you mean onSubscribe?"),
    ],
)
def test_wrongHooks(worlds, name, hook, text):
    """A hook with the wrong parameters, or a misspelt one, is a mistake that is named when the service is mounted."""
    with pytest.raises(ServiceError, match=text):
        worlds(type("Wrong", (ChannelService,), {name: hook})())


def test_hooksWithoutMethods(worlds):
    """A service may have fewer hooks than it names."""

    class Bare(WebSocketService):
        hooks = {"onRing": ("bell",)}

        def onOpen(self, caller):
            pass

    worlds(Bare())


# Raw.


def test_raw(world):
    """The address is the channel, and messages come as they were published."""
    client = world.raw("/channels/orders.42")
    assert world.publish("orders.42", "hi", b"\xff")[0].recipients == 1
    assert client.readMessages() == ["hi", b"\xff"]


def test_rawSeveral(world):
    """Several channels come over one connection, each once, patterns too."""
    client = world.raw("/channels/a?channel=b&channel=a&channel=c.*")
    world.publish("a", "1")
    world.publish("b", "2")
    world.publish("c.d", "3")
    world.publish("c", "4")
    assert client.readMessages() == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/channels", 400),
        ("/channels/a%20b", 400),
        ("/channels?channel=a..b", 400),
        ("/channels/a/b", 404),
        ("/channels/a/a", 404),
        ("/channels/a//", 404),
        ("/channels/a?" + "&".join([f"channel={n}" for n in range(128)]), 429),
    ],
)
def test_rawRefusals(world, path, status):
    """A URL that cannot be served is refused before there is a connection."""
    with pytest.raises(HandshakeRefused) as refused:
        world.raw(path)
    assert refused.value.status == status


def test_mountedWithoutChannel():
    """A service whose path has no {channel} has no channels below its path, and a client that asks for one is told at once."""
    with serve({"/channels": ChannelService()}) as server:
        for path, offers in ("/channels/news", []), ("/channels/news", ["twisted-ws.v1"]), ("/channels/a?channel=b", []):
            with pytest.raises(HandshakeRefused) as refused:
                server.connect(path, subProtocols=offers)
            assert (refused.value.status, b"{channel}" in refused.value.body) == (404, True)
        server.connect("/channels/", subProtocols=["twisted-ws.v1"])


def test_idempotencyOfAsked(worlds):
    """An idempotency key belongs to what the client sent, whatever the service publishes instead each time."""

    class Stamping(ChannelService):
        count = 0

        def onPublish(self, caller, channel, message):
            self.count += 1
            return f"{message} {self.count}"

    client, _ = worlds(Stamping()).v1("/channels/a")
    frame = '{"type":"publish","channel":"a","data":"%s","idempotencyKey":"k"}'
    first = ask(client, frame % "one")[-1]
    assert first["type"] == "published"
    assert ask(client, frame % "one") == [first]
    assert ask(client, frame % "two")[-1]["code"] == "key-reused"


def test_trailingSlash(world):
    """A slash at the end changes nothing."""
    client = world.raw("/channels/a/")
    world.publish("a", "1")
    assert client.readMessages() == ["1"]


def test_rawResume(world):
    """With `after`, missed messages come first; if some are gone, the connection is closed to say so."""
    last = world.publish("a", "1", "2", "3")[0].id
    assert world.raw(f"/channels/a?after={last}").readMessages() == ["2", "3"]
    assert world.raw("/channels/a?after=0").readMessages() == ["1", "2", "3"]
    assert world.raw(f"/channels?channel=a&channel=b&after=a={last}").readMessages() == ["2", "3"]
    assert world.raw("/channels/a?after=old:1").closed == (4410, "not recovered")
    assert world.raw("/channels/a?after=nonsense").closed[0] == 4400
    assert world.server.channels.count("a") == 3


def test_rawPublish(world):
    """What a raw client sends is published as text or binary, and it gets it, too."""
    client, other = world.raw("/channels/a"), world.raw("/channels?channel=a&channel=b")
    client.writeTextMessage("text")
    client.writeBinaryMessage(b"\xff")
    assert client.readMessages() == other.readMessages() == ["text", b"\xff"]
    other.writeTextMessage("which?")
    assert other.closed == (4403, "To publish, connect to one channel.")
    pattern = world.raw("/channels?channel=a.*")
    pattern.writeTextMessage("which?")
    assert pattern.closed[0] == 4403


def test_defaults(worlds):
    """By default clients may not publish, use patterns, or see who is there."""
    world = worlds(ChannelService())
    client = world.raw("/channels/a")
    client.writeTextMessage("x")
    assert client.closed == (4403, "Publishing is not allowed here.")
    assert world.raw("/channels?channel=*").closed == (4403, "Patterns are not allowed here.")
    client, _ = world.v1()
    assert ask(client, "", type="subscribe", channel="a", presence=True)[0]["code"] == "forbidden"
    assert ask(client, "", type="presence", channel="a")[0]["message"] == "Presence is not shown here."
    assert world.server.channels.count("a") == 0


def test_patternsAreNotForHooksToRemember():
    """An onSubscribe that looks at names is not asked about a pattern, which would be all of them, unless `wildcards` says so."""
    asked = []

    class Own(ChannelService):
        def onSubscribe(self, caller, channel):
            asked.append(channel)

    assert World(Own()).raw("/channels?channel=*").closed == (4403, "Patterns are not allowed here.")
    assert asked == []
    assert World(Own(wildcards=True)).raw("/channels?channel=*").isOpen()
    assert asked == ["*"]


# The subprotocol.


def test_welcome(worlds):
    """The first notice says how to reconnect; the channels of the URL follow."""
    world = worlds(reconnectDelay=2.5, pingInterval=20)
    last = world.publish("a", "1", "2")[0].id
    client, first = world.v1(f"/channels/a?channel=b&after=a={last}")
    assert client.negotiatedSubProtocol == "twisted-ws.v1"
    welcome = first.pop(0)
    assert re.fullmatch(r"[a-z0-9]{6}\.[1-9][0-9]*", welcome.pop("connection"))
    assert welcome == {"type": "welcome", "version": 1, "retry": 2500, "ping": 20}
    assert first == [subscribed("a", 1, True, 1), message("a", 2, "2"), subscribed("b")]


def test_subscribe(world):
    """Subscribe, get what was missed and what is live, unsubscribe: each answer has the request's ref."""
    last = world.publish("a", "1", {"x": [2]})[0].id
    client, first = world.v1()
    assert [each["type"] for each in first] == ["welcome"]
    assert ask(client, "", type="subscribe", channel="a", after=last, ref=1) == [
        subscribed("a", 1, True, 1, ref=1),
        message("a", 2, {"x": [2]}),
    ]
    world.publish("a", b"\x00\xff")
    world.server.publish("a", "k", key="key")
    live = answers(client)
    assert live == [{"type": "message", "channel": "a", "id": 3, "base64": "AP8="}, message("a", 4, "k", key="key")]
    assert ask(client, "", type="unsubscribe", channel="a", ref="u") == [{"type": "unsubscribed", "channel": "a", "ref": "u"}]
    world.publish("a", "5")
    assert ask(client, "", type="subscribe", channel="a") == [subscribed("a", 5)]
    assert ask(client, "", type="subscribe", channel="*", ref=0) == [subscribed("*", None, ref=0)]


def test_publishFrame(world):
    """A publication is answered with its id, after the message itself; a key publishes once."""
    client, _ = world.v1("/channels/a")
    for data in ("text", {"x": 1}, None, 5):
        got = ask(client, "", type="publish", channel="a", data=data, ref=9)
        number = got[1]["id"]
        assert got == [message("a", number, data), {"type": "published", "channel": "a", "id": number, "recipients": 1, "ref": 9}]
    assert ask(client, "", type="publish", channel="a", base64="AP8=")[0]["base64"] == "AP8="
    once = {"type": "publish", "channel": "a", "data": "x", "key": "k", "idempotencyKey": "i"}
    assert [each["type"] for each in ask(client, "", **once)] == ["message", "published"]
    assert [each["type"] for each in ask(client, "", **once)] == ["published"]


def test_ping(world):
    """A ping is answered."""
    client, _ = world.v1()
    assert ask(client, '{"type":"ping","ref":"a"}') == [{"type": "pong", "ref": "a"}]


@pytest.mark.parametrize(
    ("text", "code", "ref"),
    [
        ("", "bad-request", None),
        ("[]", "bad-request", None),
        ("{", "bad-request", None),
        ('{"ref":7}', "bad-request", 7),
        ('{"type":"nonsense","ref":"x"}', "bad-request", "x"),
        ('{"type":"welcome"}', "bad-request", None),
        ('{"type":"ping","ref":1.5}', "bad-request", None),
        ('{"type":"ping","ref":"' + "x" * 65 + '"}', "bad-request", None),
        ('{"type":"subscribe","ref":1}', "bad-request", 1),
        ('{"type":"subscribe","channel":5,"ref":1}', "bad-request", 1),
        ('{"type":"subscribe","channel":"","ref":1}', "bad-channel", 1),
        ('{"type":"subscribe","channel":"b","after":"5","ref":1}', "bad-position", 1),
        ('{"type":"subscribe","channel":"a","ref":1}', "already-subscribed", 1),
        ('{"type":"subscribe","channel":"b.*","presence":true,"ref":1}', "bad-channel", 1),
        ('{"type":"unsubscribe","channel":"b","ref":1}', "not-subscribed", 1),
        ('{"type":"publish","channel":"a","ref":1}', "bad-request", 1),
        ('{"type":"publish","channel":"a","data":1,"base64":"","ref":1}', "bad-request", 1),
        ('{"type":"publish","channel":"a","base64":"!","ref":1}', "bad-request", 1),
        ('{"type":"publish","channel":"a.*","data":1,"ref":1}', "bad-channel", 1),
        ('{"type":"publish","channel":"a","data":1,"key":"' + "k" * 129 + '","ref":1}', "too-large", 1),
        ('{"type":"presence","channel":"*","ref":1}', "bad-channel", 1),
    ],
)
def test_errors(world, text, code, ref):
    """A request that cannot be fulfilled gets an error with a code and the request's ref; the connection goes on."""
    client, _ = world.v1("/channels/a")
    (error,) = ask(client, text or " ")
    assert (error["type"], error["code"], error.get("ref")) == ("error", code, ref)
    assert error["message"]
    assert ask(client, '{"type":"ping"}') == [{"type": "pong"}]


def test_binaryFrame(world):
    """A binary message is not a request."""
    client, _ = world.v1()
    client.writeBinaryMessage(b"{}")
    assert answers(client) == [{"type": "error", "code": "bad-request", "message": "Requests must be text messages."}]


def test_badURL(worlds):
    """A URL with an invalid `after`, or with channels that the service did not look at, is an error; requests still work."""

    class Open(ChannelService):
        def onUpgrade(self, request):
            return self

    world = worlds(Open())
    for path, code in ("/channels/a?after=x", "bad-position"), ("/channels/a/b", "not-found"):
        client, first = world.v1(path)
        assert first[1]["code"] == code
        assert ask(client, '{"type":"ping"}') == [{"type": "pong"}]
    assert world.raw("/channels/a%20b").closed[0] == 4400


# Hooks.


class Guarded(ChannelService):
    """Admits callers by name, and records what it is asked."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []
        self.answer = None

    def onUpgrade(self, request):
        request.user = request.query.get("user", [None])[0]
        return self

    def onSubscribe(self, caller, channel):
        self.asked.append(("subscribe", caller.user, channel))
        return self.answer

    def onPublish(self, caller, channel, message):
        self.asked.append(("publish", channel, message))
        return self.answer

    def onUnsubscribe(self, caller, channel):
        self.asked.append(("unsubscribe", caller.user, channel, caller.channels))
        return self.answer

    def onPresence(self, caller, channel):
        self.asked.append(("presence", caller.user, channel))
        return {"name": caller.user}

    def onClose(self, caller, statusCode, reason):
        self.asked.append(("close", caller.channels))


def test_hooks(worlds):
    """Each hook is called in its turn, and every end of a subscription is reported before onClose."""
    world = worlds(Guarded(wildcards=True))
    client, _ = world.v1("/channels/a?user=ann")
    ask(client, '{"type":"subscribe","channel":"b.*"}')
    ask(client, '{"type":"publish","channel":"c","data":{"x":1}}')
    ask(client, '{"type":"unsubscribe","channel":"a"}')
    client.cut()
    assert world.service.asked == [
        ("subscribe", "ann", "a"),
        ("presence", "ann", "a"),
        ("subscribe", "ann", "b.*"),
        ("publish", "c", {"x": 1}),
        ("unsubscribe", "ann", "a", ("b.*",)),
        ("unsubscribe", "ann", "b.*", ()),
        ("close", ()),
    ]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "bad-request"),
        (401, "unauthorized"),
        (402, "forbidden"),
        (404, "not-found"),
        (429, "too-many-requests"),
        (500, "unavailable"),
    ],
)
def test_refuse(worlds, status, code):
    """A hook refuses by Reject: its status decides the code, its body is the reason."""

    class Closed(ChannelService):
        def onSubscribe(self, caller, channel):
            raise Reject(status, "not your order")

        async def onPublish(self, caller, channel, message):
            raise Reject(status)

    world = worlds(Closed())
    client, first = world.v1("/channels/a")
    refused = {"type": "error", "code": code, "message": "not your order", "channel": "a"}
    assert first[1:] == [refused]
    assert ask(client, '{"type":"subscribe","channel":"a","ref":1}') == [{**refused, "ref": 1}]
    assert ask(client, '{"type":"publish","channel":"a","data":1}')[0]["message"] == "The service refuses."
    assert world.raw("/channels/a").closed == (4000 + ChannelError.STATUSES[code], "not your order")


def test_tooManyValues(worlds):
    """JSON with more values than the limit is refused if a hook would get it as objects; otherwise, it is published."""
    seen = []

    class Looks(ChannelService):
        def onPublish(self, caller, channel, message):
            seen.append(message)

    world = worlds(Looks(), jsonValues=3)
    client, _ = world.v1("/channels/a")
    assert ask(client, '{"type":"publish","channel":"a","data":[1,2]}')[0]["data"] == [1, 2]
    refused = ask(client, '{"type":"publish","channel":"a","data":[1,2,3],"ref":1}')
    assert [(each["code"], each["ref"]) for each in refused] == [("too-large", 1)]
    assert ask(client, '{"type":"publish","channel":"a","data":",,,,,,"}')[0]["data"] == ",,,,,,"
    assert seen == [[1, 2], ",,,,,,"]
    client, _ = worlds(ChannelService(publish=True), jsonValues=3).v1("/channels/a")
    assert ask(client, '{"type":"publish","channel":"a","data":[1,2,3]}')[0]["data"] == [1, 2, 3]


def test_laterAnswers(worlds):
    """While a hook waits, later requests wait, and are answered in their order."""
    world = worlds(Guarded())
    client, _ = world.v1()
    world.service.answer = Deferred()
    assert ask(client, '{"type":"subscribe","channel":"a","ref":1}') == []
    assert ask(client, '{"type":"ping","ref":2}') == []
    answer, world.service.answer = world.service.answer, None
    answer.callback(None)
    assert [each["ref"] for each in answers(client)] == [1, 2]


def test_leftWhileAsked(worlds):
    """A client that leaves while a hook waits is subscribed to nothing."""
    world = worlds(Guarded())
    client, _ = world.v1()
    answer = world.service.answer = Deferred()
    ask(client, '{"type":"subscribe","channel":"a","ref":1}')
    client.cut()
    world.service.answer = None
    answer.callback(None)
    assert world.server.channels.count("a") == 0


def test_instead(worlds):
    """What onPublish returns is published instead; what cannot be encoded is the service's mistake."""
    world = worlds(Guarded())
    client, _ = world.v1("/channels/a")
    world.service.answer = {"stamped": True}
    assert ask(client, '{"type":"publish","channel":"a","data":"x"}')[0]["data"] == {"stamped": True}
    world.service.answer = {"set": object()}
    with capturedLogs() as logs:
        assert ask(client, '{"type":"publish","channel":"a","data":"x"}')[0]["code"] == "internal-error"
    assert logs[0]["handler"] == "onPublish"
    assert len(world.memory.flushErrors(TypeError)) == 1


def test_presenceThatIsLarge(worlds):
    """Of a user of whom a service says more than presence tells, the name is told; the log says why, and nobody is refused."""

    class Long(Guarded):
        def onPresence(self, caller, channel):
            return "x" * int(caller.request.query["size"][0])

    world = worlds(Long())
    with capturedLogs() as events:
        for size in 2046, 2047:
            client, _ = world.v1(f"/channels?user=ann{size}&size={size}")
            assert ask(client, '{"type":"subscribe","channel":"a"}')[0]["type"] == "subscribed"
    infos = [bytes(each.info) for each in world.server.channels.who("a")["members"]]
    assert infos == [b'"%s"' % (b"x" * 2046), b"null"]
    assert [each["bytes"] for each in events if each.get("event") == "presence.large"] == [2049]
    assert len(world.memory.flushErrors(Complaint)) == 1


def test_presenceThatIsNoJSON(worlds):
    """If what a service says about a user has no form in JSON, only that subscription fails, and the user is not listed."""

    class Odd(Guarded):
        def onPresence(self, caller, channel):
            return object()

    world = worlds(Odd())
    client, _ = world.v1("/channels?user=ann")
    assert ask(client, '{"type":"subscribe","channel":"a"}')[0]["code"] == "internal-error"
    assert ask(client, '{"type":"ping"}') == [{"type": "pong"}]
    assert world.server.channels.who("a") == {"count": 0, "members": []}
    assert len(world.memory.flushErrors(TypeError)) == 1


@pytest.mark.parametrize("hook", ["onSubscribe", "onPublish", "onPresence", "onUnsubscribe"])
@pytest.mark.parametrize("late", [False, True])
def test_brokenHook(worlds, hook, late):
    """A hook that raises is logged; the peer is told nothing of it, and its connection goes on."""

    def broken(self, caller, channel, *rest):
        if late:
            return fail(RuntimeError("secret"))
        raise RuntimeError("secret")

    world = worlds(type("Broken", (ChannelService,), {hook: broken})(publish=True))
    client, _ = world.v1()
    with capturedLogs() as logs:
        got = ask(client, '{"type":"subscribe","channel":"a"}')
        got += ask(client, '{"type":"publish","channel":"a","data":1}')
        got += ask(client, '{"type":"unsubscribe","channel":"a"}')
    assert [event["handler"] for event in logs if "log_failure" in event] == [hook]
    assert len(world.memory.flushErrors(RuntimeError)) == 1
    assert "secret" not in repr(got)
    assert [each["code"] for each in got if each["type"] == "error"][:1] == (
        ["internal-error"] if hook != "onUnsubscribe" else []
    )
    assert ask(client, '{"type":"ping"}') == [{"type": "pong"}]


def test_refusedByCode(worlds):
    """A hook may raise a ChannelError, with a code of its own choice."""

    class Full(ChannelService):
        def onSubscribe(self, caller, channel):
            raise ChannelError("too-many-channels", "five are enough")

    _, first = worlds(Full()).v1("/channels/a")
    assert first[1]["code"] == "too-many-channels"


def test_otherMembership(worlds):
    """A subclass that makes its own subscribers is not sent notices."""

    class Own(ChannelService):
        async def onOpen(self, caller):
            caller.subscribe("a")

    world = worlds(Own(publish=True))
    client = world.raw("/channels/a")
    client.writeTextMessage("x")
    client.writeBinaryMessage(b"x")
    world.publish("a", "1")
    assert client.readMessages() == ["1"]


# Presence, and what others command.


def test_presence(worlds):
    """A client that asks for it is told who is there, who comes and who goes."""
    world = worlds(Guarded(presence=True))
    watcher, _ = world.v1("/channels?user=bob")
    ann, _ = world.v1("/channels/a?user=ann")
    member = {"user": "ann", "info": {"name": "ann"}}
    bob = {"user": "bob", "info": {"name": "bob"}, "connections": 1}
    (got,) = ask(watcher, '{"type":"subscribe","channel":"a","presence":true}')
    there = {"count": 2, "members": [{**member, "connections": 1}, bob]}
    assert got == subscribed("a", presence=there)
    assert ask(watcher, '{"type":"presence","channel":"a","ref":1}') == [{"type": "presence", "channel": "a", **there, "ref": 1}]
    eve, _ = world.v1("/channels/a?user=eve")
    ann.cut()
    world.memory.advance(6)
    assert answers(watcher) == [
        {"type": "join", "channel": "a", "member": {"user": "eve", "info": {"name": "eve"}}},
        {"type": "leave", "channel": "a", "member": member},
    ]
    assert answers(eve) == []


def test_madeUpChannels(worlds):
    """A client that makes up channel names leaves no more channels behind than one address may."""
    world = worlds(channelsPerAddress=10)
    client, _ = world.v1()
    for number in range(100):
        assert ask(client, "", type="subscribe", channel=f"c{number}")[0]["type"] == "subscribed"
        assert ask(client, "", type="unsubscribe", channel=f"c{number}")[0]["type"] == "unsubscribed"
    assert len(world.server.channels.list(limit=1000).result) == 10
    refused = [ask(client, "", type="subscribe", channel=f"d{number}")[0] for number in range(11)]
    assert [each.get("code") for each in refused] == [None] * 10 + ["too-many-channels"]


@pytest.mark.exhaustive
def test_unreadReplies(worlds):
    """A client that does not read its answers is not read from, stays below the cap, and loses nothing when it reads again."""
    world = worlds(replyBuffer=20_000)
    client, _ = world.v1()
    world.publish("a", *["x" * 100] * 1000)
    client.pause()
    for number in range(3000):
        client.writeTextMessage(json.dumps({"type": "subscribe", "channel": "a", "after": "0", "ref": number}))
        client.writeTextMessage(json.dumps({"type": "unsubscribe", "channel": "a"}))
        client.writeTextMessage(json.dumps({"type": "ping"}))
    world.memory.advance(0)
    assert world.server.runtime.backlog.total < 90_000
    client.resume()
    found = []
    while more := answers(client):
        found += more
    assert [each["ref"] for each in found if each["type"] == "subscribed"] == [*range(3000)]
    assert [each["type"] for each in found if each["type"] in ("unsubscribed", "pong")] == ["unsubscribed", "pong"] * 3000
    assert world.server.runtime.backlog.total == 0


def test_leftWithReplies(worlds):
    """A client that leaves with unread answers is gone at once: no handler waits for it."""
    world = worlds(replyBuffer=20_000)
    client, _ = world.v1()
    client.pause()
    for _ in range(2000):
        client.writeTextMessage('{"type": "ping"}')
    client.cut()
    assert world.server.runtime.backlog.total == 0
    assert world.server.stop().called


def test_unsubscribedByOthers(world):
    """A client is told why somebody else ended its subscription; a raw connection ends with its last subscription."""
    client, _ = world.v1("/channels/a")
    raw = world.raw("/channels/a?channel=b")
    for channel in ("a", "b"):
        for caller in world.server.callers:
            world.server.channels.unsubscribe(caller.membership, channel, "moved")
    assert answers(client) == [{"type": "unsubscribed", "channel": "a", "reason": "moved"}]
    assert raw.closed == (4403, "moved")


# What HTTP asks.


def test_visitor(world):
    """The same rules apply over HTTP, where a visitor takes the place of a caller."""
    request = UpgradeRequest("/channels/a?channel=b", pathParams={"channel": "a"}, isSecure=True)
    request.user = "ann"
    visitor = Visitor(request)
    assert (visitor.user, visitor.channels, visitor.isSecure(), visitor.negotiatedSubProtocol) == ("ann", (), True, None)
    assert repr(visitor).endswith("'/channels/a'>")
    assert world.service.channelsOf(request) == ["a", "b"]
    visitor.membership = Subscriber(visitor)
    visitor.membership.channels = ("a",)
    assert visitor.channels == ("a",)
    info = Deferred.fromCoroutine(world.service.permit(visitor, "a", True))
    assert info.result is None
    published = Deferred.fromCoroutine(world.service.publishFor(visitor, "a", "hi", "k", "i"))
    assert published.result.recipients == 0


def test_aBroadcastIsNoMessageOfAChannel():
    """Clients that speak the subprotocol get a broadcast as a `broadcast`, others as it is."""
    world = World()
    client, _ = world.v1()
    ask(client, "", type="subscribe", channel="news")
    raw = world.raw("/channels/news")
    forged = {"type": "message", "channel": "news", "id": "e:9", "data": "forged"}
    assert [world.memory.broadcast(each) for each in (json.dumps(forged), forged, b"\x00")] == [2, 2, 2]
    world.publish("news", "real")
    assert raw.readMessages() == [json.dumps(forged), json.dumps(forged, separators=(",", ":")), b"\x00", "real"]
    assert answers(client) == [
        {"type": "broadcast", "data": json.dumps(forged)},
        {"type": "broadcast", "data": forged},
        {"type": "broadcast", "base64": "AA=="},
        message("news", 1, "real"),
    ]
    raw.close()
    assert world.memory.broadcast("again") == 1
    assert answers(client) == [{"type": "broadcast", "data": "again"}]


class _LateMembers(MemoryEngine):
    """Says who is there when it is told to, as another process does; `late` is None while it answers at once."""

    late = None

    def members(self, channel, after, limit, size):
        found = super().members(channel, after, limit, size)
        if self.late is None:
            return found
        self.late.append((later := Deferred(), found))
        return later

    def answer(self):
        answers, self.late = self.late, []
        for later, found in answers:
            later.callback(found)


def test_presenceBesideNews():
    """An answer that is older than what its client was told meanwhile is followed by that, once more; nothing else is."""
    clock, limits = Clock(), Limits(presenceDelay=1)
    wheel = Wheel(clock)
    engine = _LateMembers(limits, wheel, wheel.seconds)
    server = WebSocketServer(reactor=clock, engine=engine, limits=limits)
    server.mount("/", ChannelService(presence=True))
    memory = MemoryServer(server, clock)

    def connect(user, **more):
        client = memory.connect("/", user=user, subProtocols=["twisted-ws.v1"])
        ask(client, "", type="subscribe", channel="a", **more)
        return client

    watching, leaving = connect("bob", presence=True), connect("cid")
    assert answers(watching)[-1]["type"] == "join"
    engine.late = []
    ask(watching, "", type="presence", channel="a", cursor="b")
    connect("dan")
    connect("ann")
    leaving.close()
    memory.advance(2)
    told = [(each["type"], each["member"]["user"]) for each in answers(watching)]
    assert told == [("join", "dan"), ("join", "ann"), ("leave", "cid")]
    engine.answer()
    answer, *again = answers(watching)
    assert [each["user"] for each in answer["members"]] == ["bob", "cid"]
    assert [(each["type"], each["member"]["user"]) for each in again] == [("join", "dan"), ("leave", "cid")]
    ask(watching, "", type="presence", channel="a")
    engine.answer()
    (answer,) = answers(watching)
    assert [each["user"] for each in answer["members"]] == ["ann", "bob", "dan"]
