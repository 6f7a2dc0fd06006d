"""Pages of callers, over all servers, and one in detail."""

from __future__ import annotations

import msgspec
import pytest
from twisted.internet.defer import Deferred

from tests.engines.hub.test_servers import Machine
from tests.web.worlds import World
from twisted_ws.caller import Caller
from twisted_ws.identity import Identity
from twisted_ws.inspection import callers as inspected
from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.callers import LOOKING, TOGETHER, Asked
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.loop.turns import STEPS
from twisted_ws.wire.speedups import NEVER


class Connection:
    """A connection for which something may wait."""

    sender = NEVER

    def __init__(self, waits):
        self.waits = waits

    def isOpen(self):
        return True

    def isSecure(self):
        return False

    def bufferedAmount(self):
        return self.waits


class Crowd(World):
    """A server with callers that have no sockets."""

    def __init__(self):
        super().__init__()
        answerInspection(self.server)

    def add(self, user=None, peer="192.0.2.1", channels=(), identity=None, headers=(), waiting=0):
        """Let somebody come."""
        request = UpgradeRequest("/channels/a?token=secret", headers, peerAddress=peer)
        request.user, request.identity = user, identity
        caller = Caller(Connection(waiting), request, None, self.server._callers, 12.5)
        self.server._callers.add(caller)
        for channel in channels:
            caller.subscribe(channel)
        return caller

    def ask(self, **asked):
        """Return a page of callers: users, and the answer."""
        place = inspected.cursorOf(asked.pop("cursor", ""))
        later = Deferred.fromCoroutine(inspected.callers(self.server, Asked(**asked, node=place[0], after=place[1])))
        while not later.called:
            self.clock.turn()
        page = later.result
        return [msgspec.json.decode(each)["user"] for each in page.callers], page


def test_caller():
    """A caller is listed with what an operator asks first: who, from where, since when, with how much."""
    world = Crowd()
    caller = world.add("ann", channels=("a", "b.*"), waiting=7)
    _, page = world.ask()
    assert msgspec.json.decode(page.callers[0]) == {
        "id": caller.connectionId,
        "node": world.server.node.id,
        "user": "ann",
        "transport": "websocket",
        "service": "/channels/{channel}",
        "peer": "192.0.2.1",
        "since": 12.5,
        "subscriptions": 2,
        "waiting": 7,
    }
    assert (page.next, page.total, page.missing) == (None, 1, [])


def test_transports():
    """Event streams and polls that wait are listed with the WebSockets, by their transports."""
    world = Crowd()
    world.add("ws")
    stream, poll = world.events("/channels/a?user=x"), world.client()
    poll.ask("/channels/a?wait=20")
    assert stream.head.status == 200
    _, page = world.ask()
    assert [msgspec.json.decode(each)["transport"] for each in page.callers] == ["websocket", "sse", "poll"]
    for transport in ("websocket", "sse", "poll"):
        assert len(world.ask(transport=transport)[1].callers) == 1


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"user": "an"}, ["ann", "anton"]),
        ({"user": "ann"}, ["ann"]),
        ({"peer": "198.51."}, ["bob"]),
        ({"channel": "orders."}, ["ann", "bob"]),
        ({"channel": "orders.4"}, ["ann"]),
        ({"slow": True}, ["anton"]),
        ({"user": "an", "slow": True}, ["anton"]),
        ({"user": "nobody"}, []),
    ],
)
def test_filters(asked, found):
    """Callers are found by how their user, address or channels begin, and by what waits for them; all of it must be so."""
    world = Crowd()
    world.add("ann", channels=("orders.42",))
    world.add("bob", "198.51.100.7", ("orders.*",))
    world.add("anton", waiting=1)
    world.add(None)
    assert world.ask(**asked)[0] == found


def test_pages():
    """Page by page, each caller comes once, also when some come and go meanwhile."""
    world = Crowd()
    people = [world.add(f"u{number}") for number in range(10)]
    seen, cursor = [], ""
    while cursor is not None:
        users, page = world.ask(limit=3, cursor=cursor)
        seen += users
        cursor = page.next
        if len(seen) == 3:
            world.server._callers.discard(people[1])  # seen already
            world.server._callers.discard(people[2])  # where the page ends
            world.server._callers.discard(people[5])  # not seen yet
            world.add("late")
    assert seen == ["u0", "u1", "u2", "u3", "u4", "u6", "u7", "u8", "u9", "late"]


def test_order():
    """Pages are in the order of the connections' numbers, even if a connection with an earlier number has come later."""
    world = Crowd()
    first, second, third = (world.add(name) for name in ("one", "two", "three"))
    world.server._callers.discard(first)
    world.server._callers.add(first)
    assert world.ask(limit=2)[0] == ["one", "two"]
    assert world.ask(limit=2, cursor=f"{world.server.node.id}.{second.connectionId}")[0] == ["three"]
    assert third.connectionId


def test_handedOver():
    """Callers that have come from other processes, whose numbers may be the same, are in the pages once each."""
    world = Crowd()
    for number in range(1, 5):
        world.add(f"new{number}")
        for name in ("aaaaaa", "zzzzzz"):
            caller = world.add(f"{name}{number}")
            world.server._callers.discard(caller)
            caller.connectionId = f"{name}.{number}"
            world.server._callers.add(caller)
    seen, cursor = [], ""
    while cursor is not None:
        users, page = world.ask(limit=1, cursor=cursor)
        seen += users
        cursor = page.next
    assert len(seen) == len(set(seen)) == 12


def test_names():
    """What clients have called themselves is escaped and cut, also what JSON could not even have."""
    world = Crowd()
    world.add("\x1b[31m<b>\udc80\n")
    world.add("x" * 1000)
    world.add(7)
    users, _ = world.ask()
    assert users[0] == "\\x1b[31m<b>\\udc80\\n"
    assert len(users[1]) <= 257
    assert users[2] == "7"


def test_manyCallers():
    """A hundred thousand callers are looked at in many turns of the reactor, none of which has more than its steps."""
    world = Crowd()
    for number in range(100_000):
        world.add(f"u{number}")
    turns, spent = world.server.runtime.turns, []
    later = Deferred.fromCoroutine(inspected.callers(world.server, Asked(user="u99999")))
    while not later.called:
        before = turns.left
        world.clock.turn()
        spent.append(max(before, STEPS) - turns.left)
    assert len(later.result.callers) == 1
    assert later.result.total == 100_000
    assert len(spent) >= 100_000 // TOGETHER * LOOKING // STEPS
    assert max(spent) <= STEPS + 2 * LOOKING


def test_detail():
    """One caller is described in full, but no value of its claims, and not the query of its request, which may have a token."""
    world = Crowd()
    payload = b'{"sub":"ann","email":"ann@example.org","exp":1}'
    identity = Identity("ann", scopes=frozenset({"b", "a"}), by="site", payload=payload, expiresAt=99.0)
    headers = (("origin", "https://app.example"), ("user-agent", "Firefox\x1b"))
    caller = world.add("ann", channels=("a",), identity=identity, headers=headers)
    later = Deferred.fromCoroutine(inspected.caller(world.server, caller.connectionId))
    found = msgspec.json.decode(later.result)
    assert found["channels"] == ["a"]
    assert (found["path"], found["origin"], found["agent"]) == ("/channels/a", "https://app.example", "Firefox\\x1b")
    assert (found["authenticator"], found["claims"], found["scopes"]) == ("site", ["email", "exp", "sub"], ["a", "b"])
    assert (found["expires"], found["secure"], found["subProtocol"]) == (99.0, False, None)
    assert b"example.org" not in bytes(later.result)
    assert b"secret" not in bytes(later.result)
    assert Deferred.fromCoroutine(inspected.caller(world.server, "nobody.1")).result is None


def test_workers():
    """With workers, the pages have the callers of all of them, in one order, and say whether anybody is missing."""
    machine = Machine(3)
    for worker in machine.workers:
        answerInspection(worker.server)
    for number in range(9):
        machine.connect(number % 3, f"u{number}")
    seen, cursor = [], ("", "")
    while True:
        page = machine.result(
            Deferred.fromCoroutine(inspected.callers(machine.hub, Asked(node=cursor[0], after=cursor[1], limit=2)))
        )
        assert (page.total, page.missing) == (9, [])
        seen += [msgspec.json.decode(each)["user"] for each in page.callers]
        if page.next is None:
            break
        cursor = inspected.cursorOf(page.next)
    assert sorted(seen) == [f"u{number}" for number in range(9)]


def test_killedMeanwhile():
    """A worker that ends while the list is made is not waited for, and one that hangs is named as missing after two seconds."""
    machine = Machine(3)
    for number, worker in enumerate(machine.workers):
        answerInspection(worker.server)
        machine.connect(number, "x")
    hangs, dies = machine.workers[0].server, machine.workers[1].server
    hangs.node.answers[inspected.PAGE] = lambda payload: Deferred()
    hangs.engine._link.answer("info", lambda: Deferred())
    later = Deferred.fromCoroutine(inspected.callers(machine.hub, Asked()))
    dies.engine._link.transport.loseConnection()
    for _ in range(12):
        machine.clock.advance(0.25)
        machine.settle()
    assert (later.result.total, later.result.missing) == (1, [hangs.node.id])
