"""The newest messages at a subscription, and the way back through what is kept."""

from __future__ import annotations

import json

import pytest

from tests.channels.listeners import Ear, LateEngine
from tests.channels.listeners import World as Channels
from tests.turns import Counting
from tests.web.worlds import Client, EventClient
from twisted_ws import ChannelError, ChannelService, Limits, Reject, WebSocketService
from twisted_ws.engines.contract import History
from twisted_ws.frames import maskedFrame
from twisted_ws.message import TEXT, Position
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import STEPS


class Guarded(ChannelService):
    """A service with a channel that nobody may have; it notes what it was asked."""

    def __init__(self):
        super().__init__(wildcards=True)
        self.asked = []

    def onSubscribe(self, caller, channel):
        self.asked.append(channel)
        if channel == "secret":
            raise Reject(403, "no")


class Keeps(WebSocketService):
    """A service of another kind, which subscribes its callers itself."""

    async def onTextMessage(self, caller, text):
        start = await caller.subscribe("a", last=int(text))
        return f"{start.missed} {start.recovered}"


class World:
    """A server in memory with what was published to channel a, by WebSocket and HTTP."""

    def __init__(self, count, **limits):
        self.service = Guarded()
        services = {"/channels": self.service, "/channels/{channel}": self.service, "/keeps": Keeps()}
        self.memory = serve(services, limits=Limits(**limits))
        self.factory = self.memory.server.factory(pagesSite(self.memory.server))
        self.ids = [self.publish(str(number)) for number in range(1, count + 1)]

    def publish(self, text, channel="a"):
        answer = []
        self.memory.server.publish(channel, text).addCallback(answer.append)
        self.memory.settle()
        return answer[0].id

    def v1(self, path="/channels"):
        client = self.memory.connect(path, subProtocols=["twisted-ws.v1"])
        return client, frames(client)[1:]

    def get(self, path):
        answer = Client(self.factory, self.memory.clock).get(path)
        return answer.status, json.loads(answer.body)

    def events(self, path):
        return EventClient(self.factory, self.memory.clock).open(path)


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


def ask(client, **request):
    client.writeMessage(request)
    return frames(client)


def texts(messages):
    return [each["data"] for each in messages]


@pytest.fixture
def world():
    world = World(5)
    with world.memory:
        yield world


@pytest.mark.parametrize(("last", "expected"), [(1, "5"), (3, "345"), (5, "12345"), (99, "12345"), (999_999_999, "12345")])
def test_last(world, last, expected):
    """A subscription may begin with the newest messages that are kept, then goes on, the same on every transport."""
    count, before = len(expected), f"{world.ids[0].split(':')[0]}:{5 - len(expected)}"
    client, _ = world.v1()
    subscribed, *past = ask(client, type="subscribe", channel="a", last=last)
    assert (subscribed["id"], subscribed["recovered"], subscribed["count"]) == (before, False, count)
    byURL, (first, *others) = world.v1(f"/channels/a?last={last}")
    assert first == subscribed
    raw = world.memory.connect(f"/channels/a?last={last}")
    own = world.memory.connect("/keeps")
    own.writeMessage(str(last))
    stream = world.events(f"/channels/a?format=json&last={last}")
    begun, *streamed = stream.frames()
    assert begun == subscribed
    polled = world.get(f"/channels/a?last={last}")[1]
    assert (polled["id"], polled["recovered"]) == (world.ids[-1], False)
    waited = world.get(f"/channels/a?last={last}&wait=20")[1]
    assert raw.readMessages() == [*expected]
    assert own.readMessages() == [*expected, f"{count} False"]
    for found in past, others, streamed, polled["messages"], waited["messages"]:
        assert texts(found) == [*expected]
    world.publish("6")
    assert [texts(frames(each)) for each in (client, byURL)] == [["6"], ["6"]]
    assert [raw.readMessages(), own.readMessages(), texts(stream.frames())] == [["6"]] * 3
    assert texts(world.get(f"/channels/a?after={polled['id']}&last={last}")[1]["messages"]) == ["6"]


def test_lastOfSeveral(world):
    """Each channel begins with its own newest messages; a pattern, and a channel with a position, do not."""
    for text in "xyz":
        world.publish(text, "b")
    path = f"/channels?channel=a&channel=b&channel=c&channel=b.*&last=2&after=a={world.ids[0]}"
    for messages in (
        [each for each in world.v1(path)[1] if each["type"] == "message"],
        [each for each in world.events(path).frames() if each["type"] == "message"],
        world.get(path)[1]["messages"],
        world.get(f"{path}&wait=5")[1]["messages"],
    ):
        assert sorted(texts(messages)) == ["2", "3", "4", "5", "y", "z"]


def test_comesBack(world):
    """A client that comes back to the same URL goes on where it was: its position wins."""
    stream = EventClient(world.factory, world.memory.clock).open("/channels/a?last=3", f"Last-Event-ID: {world.ids[3]}")
    assert [data for kind, _, data in stream.events() if kind == "message"] == ["5"]
    client, _ = world.v1()
    subscribed, *past = ask(client, type="subscribe", channel="a", last=3, after=world.ids[3])
    assert (subscribed["recovered"], texts(past)) == (True, ["5"])


def test_lastOfEach(world):
    """In a URL, each channel may have a number of its own, or none."""
    for text in "xyz":
        world.publish(text, "b"), world.publish(text, "c")
    path = "/channels?channel=a&channel=b&channel=c&last=a=1,b=2,d=9"
    for messages in (
        [each for each in world.v1(path)[1] if each["type"] == "message"],
        [each for each in world.events(path).frames() if each["type"] == "message"],
        world.get(path)[1]["messages"],
        world.get(f"{path}&wait=5")[1]["messages"],
    ):
        assert sorted(texts(messages)) == ["5", "y", "z"]


@pytest.mark.parametrize("last", ["0", "-1", "", "x", "1.5", "1234567890", "a=x", "b=0", "=", "a=1,"])
def test_badLast(world, last):
    """How many is a number of at least 1."""
    for path in f"/channels/a?last={last}", f"/channels/a?last={last}&wait=5":
        assert world.get(path)[1]["error"] == "bad-request"
    client, answers = world.v1(f"/channels/a?last={last}")
    assert [each.get("code") for each in answers] == ["bad-request"]
    for value in 0, -1, 1.5, "1":
        assert ask(client, type="subscribe", channel="b", last=value)[0]["code"] == "bad-request"


def test_badLastOfAService():
    """A service that asks for no message at all is told so."""
    with serve({"/keeps": Keeps()}) as server:
        client = server.connect("/keeps")
        with pytest.raises(ValueError, match="last must be 1"):
            client.caller.subscribe("a", last=0)


def test_back(world):
    """A client reads back page by page to the oldest message that is kept, each once, while others come."""
    client, _ = world.v1("/channels/a")
    answers, before = [], {}
    for _ in range(3):
        (answer,) = ask(client, type="history", channel="a", limit=2, ref="h", **before)
        assert (answer["type"], answer["channel"], answer["ref"]) == ("history", "a", "h")
        answers.append(texts(answer["messages"]))
        before = {"before": answer["next"]}
        world.publish("more")
        assert texts(frames(client)) == ["more"]
    assert answers == [["4", "5"], ["2", "3"], ["1"]]
    assert answer["next"] is None
    assert answer["messages"][0] == {"channel": "a", "id": world.ids[0], "data": "1"}


def test_backByHTTP(world):
    """The same by GET, from the newest on; `wait` does not count."""
    _, first = world.get("/channels/a?last=2")
    status, page = world.get(f"/channels/a?limit=2&wait=5&before={first['messages'][0]['id']}")
    assert (status, texts(page["messages"]), page["next"]) == (200, ["2", "3"], world.ids[1])
    assert world.get(f"/channels/a?limit=2&before={page['next']}")[1] == {
        "messages": [{"channel": "a", "id": world.ids[0], "data": "1"}],
        "next": None,
    }


@pytest.mark.parametrize("before", ["0", "x", "e:", "e:-1", "a=e:1"])
def test_badBefore(world, before):
    """A page ends before the message with an id, of one channel, and has at most as many messages as an answer."""
    client, _ = world.v1()
    assert ask(client, type="history", channel="a", before=before)[0]["code"] == "bad-position"
    assert ask(client, type="history", channel="a", limit=1001)[0]["code"] == "bad-request"
    assert ask(client, type="history", channel="a.*")[0]["code"] == "bad-channel"
    assert world.get(f"/channels/a?before={before}")[1]["error"] == "bad-position"
    for path in "/channels/a.*", "/channels?channel=a&channel=b":
        assert world.get(f"{path}{'&' if '?' in path else '?'}before=e:1")[1]["error"] == "bad-request"


def test_whoMayReadBack(world):
    """Who may subscribe may read what is kept; who is subscribed is not asked about again."""
    client, _ = world.v1()
    assert ask(client, type="history", channel="secret")[0]["code"] == "forbidden"
    assert world.get("/channels/secret?before=e:1")[0] == 403
    world.service.asked.clear()
    ask(client, type="history", channel="a")
    ask(client, type="subscribe", channel="a")
    ask(client, type="history", channel="a")
    assert world.service.asked == ["a", "a"]


def test_roomOfAPage():
    """A page has as many bytes as an answer may have, but at least one message; the next one goes on before it."""
    world = World(0, answerBytes=2000, maxSendBuffer=1 << 16)
    with world.memory:
        for letter in "abcd":
            world.publish(letter * (900 if letter != "b" else 9000))
        client, _ = world.v1()
        pages, before = [], {}
        while before.get("before", "") is not None:
            (answer,) = ask(client, type="history", channel="a", **before)
            pages.append([each[0] for each in texts(answer["messages"])])
            before = {"before": answer["next"]}
        assert pages == [["c", "d"], ["b"], ["a"]]


def test_pagesTakeTurns(monkeypatch):
    """However many pages a client asks for at once, no turn of the reactor reads more of them than fit into it."""
    world = World(1000, maxSendBuffer=1 << 24, replyBuffer=1 << 24)
    with world.memory:
        client, _ = world.v1()
        server = world.memory.server
        counting = Counting(server.runtime.turns, monkeypatch, type(server.channels), "newest")
        client.sendBytes(maskedFrame(TEXT, b'{"type":"history","channel":"a"}') * 20)
        answers = frames(client)
        assert [len(each["messages"]) for each in answers] == [1000] * 20
        assert counting.count == 20
        assert counting.most <= STEPS // (2 * 1000) + 1


def test_pageOfAnotherNumbering(world):
    """After a restart, nothing is before what was seen until then."""
    client, _ = world.v1()
    (answer,) = ask(client, type="history", channel="a", before="old:4")
    assert (answer["messages"], answer["next"]) == ([], None)
    (answer,) = ask(client, type="history", channel="none")
    assert (answer["messages"], answer["next"]) == ([], None)


class Late(Channels):
    """Channels over an engine that answers when it is told to."""

    def __init__(self):
        super().__init__(LateEngine())
        self.engine.start(self.node)
        self.ear = Ear("a")
        self.joining = self.channels.subscribe(self.ear, "a", last=3)
        self.engine.asked[0].callback(Position("e", 5))

    def history(self, *offsets, position=None):
        first = offsets[0] - 1 if offsets else position
        return History(Position("e", first), bool(offsets), [self.engine.message(each) for each in offsets])


def test_engineThatAnswersLater():
    """What is published while the newest are asked for follows them once, and makes them no more."""
    late = Late()
    late.engine.receive(late.engine.message(6))
    late.engine.asked[1].callback(late.history(position=5))
    assert late.engine.questions[2] == ("since", "a", Position("e", 2))
    late.engine.receive(late.engine.message(7))
    late.engine.asked[2].callback(late.history(3, 4, 5))
    late.engine.receive(late.engine.message(8))
    start = late.now(late.joining)
    assert (start.position, start.missed) == (Position("e", 4), 3)
    assert late.ear.heard == ["5", "6", "7", "8"]


def test_leavesMeanwhile():
    """Who leaves while the newest are asked for is not subscribed, and nothing is asked for it any more."""
    late = Late()
    failed = []
    late.joining.addErrback(failed.append)
    late.channels.unsubscribe(late.ear, "a")
    assert failed[0].check(ChannelError)
    assert len(late.engine.questions) == 2
    assert late.ear.heard == []
