from __future__ import annotations

import json
import re
import sys
import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs

from tests.channels.listeners import Ear
from tests.web.worlds import EventClient, LateEngine, World
from twisted_ws import Reject, frames
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers import formats
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.message import Kind, Publication, parseAfter
from twisted_ws.web.channels import events, stream


def subscribed(channel: str, place: str = "e:0", recovered: bool = False, count: int = 0) -> tuple[str, str, str]:
    """The beginning of a raw stream."""
    answer = {"channel": channel, "id": place, "recovered": recovered, "count": count}
    return "subscribed", place, json.dumps(answer, separators=(",", ":"))


def test_head() -> None:
    """The head announces an event stream, in chunks, which nobody may store, change or hold back."""
    client = World().events()
    assert client.head.status == 200
    assert client.head.header("content-type") == "text/event-stream; charset=utf-8"
    assert client.head.header("cache-control") == "no-store, no-transform"
    assert client.head.header("x-accel-buffering") == "no"
    assert client.head.header("connection") == "close"
    assert client.head.header("transfer-encoding") == "chunked"
    assert client.head.header("content-encoding") is None
    assert client.head.header("vary") == "Accept, Accept-Encoding, Origin"


def test_raw() -> None:
    """A stream of one channel has its messages as they were published, each with its id."""
    world = World()
    client = world.events()
    assert client.events() == [subscribed("a")]
    world.publish("a", "hello", {"x": 1}, b"\0\xff", "")
    world.publish("b", "not for us")
    assert client.events() == [
        ("message", "e:1", "hello"),
        ("message", "e:2", '{"x":1}'),
        ("binary", "e:3", "AP8="),
        ("message", "e:4", ""),
    ]


def test_eventIsChunk() -> None:
    """Each event is a chunk of its own, which a client can pass on as it comes, and each block has data."""
    world = World()
    client = world.events()
    for message in ("hello", "x" * 5000):
        world.publish("a", message)
    size, _, rest = client.take().partition(b"\r\n")
    assert rest[int(size, 16) :].startswith(b"\r\n")
    assert re.fullmatch(rb"retry: \d+\nevent: subscribed\nid: e:0\ndata: [^\n]+\n\n", rest[: int(size, 16)])
    assert rest[int(size, 16) + 2 :] == b"15\r\nid: e:1\ndata: hello\n\n\r\n1398\r\nid: e:2\ndata: " + b"x" * 5000 + b"\n\n\r\n"


@pytest.mark.parametrize("path", ["/channels/a", "/channels/a?channel=b"])
def test_http10(path: str) -> None:
    """A client of HTTP/1.0 gets the same events without chunks, and the stream ends with its connection."""
    world = World()
    client = world.client()
    client.send(f"GET {path} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
    world.publish("a", "hello", "again")
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"Connection: close" in head
    assert body.startswith(b"retry: ")
    assert body.endswith(b"\n\n")
    assert (body.count(b"hello"), body.count(b"again"), body.count(b"\r")) == (1, 1, 0)
    world.server.stop()
    assert client.take().endswith(b"\n\n")
    assert client.transport.writeClosed


def test_retry() -> None:
    """Each client is given its own random delay for reconnecting, between the server's delay and twice that."""
    world = World(reconnectDelay=3)
    clients = [world.events() for _ in range(50)]
    for client in clients:
        assert len(client.events()) == 1
        assert 3000 <= client.retry <= 6000
    assert len({client.retry for client in clients}) > 10


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines(end: str) -> None:
    """Whatever the line ends of a text, its lines arrive, and none of them can be taken for a field."""
    world = World()
    client = world.events()
    client.events()
    world.publish("a", end.join(["one", "id: 7", " three", ""]))
    assert client.events() == [("message", "e:1", "one\nid: 7\n three\n")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_linesAreNoObjects(end: str) -> None:
    """Encoding a text of very many lines makes a few copies of it, and no object for each line."""
    payload = (end * 500_000).encode()
    publication = Publication("a", "e", 1, Kind.TEXT, payload, None, 0.0)
    tracemalloc.start()
    try:
        event = events.rawEvent(publication)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert event.payload == b"id: e:1\n" + b"data: \n" * 500_001 + b"\n"
    assert peak < 5 * len(event.payload)


def test_json() -> None:
    """With format=json, each event is a frame of the subprotocol."""
    world = World()
    client = world.events("/channels/a?format=json")
    assert client.frames() == [{"type": "subscribed", "channel": "a", "id": "e:0", "recovered": False, "count": 0}]
    world.publish("a", "x\ny", b"\0", key="k")
    assert client.frames() == [
        {"type": "message", "channel": "a", "id": "e:1", "key": "k", "data": "x\ny"},
        {"type": "message", "channel": "a", "id": "e:2", "key": "k", "base64": "AA=="},
    ]
    assert client.lastId == "e:2"


@pytest.mark.parametrize("how", ["header", "after", "lastEventId"])
def test_resume(how: str) -> None:
    """A client that comes back with its last id gets all that it missed, and then what is new."""
    world = World()
    world.publish("a", *"1234")
    client = world.events("/channels/a", "Last-Event-ID: e:2") if how == "header" else world.events(f"/channels/a?{how}=e:2")
    assert client.events() == [subscribed("a", "e:2", True, 2), ("message", "e:3", "3"), ("message", "e:4", "4")]
    world.publish("a", "5")
    assert client.events() == [("message", "e:5", "5")]


def test_headerWins() -> None:
    """The header takes precedence over the URL, which an EventSource never changes."""
    world = World()
    world.publish("a", *"123")
    assert world.events("/channels/a?after=0", "Last-Event-ID: e:2").events()[0] == subscribed("a", "e:2", True, 1)


@pytest.mark.parametrize(("after", "count"), [("old:2", 3), ("e:9", 0)])
def test_notRecovered(after: str, count: int) -> None:
    """A client that cannot get everything it missed is told so."""
    world = World()
    world.publish("a", *"123")
    first = world.events("/channels/a", f"Last-Event-ID: {after}").events()[0]
    assert json.loads(first[2])["recovered"] is False
    assert json.loads(first[2])["count"] == count


def where(text: str, *channels: str) -> dict[str, int]:
    """Read a cursor: the offset in each channel."""
    found = parseAfter(text, channels)
    assert all(position.isIn("e") for position in found.values())
    return {channel: position.offset for channel, position in found.items()}


def test_cursor() -> None:
    """A stream of several channels is JSON, and each id has the positions in all of them, so one id resumes it, in any order."""
    world = World()
    client = world.events("/channels/a?channel=b")
    assert [(where(place, "a", "b"), json.loads(data)["channel"]) for _, place, data in client.events()] == [
        ({"a": 0, "b": 0}, "a"),
        ({"a": 0, "b": 0}, "b"),
    ]
    world.publish("b", "1")
    world.publish("a", "2")
    assert [where(place, "a", "b") for _, place, _ in client.events()] == [{"a": 0, "b": 1}, {"a": 1, "b": 1}]
    world.publish("a", "3")
    again = world.events("/channels?channel=b&channel=a", f"Last-Event-ID: {client.lastId}")
    frames = again.frames()
    assert [(frame["type"], frame["channel"], frame["id"]) for frame in frames] == [
        ("subscribed", "b", "e:1"),
        ("subscribed", "a", "e:1"),
        ("message", "a", "e:2"),
    ]
    assert all(frame["recovered"] for frame in frames[:2])


def test_namedCursor() -> None:
    """A cursor with names is accepted, too: a client may have its positions from elsewhere or from an earlier version."""
    world = World()
    world.publish("a", "1", "2")
    frames = world.events("/channels?channel=a&channel=b", "Last-Event-ID: b=e:0,a=e:1,c=e:7").frames()
    assert [(frame["type"], frame["channel"], frame["id"]) for frame in frames] == [
        ("subscribed", "a", "e:1"),
        ("subscribed", "b", "e:0"),
        ("message", "a", "e:2"),
    ]


def test_cursorOfOthers() -> None:
    """A cursor that is used for other channels loses nothing: their whole history is sent."""
    world = World()
    client = world.events("/channels?channel=a&channel=b")
    world.publish("a", "1", "2")
    client.events()
    frames = world.events("/channels?channel=a&channel=c", f"Last-Event-ID: {client.lastId}").frames()
    assert [(frame["type"], frame["id"], frame.get("recovered")) for frame in frames] == [
        ("subscribed", "e:0", False),
        ("subscribed", "e:0", False),
        ("message", "e:1", None),
        ("message", "e:2", None),
    ]


class Epochs(MemoryEngine):
    """An engine in which each channel has an epoch of its own."""

    def publish(self, channel: str, *arguments: Any) -> Any:
        self.epoch = epochOf(channel)
        return super().publish(channel, *arguments)

    def watch(self, channel: str, by: Any = None) -> Any:
        self.epoch = epochOf(channel)
        return super().watch(channel, by)

    def since(self, channel: str, after: Any, limit: Any = None) -> Any:
        self.epoch = epochOf(channel)
        return super().since(channel, after, limit)


def epochOf(channel: str) -> str:
    """The epoch of a channel, as long as one can be."""
    return (channel.replace("-", "") * 2)[-32:]


@pytest.mark.parametrize("engine", [MemoryEngine, Epochs])
def test_manyLongNames(engine: Any) -> None:
    """A stream of all the channels it may have, with names as long as the URL has room for, comes back, again and again."""
    world = World(engine=engine)
    limits = world.server.limits
    names = [f"{number:03}-{'x' * 49}" for number in range(limits.channelsPerCaller)]
    path = "/channels?" + "&".join(f"channel={name}" for name in names)
    assert 7900 < len(path) < limits.requestLine
    client = world.events(path)
    for name in names:
        world.server.publish(name, "x")
    client.events()
    for turn in range(3):
        assert len(client.lastId) < 1500  # behind proxies, a header may have 4 KiB or 8 KiB
        for number in (turn, 60, 127):
            world.server.publish(names[number], str(turn))
        missed = world.events(path, f"Last-Event-ID: {client.lastId}")
        assert missed.head.status == 200
        frames = missed.frames()
        assert all(frame["recovered"] for frame in frames[: len(names)])
        assert [(frame["channel"], frame["data"]) for frame in frames[len(names) :]] == [
            (names[number], str(turn)) for number in (turn, 60, 127)
        ]
        client = missed


@pytest.mark.parametrize(("engine", "most"), [(MemoryEngine, 350), (Epochs, 1000)])
def test_bytesOfId(engine: Any, most: int) -> None:
    """The id of each message of a stream of a hundred channels does not grow with their names."""
    world = World(engine=engine)
    names = [f"orders.customer.{number}.state" for number in range(100)]
    client = world.events("/channels?" + "&".join(f"channel={name}" for name in names))
    for name in names:
        for _ in range(20):
            world.server.publish(name, "x")
    while client.take():
        pass
    world.server.publish(names[50], "hello")
    frame = {"type": "message", "channel": names[50], "id": "", "data": "hello"}
    assert len(client.take()) < most + len(json.dumps(frame))


def test_cursorIsWholeFromTheStart() -> None:
    """Wherever a stream of several channels is cut, its last id has the position of each requested channel."""
    world = World()
    world.publish("a", "1", "2")
    world.publish("b", "1", "2")
    client = world.events("/channels?channel=a&channel=b&after=0")
    places = [where(place, "a", "b") for _, place, _ in client.events()]
    assert [(place["a"], place["b"]) for place in places] == [(0, 0), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_pattern() -> None:
    """A pattern begins with new messages and has no position; its messages name their channel."""
    world = World()
    client = world.events("/channels/orders.*")
    assert client.frames() == [{"type": "subscribed", "channel": "orders.*", "id": None, "recovered": False, "count": 0}]
    world.publish("orders.7", "x")
    assert client.frames()[0]["channel"] == "orders.7"
    assert client.lastId == ""
    both = world.events("/channels?channel=orders.*&channel=a")
    both.events()
    world.publish("orders.7", "y")
    world.publish("a", "z")
    assert [where(place, "a", "orders.*") for _, place, _ in both.events()] == [{"a": 0}, {"a": 1}]


def test_presence() -> None:
    """With presence, a JSON stream begins with who is present, and announces joins and leaves."""

    class Named(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            request.user = request.query.get("user", [None])[0]
            return super().onUpgrade(request)

        def onPresence(self, caller: Any, channel: str) -> Any:
            return {"name": caller.user.title()} if caller.user else None

    world = World(Named(presence=True))
    client = world.events("/channels/a?format=json&presence=true&user=ann")
    (first,) = client.frames()
    assert first["presence"] == {"count": 1, "members": [{"user": "ann", "info": {"name": "Ann"}, "connections": 1}]}
    other = world.events("/channels/a?user=bob")
    assert client.frames() == [{"type": "join", "channel": "a", "member": {"user": "bob", "info": {"name": "Bob"}}}]
    other.transport.lose(ConnectionLost())
    client.advance(4)
    assert client.frames() == []
    client.advance(2)
    assert client.frames() == [{"type": "leave", "channel": "a", "member": {"user": "bob", "info": {"name": "Bob"}}}]
    assert [kind for kind, _, _ in other.events()] == ["subscribed"]


def test_noFrames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that goes to event streams alone is framed for a WebSocket: answers, messages, joins, leaves, and the end."""
    made: list[tuple[int, bytes]] = []
    for module in frames, formats:
        monkeypatch.setattr(module, "frame", lambda *arguments: made.append(arguments))
    world = World(ChannelService(presence=True))
    client = world.events("/channels/a?format=json&presence=true")
    raw = world.events()
    world.publish("a", "hello")
    other = Ear("ann")
    world.server.channels.subscribe(other, "a")
    world.server.channels.unsubscribe(other, "a")
    client.advance(6)
    assert [each["type"] for each in client.frames()] == ["subscribed", "message", "join", "leave"]
    assert [kind for kind, _, _ in raw.events()] == ["subscribed", "message"]
    assert made == []


def test_presenceRefused() -> None:
    """A client that may not see presence gets no stream with it; a raw stream has no presence, and asks for none."""
    world = World(ChannelService())
    assert world.events("/channels/a?format=json&presence=true").head.json["error"] == "forbidden"
    assert world.events("/channels/a?presence=true").head.status == 200


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/channels", 400, "bad-request"),
        ("/channels/a%20b", 400, "bad-channel"),
        ("/channels/a/b", 404, "not-found"),
        ("/channels/a?after=x", 400, "bad-position"),
        ("/channels/a?after=", 400, "bad-position"),
        ("/channels/a?before=e:1", 400, "bad-request"),
        ("/channels/a?wait=30", 400, "bad-request"),
        ("/channels/a?limit=5", 400, "bad-request"),
        ("/channels/a/a", 404, "not-found"),
        ("/channels?channel=a&channel=b&after=e:1", 400, "bad-position"),
        ("/channels?" + "&".join(f"channel=c{n}" for n in range(129)), 429, "too-many-channels"),
    ],
)
def test_refused(path: str, status: int, error: str) -> None:
    """A refused subscription is a plain error before a stream begins, and the connection goes on."""
    world = World()
    client = world.client()
    response = client.get(path, "Accept: text/event-stream")
    assert (response.status, response.json["error"]) == (status, error)
    assert client.get("/channels/a").status == 200


def test_refusedByService() -> None:
    """If the service refuses one channel, the request is refused, and no subscription to the others is left."""

    class Strict(ChannelService):
        async def onSubscribe(self, caller: Any, channel: str) -> None:
            if channel == "secret":
                raise Reject(403, "not your channel")

    world = World(Strict())
    response = world.client().get("/channels?channel=a&channel=secret", "Accept: text/event-stream")
    assert (response.status, response.json) == (403, {"error": "forbidden", "message": "not your channel", "channel": "secret"})
    assert world.server.channels.count("a") == 0
    assert not world.server.visits


def test_refusedWhileSubscribing() -> None:
    """A stream whose subscription fails gives the connection back: the answer is an error, and the next request is served."""
    world = World(channels=1)
    world.publish("full", "x")
    client = world.client()
    response = client.get("/channels/a", "Accept: text/event-stream")
    assert (response.status, response.json["error"], response.header("retry-after")) == (503, "unavailable", "5")
    assert client.get("/channels/full?after=0").json["messages"]
    assert (world.server.channels.count("a"), world.server.visits) == (0, set())


def test_head_method() -> None:
    """HEAD has the head of a stream, and no stream."""
    response = World().client().get("/channels/a", "Accept: text/event-stream", method="HEAD")
    assert (response.status, response.header("content-type")) == (200, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.0", False),
        ("*/*", False),
    ],
)
def test_accept(accept: str, taken: bool) -> None:
    """Only a client that names the type gets a stream; one that accepts anything gets a poll's answer."""
    world = World()
    client = world.client()
    client.ask("/channels/a", f"Accept: {accept}")
    assert (b"text/event-stream; charset" in client.take()) is taken


def test_heartbeat() -> None:
    """A stream without events sends a comment every 25 s, to show that it is alive."""
    client = World().events()
    client.take()
    client.advance(24)
    assert client.take() == b""
    client.advance(1.25)
    assert client.content() == b":\n\n"
    client.advance(25)
    assert client.content() == b":\n\n"


def test_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose machine does not acknowledge a heartbeat is dropped as fast as a WebSocket that does not answer a ping."""
    world = World()
    here, gone = world.events(), world.events()
    asked: list[float] = []

    def hasVanished(transport: Any, seconds: float) -> bool:
        asked.append(seconds)
        return transport is gone.transport and world.clock.seconds() > begin + 25

    def live(seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            here.advance(0.25)
            gone.transport.settle()

    begin = world.clock.seconds()
    monkeypatch.setattr(stream, "hasVanished", hasVanished)
    live(34.5)
    assert not gone.transport.closed
    live(0.75)
    assert gone.transport.aborted
    assert {*asked} == {10}
    assert world.server.channels.count("a") == 1
    live(100)
    assert not here.transport.closed


def test_heartbeatBesideMessages() -> None:
    """Messages do not delay a heartbeat."""
    world = World()
    client = world.events()
    client.advance(24)
    world.publish("a", "x")
    client.take()
    client.advance(1.25)
    assert client.content() == b":\n\n"


def test_noHeartbeatBehindMessages() -> None:
    """While messages wait for a client, there is no heartbeat; the next one comes when it is due."""
    world = World()
    client = world.events()
    client.advance(20)
    stall(client)
    world.publish("a", "x")
    client.advance(6)
    client.transport.room = None
    assert client.content() == b"id: e:1\ndata: x\n\n"
    client.advance(23.5)
    assert client.content() == b""
    client.advance(1)
    assert client.content() == b":\n\n"


def test_noHeartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pings there are no comments either, and no machine is asked for an acknowledgement."""
    monkeypatch.setattr(stream, "hasVanished", lambda transport, seconds: True)
    client = World(pingInterval=0).events()
    client.take()
    client.advance(100)
    assert client.take() == b""
    assert not client.transport.closed


def test_encodedOnce() -> None:
    """A message is encoded once for all streams of a kind, however many there are."""
    world = World()
    clients = [world.events() for _ in range(20)]
    encoded: list[str] = []

    def look(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code is events.rawEvent.__code__:
            encoded.append(event)

    sys.setprofile(look)
    try:
        (published,) = world.publish("a", "x")
    finally:
        sys.setprofile(None)
    assert (published.recipients, len(encoded)) == (20, 1)
    assert all(client.events()[-1] == ("message", "e:1", "x") for client in clients)


# Slow clients.


def stall(client: EventClient, room: int = 0) -> None:
    """Have the kernel take no more than `room`."""
    client.take()
    client.transport.room = room


@pytest.mark.parametrize("path", ["/channels/a", "/channels/a?channel=b"])
def test_bounded(path: str) -> None:
    """The bytes that wait for a client that does not read are bounded; beyond the bound, its stream ends."""
    world = World(maxSendBuffer=100_000)
    client = world.events(path)
    stall(client)
    for number in range(200):
        world.publish("a", str(number) + "x" * 1000)
        assert len(client.transport.waiting) < 40_000
        assert world.server.channels.backlog.total < 150_000
    assert world.server.channels.count("a") == 0
    assert not world.server.visits
    assert world.server.channels.backlog.total < 40_000
    client.advance(31)
    assert client.transport.aborted
    assert world.server.channels.backlog.total == 0


def test_slowResumes() -> None:
    """A client whose stream was ended because it was slow comes back with its last id, and has lost nothing."""
    world = World(maxSendBuffer=50_000)
    client = world.events()
    client.events()
    client.transport.room = 5000
    world.publish("a", *[f"{number:04}" + "x" * 1000 for number in range(100)])
    assert world.server.channels.count("a") == 0
    client.transport.room = None
    numbers = [int(data[:4]) for _, _, data in client.events()]
    assert client.ended
    assert client.transport.writeClosed
    assert 0 < len(numbers) < 100
    again = world.events("/channels/a", f"Last-Event-ID: {client.lastId}")
    numbers += [int(data[:4]) for kind, _, data in again.events() if kind == "message"]
    assert numbers == list(range(100))


def test_dropOldest() -> None:
    """With drop-oldest, a slow client continues with the newest messages, and the ids show what was dropped."""
    world = World(ChannelService(policy="drop-oldest"), maxSendBuffer=50_000)
    client = world.events()
    client.events()
    stall(client)
    world.publish("a", *[f"{number:04}" + "x" * 1000 for number in range(200)])
    client.transport.room = None
    client.transport.turn()
    found = [(int(place.partition(":")[2]), int(data[:4])) for _, place, data in client.events()]
    assert all(place == number + 1 for place, number in found)
    assert found[-1] == (200, 199)
    assert 30 < len(found) < 120
    world.publish("a", "0200")
    assert client.events() == [("message", "e:201", "0200")]


def test_latest() -> None:
    """With latest, only the newest message of each key waits for a slow client."""
    world = World(ChannelService(policy="latest"))
    client = world.events()
    client.events()
    stall(client)
    world.publish("a", "z" * 40_000)
    for number in range(100):
        world.publish("a", str(number), key=str(number % 2))
    client.transport.room = None
    assert [data for _, _, data in client.events()][-2:] == ["98", "99"]


def test_totalBound() -> None:
    """When all clients together leave too much unread, the one with the most is ended."""
    world = World(maxSendBufferTotal=100_000)
    slow, slower = world.events("/channels/a"), world.events("/channels/b")
    for client in (slow, slower):
        stall(client)
    world.publish("a", "x" * 20_000)
    world.publish("b", "x" * 30_000, "x" * 20_000)
    assert (world.server.channels.count("a"), world.server.channels.count("b")) == (1, 0)


def test_totalBoundAndPolicy() -> None:
    """The largest is ended whatever its policy: dropping messages of one channel might not free enough."""
    world = World(ChannelService(policy="drop-oldest"), maxSendBufferTotal=100_000)
    slow, slower = world.events("/channels/a"), world.events("/channels/b")
    for client in (slow, slower):
        stall(client)
    world.publish("a", "x" * 20_000)
    world.publish("b", "x" * 30_000, *["x" * 20_000] * 2)
    assert (world.server.channels.count("a"), world.server.channels.count("b")) == (1, 0)


@pytest.mark.parametrize(("size", "dropped"), [(10_000, False), (120_000, True)])
def test_totalBoundAndWhatWasBegun(size: int, dropped: bool) -> None:
    """An event that has begun is finished before the stream ends, unless it is large: its memory is needed now."""
    world = World(maxSendBufferTotal=150_000)
    slow, slower = world.events("/channels/a"), world.events("/channels/b")
    for client in (slow, slower):
        stall(client)
    world.publish("a", "x" * 60_000)
    world.publish("b", *["x" * size] * (120_000 // size))
    assert (world.server.channels.count("a"), world.server.channels.count("b")) == (1, 0)
    assert slower.transport.aborted is dropped
    assert world.server.channels.backlog.total < 100_000
    slower.transport.room = None
    assert [len(data) for _, _, data in slower.events()] == ([] if dropped else [size])
    assert slower.ended is not dropped


def test_largeEventOverItsOwnBound() -> None:
    """A stream over only its own bound finishes even a large event before it ends: nobody else needs the memory."""
    world = World(maxSendBuffer=100_000)
    client = world.events()
    stall(client)
    world.publish("a", "x" * 150_000, *["y" * 60_000] * 2)
    assert world.server.channels.count("a") == 0
    assert not client.transport.closed
    client.transport.room = None
    assert [len(data) for _, _, data in client.events()] == [150_000]
    assert client.ended


def test_writeDeadline() -> None:
    """A client that goes on taking bytes is not dropped until it has taken none for 30 s."""
    world = World()
    client = world.events()
    stall(client)
    world.publish("a", "x" * 100_000)
    client.advance(20)
    client.transport.room = 30_000
    client.advance(29)
    assert not client.transport.closed
    client.advance(2)
    assert client.transport.aborted


def test_longMessage() -> None:
    """One message of any size arrives whole, at the pace of its client."""
    world = World()
    client = world.events()
    client.events()
    client.transport.room = 1000
    world.publish("a", "x" * 500_000)
    for _ in range(100):
        client.transport.room = 10_000
        client.transport.settle()
    assert [len(data) for _, _, data in client.events()] == [500_000]


# The end.


def test_peerLeaves() -> None:
    """When the client leaves, its subscription ends, and the service is told once."""

    class Counting(ChannelService):
        gone: list[tuple[object, str]] = []

        def onUnsubscribe(self, caller: Any, channel: str) -> None:
            self.gone.append((caller, channel))

    service = Counting()
    world = World(service)
    client = world.events()
    (visitor,) = world.server.channels.visitors
    client.transport.lose(ConnectionLost())
    assert service.gone == [(visitor, "a")]
    assert not world.server.channels.visitors
    assert world.server.channels.count("a") == 0
    assert not world.server.visits
    assert world.publish("a", "x")[0].recipients == 0


def test_drain() -> None:
    """A server that stops ends each stream after the current event, and spreads the times at which clients reconnect."""
    world = World()
    clients = [world.events() for _ in range(10)]
    world.publish("a", "last")
    stopped = world.server.stop()
    for client in clients:
        assert client.events()[-1] == ("message", "e:1", "last")
        assert client.ended
        assert 1000 <= client.retry <= 6000
        assert client.transport.writeClosed
    assert len({client.retry for client in clients}) > 1
    assert not stopped.called
    for client in clients:
        client.transport.lose(ConnectionLost())
    assert stopped.called
    assert world.client().get("/channels/a", "Accept: text/event-stream").status == 503


def test_drainDeadline() -> None:
    """A client that does not take the end of its stream is dropped at the deadline of the stop."""
    world = World()
    client = world.events()
    stall(client)
    world.publish("a", "x" * 50_000)
    stopped = world.server.stop(2)
    client.advance(1.5)
    assert not stopped.called
    client.advance(1)
    assert stopped.called
    assert client.transport.aborted


def test_drainWhileAsked() -> None:
    """A stream that the service allows only after the server began to stop is refused."""

    class Slow(ChannelService):
        asked: Deferred[None]

        def onSubscribe(self, caller: Any, channel: str) -> Any:
            self.asked = Deferred()
            return self.asked

    service = Slow()
    world = World(service)
    client = world.client()
    client.ask("/channels/a", "Accept: text/event-stream")
    world.server.stop()
    service.asked.callback(None)
    (response,) = client.responses()
    assert (response.status, response.json["error"]) == (503, "unavailable")


def test_tooMuchBeforeItBegins() -> None:
    """A stream that gets too many messages while it waits for an engine is refused at once, and its memory is freed."""
    world = World(engine=LateEngine, maxSendBuffer=100_000)
    client = world.client()
    client.ask("/channels?channel=a&channel=b", "Accept: text/event-stream")
    for _ in range(10):
        world.publish("a", "x" * 9_000)
    assert client.take() == b""
    assert world.server.runtime.backlog.total > 90_000
    with capturedLogs() as logs:
        world.publish("a", "x" * 20_000)
    (response,) = client.responses()
    assert (response.status, response.json["error"], response.header("retry-after")) == (503, "unavailable", "5")
    assert sum("event stream ends" in each["log_format"] for each in logs) == 1
    assert (world.server.runtime.backlog.total, world.server.channels.count("a"), len(world.server.channels.visitors)) == (
        0,
        0,
        0,
    )
    world.engine.asked[0].callback(None)
    assert world.server.channels.count("b") == 0
    assert not [each for each in logs if "log_failure" in each]
    assert client.get("/channels/a?wait=0").status == 200


def test_memoryNeededBeforeItBegins() -> None:
    """A stream that has not begun, and holds the most memory of all, gives way by being refused."""
    world = World(engine=LateEngine, maxSendBufferTotal=200_000, maxSendBuffer=200_000)
    client, other = world.client(), world.events()
    client.ask("/channels?channel=a&channel=b", "Accept: text/event-stream")
    came = len(other.events())
    for _ in range(25):
        world.publish("a", "x" * 9_000)
        came += len(other.events())
    assert [each.status for each in client.responses()] == [503]
    assert came == 26


def test_memoryNeededAsItBegins() -> None:
    """A stream that has to give way while it subscribes is refused, and has no subscription."""
    world = World(maxSendBufferTotal=300)
    world.publish("a", "1")
    world.publish("b", "2")
    response = world.client().get("/channels?channel=a&channel=b&after=0", "Accept: text/event-stream")
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert [world.server.channels.count(name) for name in "ab"] == [0, 0]
    assert world.server.runtime.backlog.total == 0


def test_disconnectedBeforeItBegins() -> None:
    """A client that is disconnected while its stream waits for an engine is answered with 403, like a long poll."""
    world = World(engine=LateEngine)
    client = world.client()
    client.ask("/channels?channel=a&channel=b", "Accept: text/event-stream")
    (visitor,) = world.server.channels.visitors
    visitor.membership.disconnect(4403, "bye")
    (response,) = client.responses()
    assert (response.status, response.json) == (403, {"error": "forbidden", "message": "bye"})
    assert not world.server.visits


def test_drainWhileTheEngineIsAsked() -> None:
    """A stream whose engine answers after the server began to stop is refused."""
    world = World(engine=LateEngine)
    client = world.client()
    client.ask("/channels?channel=a&channel=b", "Accept: text/event-stream")
    stopped = world.server.stop()
    world.engine.asked[0].callback(None)
    (response,) = client.responses()
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert stopped.called


def test_disconnected() -> None:
    """A client that is disconnected is told so, and when it reconnects by itself, a 204 tells it to stay away."""
    world = World()
    client = world.events()
    client.events()
    (visitor,) = world.server.channels.visitors
    visitor.membership.disconnect(4403, "")
    assert client.events() == [("unsubscribed", "", '{"channel":"a","reason":"disconnected"}')]
    assert client.transport.writeClosed
    response = world.client().get("/channels/a", "Accept: text/event-stream", f"Last-Event-ID: {client.lastId}")
    assert response.status == 204


def test_unsubscribed() -> None:
    """A stream names the channel that was taken from it, and ends with the last one."""
    world = World()
    client = world.events("/channels?channel=a&channel=b")
    client.events()
    (visitor,) = world.server.channels.visitors
    world.server.channels.unsubscribe(visitor.membership, "a", "gone")
    assert client.frames() == [{"type": "unsubscribed", "channel": "a", "reason": "gone"}]
    world.publish("b", "x")
    assert client.lastId != events.LEFT
    assert where(client.events()[0][1], "a", "b") == {"b": 1}
    world.server.channels.unsubscribe(visitor.membership, "b", "gone")
    assert client.frames() == [{"type": "unsubscribed", "channel": "b", "reason": "gone"}]
    assert client.transport.writeClosed


def test_hooksTakeTooLong() -> None:
    """If a service does not decide in time, the answer is 503, and its later decision does nothing."""

    class Never(ChannelService):
        cancelled = 0

        def onSubscribe(self, caller: Any, channel: str) -> Any:
            def cancel(deferred: object) -> None:
                self.cancelled += 1

            return Deferred(cancel)

    service = Never()
    world = World(service)
    client = world.client()
    client.ask("/channels/a", "Accept: text/event-stream")
    client.advance(10.25)
    (response,) = client.responses()
    assert (response.status, response.header("retry-after"), service.cancelled) == (503, "5", 1)
    client.ask("/channels/a", "Accept: text/event-stream")
    client.transport.lose(ConnectionLost())
    assert service.cancelled == 2


def test_secondRequestWaits() -> None:
    """Further input on the connection of a stream changes nothing."""
    world = World()
    client = world.events()
    client.events()
    client.send(b"GET /channels/a HTTP/1.1\r\nHost: a\r\n\r\n")
    world.publish("a", "x")
    assert client.events() == [("message", "e:1", "x")]
