from __future__ import annotations

import json

import pytest

from tests.channels.test_mailbox import Steps, steps
from tests.memory import SteadyClock
from tests.texts import Held, Text
from twisted_ws.engines.members import FEW, LEAVES, OVERHEAD, MemberTable
from twisted_ws.wire.loop.wheel import TICK, Wheel


class World:
    def __init__(self, delay=5):
        self.clock = SteadyClock()
        self.clock.advance(1000)
        self.wheel = Wheel(self.clock)
        self.told = []
        self.table = MemberTable(delay, self.wheel, self.joined, self.left)

    def joined(self, channel, member):
        self.told.append(("join", channel, member.user, json.loads(bytes(member.info))))

    def left(self, channel, member):
        assert not member.connections
        self.told.append(("leave", channel, member.user, json.loads(bytes(member.info))))

    def enter(self, connection, user, info=None, channel="a"):
        self.table.enter(channel, connection, user, json.dumps(info).encode())

    def leave(self, *connections, channel="a"):
        for connection in connections:
            self.table.leave(channel, connection)

    def notices(self):
        """Return what was told since the last call: (kind, user)."""
        told, self.told[:] = [(kind, user) for kind, _, user, _ in self.told], []
        return told

    def members(self, channel="a"):
        found, more = self.table.page(channel, "", 10_000, 10**9)
        assert more is None
        return [(each.user, json.loads(bytes(each.info)), each.connections) for each in found]


@pytest.fixture
def world():
    return World()


def test_members(world):
    """Users are listed with the info of their first connection and how many they have."""
    world.enter("1", "ann", {"name": "Ann"})
    world.enter("2", "ann", "other")
    world.enter("3", "bob")
    assert world.members() == [("ann", {"name": "Ann"}, 2), ("bob", None, 1)]
    assert world.members("b") == []


def test_churnAmongMany():
    """A connection that leaves is found without a look at the others."""

    def leaving(count):
        world = World()
        for number in range(count):
            world.enter(f"c{number}", Text(f"{number:04}"))
        world.enter("1", Text("ann"))
        Text.compared = 0
        return steps(lambda: world.leave("1")) + Text.compared

    assert leaving(3000) < leaving(3) + 50


def test_nothingIsKeptOfConnections(world):
    """Of a connection that has left, only the user is kept, listed without a connection until its time is over."""
    connections = Held()
    for number, user in enumerate(("ann", "ann", "bob")):
        world.enter(connections.text(str(number)), user)
    world.leave("0", "1", "2", "3")
    assert len(connections) == 0
    assert world.members() == [("ann", None, 0), ("bob", None, 0)]


def test_manyMembers(world):
    """Of very many users, a page has some, by name, and says where to continue; it looks at no more of them."""
    users = [f"{number * 7919 % 5000:04}" for number in range(5000)]
    for user in users:
        world.enter(user, Text(user))
    seen, after = [], ""
    while after is not None:
        Text.compared = 0
        with Steps() as counted:
            page, after = world.table.page("a", after, 100, 10**9)
        assert Text.compared <= 2 * 101
        assert counted.count <= 20 * 101
        seen += [each.user for each in page]
    assert seen == sorted(users)


@pytest.mark.parametrize("count", [6, FEW, FEW + 1, 300])
def test_membersComeAndGo(count):
    """Few or many, whoever comes and goes, and wherever a page begins: it has the present users, by name."""
    world, users = World(delay=1), [f"{n * 7919 % 1000:03}" for n in range(count)]
    for user in users:
        world.enter(user, user)
    world.leave(*users[::3])
    world.clock.advance(2)
    there = sorted(user for user in users if user not in users[::3])
    assert [user for user, _, _ in world.members()] == there
    found, last = world.table.page("a", there[0], 2, 1000)
    assert [each.user for each in found] == there[1:3]
    assert last == (there[2] if len(there) > 3 else None)
    assert world.table.page("a", "", 0, 1000) == ([], "")
    assert world.table.page("b", "", 0, 1000) == ([], None)
    world.leave(*there)
    world.clock.advance(2)
    assert world.members() == []


def test_largeMembers(world):
    """What a service says of its users takes about as many bytes as were asked for, but one of them is always there."""
    for user in "abcde":
        world.enter(user, user, "x" * (300 - 3 - OVERHEAD))
    page, after = world.table.page("a", "", 1000, 900)
    assert ([each.user for each in page], after) == (["a", "b", "c"], "c")
    page, after = world.table.page("a", "", 1000, 901)
    assert ([each.user for each in page], after) == (["a", "b", "c", "d"], "d")
    page, after = world.table.page("a", "c", 1000, 1)
    assert ([each.user for each in page], after) == (["d"], "d")


def test_joinAndLeave(world):
    """A user's first connection is told at once, and its last when it has not come back."""
    world.enter("1", "ann", {"n": 1})
    assert world.told == [("join", "a", "ann", {"n": 1})]
    world.enter("2", "ann")
    world.leave("1")
    world.clock.advance(10)
    assert world.notices() == [("join", "ann")]
    world.leave("2")
    world.clock.advance(4.75)
    assert world.notices() == []
    assert world.members() == [("ann", {"n": 1}, 0)]
    world.clock.advance(0.5)
    assert world.told == [("leave", "a", "ann", {"n": 1})]
    assert world.members() == []
    assert len(world.wheel) == 0


def test_channelsApart(world):
    """Each channel has its own users, though connections are on several."""
    world.enter("1", "ann", channel="a")
    world.enter("1", "ann", channel="b")
    world.leave("1", channel="a")
    world.clock.advance(6)
    assert [(kind, channel) for kind, channel, _, _ in world.told] == [("join", "a"), ("join", "b"), ("leave", "a")]
    assert (world.members("a"), world.members("b")) == ([], [("ann", None, 1)])


def test_quickReconnect(world):
    """A user that is back within the delay was never away; the info is the new one."""
    world.enter("1", "ann", 1)
    world.leave("1")
    world.clock.advance(4)
    world.enter("2", "ann", 2)
    world.clock.advance(10)
    assert world.notices() == [("join", "ann")]
    assert world.members() == [("ann", 2, 1)]


def test_toldAgain(world):
    """A connection that is said to be there again counts once, and one that was there as another user is now this one."""
    for _ in range(2):
        world.enter("1", "ann", 1)
    assert world.members() == [("ann", 1, 1)]
    world.enter("1", "bob", 2)
    assert world.members() == [("ann", 1, 0), ("bob", 2, 1)]
    world.clock.advance(6)
    assert world.notices() == [("join", "ann"), ("join", "bob"), ("leave", "ann")]
    world.leave("1", "1")
    assert world.members() == [("bob", 2, 0)]


def test_restless(world):
    """Each absence is timed on its own."""
    world.enter("1", "ann")
    for _ in range(3):
        world.leave("1")
        world.clock.advance(4)
        world.enter("1", "ann")
    world.leave("1")
    world.enter("1", "ann")
    world.leave("1")
    world.clock.advance(4.75)
    assert world.notices() == [("join", "ann")]
    world.clock.advance(0.5)
    assert world.notices() == [("leave", "ann")]
    world.enter("1", "ann")
    assert world.notices() == [("join", "ann")]


def test_manyLeave(world):
    """Users that leave one after the other are told one after the other, by one timer."""
    for user in ("ann", "bob"):
        world.enter(user, user)
        world.leave(user)
        world.clock.advance(3)
    world.notices()
    world.clock.advance(2.25)
    assert world.notices() == [("leave", "bob")]
    assert world.members() == []


def test_manyLeaveAtOnce(world):
    """Of very many that left at one moment, a bounded number are told in one turn of the wheel."""
    users = [str(number) for number in range(2 * LEAVES + 10)]
    for user in users:
        world.enter(user, user)
    world.clock.advance(2)
    world.leave(*users)
    world.notices()
    world.clock.advance(4.5)
    told = []
    while len(told) < len(users):
        world.clock.advance(TICK)
        came = world.notices()
        assert len(came) <= LEAVES
        told += came
    assert told == [("leave", user) for user in users]
    assert world.members() == []


def test_delays(world):
    """Each leave waits as long as it says: shorter ones are told first, and a user who is back in time has not left."""
    for connection, user in ("1", "ann"), ("2", "bob"), ("3", "cid"):
        world.enter(connection, user)
    world.notices()
    world.table.leave("a", "1", 9)
    world.leave("2")
    world.table.leave("a", "3", 1)
    world.clock.advance(1 + TICK)
    assert world.notices() == [("leave", "cid")]
    world.enter("2", "bob")
    world.clock.advance(8)
    assert world.notices() == [("leave", "ann")]
    world.table.leave("a", "2", 1)
    world.clock.advance(1 + TICK)
    assert world.notices() == [("leave", "bob")]
    assert world.members() == []
