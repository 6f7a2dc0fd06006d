from __future__ import annotations

import pytest

from twisted_ws import ChannelService, Stay, WebSocketService
from twisted_ws.testing import serve


class Counter(WebSocketService):
    """Counts the messages of each caller, and says which of its versions does so."""

    resumable = True

    def __init__(self, version="1"):
        self.version = version

    def onOpen(self, caller):
        caller.attributes["count"] = 0

    def onTextMessage(self, caller, text):
        caller.attributes["count"] += 1
        return f"{caller.attributes['count']} {self.version}"


def test_newCode():
    """The same open connection is served by the new object, with what the old one kept in attributes."""
    with serve({"/count": Counter("1")}) as server:
        client = server.connect("/count", user="ann")
        client.writeTextMessage("next")
        assert client.readTextMessage() == "1 1"
        before = client.caller
        assert server.handOver({"/count": Counter("2")}) == 1
        client.writeTextMessage("next")
        assert client.readTextMessage() == "2 2"
        after = client.caller
        assert after is not before
        assert not before.isOpen()
        assert (after.connectionId, after.user, after.request.path) == (before.connectionId, "ann", "/count")
        assert [*server.callers] == [after]
        assert client.closed is None


def test_hooks():
    """What onHandOver returns is told onResume; onOpen and onClose are not called, and what onResume returns is sent."""
    events = []

    class Room:
        def __init__(self, name):
            self.name = name

        def onOpen(self, caller):
            events.append(f"{self.name} open")

        def onClose(self, caller, statusCode, reason):
            events.append(f"{self.name} close {statusCode}")

        def onHandOver(self, caller):
            return {"from": self.name}

        def onResume(self, caller, state):
            events.append(f"{self.name} resume {state}")
            return "again"

    with serve({"/room": Room("old")}) as server:
        client = server.connect("/room")
        assert server.handOver({"/room": Room("new")}) == 1
        assert client.readTextMessage() == "again"
        client.close()
    assert events == ["old open", "new resume {'from': 'old'}", "new close 1000"]


def test_waitsForOnResume():
    """A message that comes while an async onResume runs is handled after it."""

    class Room(Counter):
        async def onResume(self, caller, state):
            await server.server.runtime.turns.next()
            caller.attributes["count"] = 10

    with serve({"/room": Room("1")}) as server:
        client = server.connect("/room")
        server.handOver()
        client.writeTextMessage("next")
        assert client.readTextMessage() == "11 1"


class Plain:
    """Says nothing of hand-overs, and may have taken note of its callers."""

    def onOpen(self, caller):
        """Do nothing."""


class Own(ChannelService):
    """Takes note of who leaves, as its base does not."""

    def onClose(self, caller, statusCode, reason):
        """Do nothing."""


class Refuses(Counter):
    """Keeps its callers."""

    def onHandOver(self, caller):
        """Let none go."""
        raise Stay


class Elsewhere(Counter):
    """Has another object for each connection."""

    def onUpgrade(self, request):
        """Make one."""
        return Counter()


@pytest.mark.parametrize("service", [Plain(), Own(), Refuses(), Elsewhere()])
def test_stays(service):
    """A service that does not say that its callers can go, or says that they cannot, has them closed with 1012."""
    path = "/x?channel=a" if isinstance(service, ChannelService) else "/x"
    with serve({"/x": service}) as server:
        client = server.connect(path)
        assert server.handOver() == 0
        assert client.closed == (1012, "service restarts")


def test_listeners():
    """A service that is given no caller needs to say nothing: those who only listen to broadcasts go on."""

    class News(WebSocketService):
        pass

    with serve({"/news": News()}) as server:
        client = server.connect("/news")
        assert server.handOver({"/news": News()}) == 1
        server.broadcast("hello")
        assert client.readTextMessage() == "hello"


def test_whatCannotBeEncoded():
    """An attribute that would not come back as it is keeps its caller, and one line of the log names its key."""

    class Room(Counter):
        resumable = True

        def onOpen(self, caller):
            caller.attributes["socket"] = object()

    with serve({"/room": Room()}) as server:
        clients = [server.connect("/room") for _ in range(3)]
        assert server.handOver() == 0
        assert [client.closed for client in clients] == [(1012, "service restarts")] * 3
        (told,) = server.flushErrors()
        assert "Room: callers do not go on" in str(told)
        assert "attributes['socket']" in str(told)


@pytest.mark.parametrize("value", [("a", "b"), {"a"}, {1: object()}])
def test_whatWouldBeAnother(value):
    """So does one that would come back as something else, such as a list for a tuple."""

    class Room(Counter):
        resumable = True

        def onOpen(self, caller):
            caller.attributes["value"] = value

    with serve({"/room": Room()}) as server:
        server.connect("/room")
        assert server.handOver() == 0
        server.flushErrors()


def cyclic():
    """Return a list that contains itself."""
    made = []
    made.append(made)
    return made


def deep():
    """Return lists in lists that no parser of JSON or msgpack would follow."""
    made = []
    for _ in range(4000):
        made = [made]
    return made


@pytest.mark.parametrize("value", [cyclic(), deep(), "x" * 10_000_000, [0] * 10_000, {"x": object()}])
@pytest.mark.parametrize("where", ["attributes", "user", "state"])
def test_whatIsTooMuch(value, where):
    """What has no end, is very large, or has no form keeps its caller, wherever the service has it, and nobody else."""

    class Room(Counter):
        def onOpen(self, caller):
            super().onOpen(caller)
            if where == "attributes":
                caller.attributes["value"] = value
            elif where == "user":
                caller.user = value

        def onHandOver(self, caller):
            return value if where == "state" else None

    with serve({"/room": Room(), "/count": Counter()}) as server:
        room, counter = server.connect("/room"), server.connect("/count")
        assert server.handOver() == 1
        assert room.closed == (1012, "service restarts")
        counter.writeTextMessage("next")
        assert counter.readTextMessage() == "1 1"
        server.flushErrors()


class Boom(Exception):
    """What a service raises."""


def test_hooksThatFail():
    """If onHandOver raises or is async, its caller stays and is closed with 1012; if onResume raises, with 1011, and alone."""

    class Room(Counter):
        def onHandOver(self, caller):
            if caller.user == "raises":
                raise Boom
            return self.late() if caller.user == "late" else caller.user

        async def late(self):
            return None

        def onResume(self, caller, state):
            if state == "fails":
                raise Boom

    with serve({"/room": Room()}) as server:
        clients = {user: server.connect("/room", user=user) for user in ("raises", "late", "fails", "goes")}
        assert server.handOver() == 2
        server.settle()
        closed = {user: client.closed and client.closed[0] for user, client in clients.items()}
        assert closed == {"raises": 1012, "late": 1012, "fails": 1011, "goes": None}
        assert len(server.flushErrors(Boom)) == 2
        server.flushErrors()


@pytest.mark.parametrize("how", ["at once", "later"])
def test_closesWhenItResumes(how):
    """A service that closes a caller in onResume is told of its end, once."""
    ended = []

    class Room(Counter):
        def onHandOver(self, caller):
            return caller.connectionId

        def onResume(self, caller, state):
            if how == "at once":
                caller.close(4000, "no")
                return None
            return self.closeLater(caller)

        async def closeLater(self, caller):
            await server.server.runtime.turns.next()
            caller.close(4000, "no")

        def onClose(self, caller, statusCode, reason):
            ended.append(statusCode)

    with serve({"/room": Room()}) as server:
        client = server.connect("/room")
        assert server.handOver() == 1
        server.settle()
        assert client.closed == (4000, "no")
        assert ended == [4000]
        assert len(server.callers) == 0


def test_newCodeThatRefuses():
    """If the new service is not resumable, callers go back and are closed by the old one, which is told."""
    events = []

    class Room(Counter):
        resumable = True

        def onHandOver(self, caller):
            events.append("gone")

        def onResume(self, caller, state):
            events.append("back")

        def onClose(self, caller, statusCode, reason):
            events.append(f"closed {statusCode}")

    with serve({"/room": Room()}) as server:
        client = server.connect("/room")
        assert server.handOver({"/room": Plain()}) == 0
        assert client.closed == (1012, "service restarts")
    assert events == ["gone", "back", "closed 1012"]


def test_noChannelsAnyMore():
    """If what answers a path now knows nothing of channels, those subscribed there are closed, and come back to find out."""

    class Feed(WebSocketService):
        resumable = True

    with serve({"/channels": ChannelService()}) as server:
        client = server.connect("/channels?channel=a")
        assert server.handOver({"/channels": Feed()}) == 0
        assert client.closed == (1012, "service restarts")
        assert server.publish("a", "1").recipients == 0


def test_subscriptions():
    """Subscriptions go with their connection, of every kind, and get what is published next, once."""
    with serve({"/channels": ChannelService(wildcards=True)}) as server:
        raw = server.connect("/channels?channel=a.b")
        json = server.connect("/channels?channel=a.b", subProtocols=["twisted-ws.v1"])
        pattern = server.connect("/channels?channel=a.*")
        server.publish("a.b", "1")
        for client in (raw, json, pattern):
            client.readMessages()
        assert server.handOver({"/channels": ChannelService(wildcards=True)}) == 3
        assert server.publish("a.b", "2").recipients == 3
        assert raw.readMessages() == ["2"]
        assert pattern.readMessages() == ["2"]
        (text,) = json.readMessages()
        assert '"data":"2"' in str(text)
        json.writeMessage({"type": "subscribe", "channel": "c"})
        json.readMessages()
        assert server.publish("c", "3").recipients == 1


def test_serviceSubscribes():
    """So do those that a service has made with caller.subscribe."""

    class Room(Counter):
        resumable = True

        def onOpen(self, caller):
            caller.subscribe("a")

    with serve({"/room": Room()}) as server:
        client = server.connect("/room")
        assert server.handOver({"/room": Room()}) == 1
        server.publish("a", "x")
        assert client.readTextMessage() == "x"
        assert client.caller.channels == ("a",)
        assert client.caller.unsubscribe("a")


def test_presence():
    """Who watches a channel sees nobody come or go."""
    with serve({"/channels": ChannelService(presence=True)}) as server:
        watcher = server.connect("/channels", subProtocols=["twisted-ws.v1"])
        watcher.writeMessage({"type": "subscribe", "channel": "a", "presence": True})
        ann = server.connect("/channels?channel=a", user="ann")
        watcher.readMessages()
        assert server.handOver({"/channels": ChannelService(presence=True)}) == 2
        server.advance(60)
        assert watcher.readMessages() == []
        server.connect("/channels?channel=a", user="bob")
        (said,) = watcher.readMessages()
        assert '"join"' in str(said)
        assert "bob" in str(said)
        ann.close()
        server.advance(60)
        (said,) = watcher.readMessages()
        assert '"leave"' in str(said)
        assert "ann" in str(said)
