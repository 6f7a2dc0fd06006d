from __future__ import annotations

import gc
import json
from weakref import ref

import msgspec
import pytest

from tests.channels.listeners import Ear, OtherEar, World
from tests.channels.test_mailbox import Steps, steps
from tests.dispatch.support import Turns
from tests.texts import Text
from twisted_ws import ChannelError, Limits
from twisted_ws.channels.channels import MEMBERS
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.engines.contract import Member
from twisted_ws.wire.loop.turns import STEPS
from twisted_ws.wire.websocket.fanout import OWN_WAY
from twisted_ws.wire.websocket.fanout import STEPS as STEPS_EACH


@pytest.fixture
def world():
    return World(presenceDelay=5)


def notices(ear):
    """Return what an ear was told since the last call: (type, user)."""
    told, ear.notices[:] = [json.loads(frame) for frame in ear.notices], []
    return [(each["type"], each["member"]["user"]) for each in told]


def members(world, channel="a"):
    who = world.channels.who(channel)
    assert "next" not in who
    return [(each.user, json.loads(bytes(each.info)), each.connections) for each in who["members"]]


def member(user):
    """Return a user as the engine reports it."""
    return Member(user, msgspec.Raw(b"null"), 1)


def watcher(world, channel="a"):
    ear = Ear()
    world.subscribe(ear, channel)
    world.channels.presence.watch(channel, ear)
    return ear


def test_members(world):
    """Users are listed with the info of their first connection and how many they have; others are counted only."""
    ann, again, bob, nobody = Ear("ann"), Ear("ann"), Ear("bob"), Ear()
    nobody.caller.user = object()
    world.subscribe(ann, "a", info={"name": "Ann"})
    world.subscribe(again, "a", info="other")
    world.subscribe(bob, "a")
    world.subscribe(nobody, "a")
    world.subscribe(Ear("eve"), "*")
    assert members(world) == [("ann", {"name": "Ann"}, 2), ("bob", None, 1)]
    assert world.channels.who("a")["count"] == 4
    assert members(world, "b") == []


@pytest.mark.parametrize("user", ["ann", None])
def test_churnAmongMany(user):
    """A subscriber that leaves is found without a look at the others, named or not, even if its user has changed."""

    def leaving(count):
        world = World(presenceDelay=5)
        others = [Ear(Text(f"{number:04}")) for number in range(count)]
        ear = Ear(user)
        for each in (*others, ear):
            world.subscribe(each, "a")
        ear.caller.user = "0001"
        Text.compared = 0
        return steps(lambda: world.channels.leave(ear)) + Text.compared

    assert leaving(3000) < leaving(3) + 50


def test_nothingIsKeptOfWhoLeft(world):
    """Of a subscriber that has left, only its user is kept, listed with no connection until the delay is over."""
    ears = [Ear("ann"), Ear("bob"), Ear()]
    for ear in ears:
        world.subscribe(ear, "a")
    ears[0].caller.user, ears[1].caller.user = None, "ann"
    gone = [ref(ear) for ear in ears]
    while ears:
        world.channels.leave(ears.pop())
    del ear
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert members(world) == [("ann", None, 0), ("bob", None, 0)]
    world.advance(6)
    assert members(world) == []


def test_manyMembers():
    """Of very many users, an answer has some, by name, and says where to continue; it looks at no more of them."""
    world = World(answerMessages=100)
    users = [f"{number * 7919 % 5000:04}" for number in range(5000)]
    for user in users:
        world.subscribe(Ear(Text(user)), "a")
    turns = world.channels.turns
    seen, cursor = [], ""
    while cursor is not None:
        before, Text.compared = turns.left, 0
        with Steps() as counted:
            who = world.channels.who("a", cursor)
        assert who["count"] == 5000
        assert Text.compared <= 2 * 101
        assert counted.count <= 20 * 101
        assert before - turns.left == 1 + 100 // MEMBERS
        seen += [each.user for each in who["members"]]
        turns.left = STEPS
        cursor = who.get("next")
    assert seen == sorted(users)


def test_joinAndLeave(world):
    """The others are told of a user's first connection at once, and of its last if it does not come back."""
    watching = watcher(world)
    first, second = Ear("ann"), Ear("ann")
    world.subscribe(first, "a", info={"n": 1})
    assert json.loads(watching.notices[0]) == {"type": "join", "channel": "a", "member": {"user": "ann", "info": {"n": 1}}}
    world.subscribe(second, "a")
    world.channels.unsubscribe(first, "a")
    world.advance(10)
    assert notices(watching) == [("join", "ann")]
    world.channels.leave(second)
    world.advance(4.75)
    assert notices(watching) == []
    assert members(world) == [("ann", {"n": 1}, 0)]
    world.advance(0.5)
    assert notices(watching) == [("leave", "ann")]
    assert members(world) == []
    assert len(world.wheel) == 1  # the channel


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [Ear, OtherEar])
def test_manyWatchers(kind):
    """Very many watchers are told over several turns, and changes in the meantime are reported together, in order."""
    world = World(presenceDelay=5, clock=Turns())
    watching = [kind() for _ in range(3000)]
    for ear in watching:
        world.subscribe(ear, "a")
        world.channels.presence.watch("a", ear)
    world.clock.turn()
    users = [Ear(str(number)) for number in range(40)]
    for ear in users:
        world.subscribe(ear, "a")
    late, leaver = kind(), watching[2000]
    told = [len(ear.notices) for ear in watching]
    assert set(told) == {0, 1}
    assert sum(told) <= STEPS // (STEPS_EACH + OWN_WAY)
    world.subscribe(late, "a")
    world.channels.presence.watch("a", late)
    assert world.channels.who("a")["count"] == 3041
    world.channels.unsubscribe(leaver, "a")
    last = Ear("last")
    world.subscribe(last, "a")
    world.channels.leave(users[7])
    before = sum(told)
    while before < 3000:
        world.clock.turn()
        now = sum(bool(ear.notices) for ear in (*watching, late))
        assert 0 <= now - before <= STEPS // (STEPS_EACH + OWN_WAY)
        before = now
        world.clock.rightNow += 0.01
    world.advance(10)
    for ear in watching:
        if ear is not leaver:
            assert notices(ear) == [("join", ear.caller.user) for ear in (*users, last)] + [("leave", "7")]
    assert notices(late) == [("join", "last"), ("leave", "7")]
    assert notices(leaver) == []


def test_conflated():
    """A user that comes and goes before the watchers were told is not reported, except to watchers that came in between."""
    world = World(clock=Turns())
    watching = [Ear() for _ in range(2000)]
    for ear in watching:
        world.subscribe(ear, "a")
        world.channels.presence.watch("a", ear)
    world.clock.turn()
    for user in ("first", "brief"):
        world.node.joined("a", member(user))
    world.node.left("a", member("brief"))
    world.node.joined("a", member("seen"))
    between = Ear()
    world.subscribe(between, "a")
    world.channels.presence.watch("a", between)
    world.node.left("a", member("seen"))
    for _ in range(100):
        world.clock.turn()
        world.clock.rightNow += 0.1
    assert {tuple(notices(ear)) for ear in watching} == {(("join", "first"), ("join", "seen"), ("leave", "seen"))}
    assert notices(between) == [("leave", "seen")]


def test_room(world):
    """The users of several channels share the room of one answer."""
    for user in ("ann", "bob", "eve"):
        for channel in ("a", "b"):
            world.subscribe(Ear(user), channel)
    room = AnswerBudget(Limits(answerMessages=4))
    first, second = (world.channels.who(channel, room=room) for channel in ("a", "b"))
    assert (len(first["members"]), [each.user for each in second["members"]], second["next"]) == (3, ["ann"], "ann")
    assert [each.user for each in world.channels.who("b", second["next"])["members"]] == ["bob", "eve"]


def test_spends(world):
    """A long list counts as work of its turn."""
    for number in range(40):
        world.subscribe(Ear(str(number)), "a")
    before = world.channels.turns.left
    world.channels.who("a")
    assert before - world.channels.turns.left == 1 + 40 // MEMBERS


def test_watchersLeave(world):
    """A subscriber that leaves the channel is told nothing more."""
    one, two = watcher(world), watcher(world)
    world.channels.unsubscribe(one, "a")
    world.subscribe(Ear("ann"), "a")
    assert (notices(one), notices(two)) == ([], [("join", "ann")])
    world.channels.leave(two)
    world.subscribe(Ear("bob"), "a")
    assert notices(two) == []


def test_changedUser(world):
    """A caller whose user was changed by the service leaves as the user it came as."""
    ann, nobody = Ear("ann"), Ear()
    world.subscribe(ann, "a")
    world.subscribe(nobody, "a")
    ann.caller.user = nobody.caller.user = "bob"
    world.channels.leave(ann)
    world.channels.leave(nobody)
    world.advance(6)
    assert members(world) == []


def test_refused():
    """A user whose subscription fails is reported as leaving."""
    world = World(channels=1)
    world.subscribe(Ear(), "b")
    ann = Ear("ann")
    with pytest.raises(ChannelError):
        world.channels.subscribe(ann, "a")
    world.advance(6)
    assert members(world) == []
