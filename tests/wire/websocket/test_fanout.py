from __future__ import annotations

import gc
import socket
from contextlib import ExitStack, suppress
from itertools import pairwise
from weakref import ref

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from tests.dispatch.support import Turns as Clock
from tests.moments import collectAt
from tests.seams import connectionOf
from tests.wire.lanes import framesOf
from twisted_ws import ChannelError, Limits
from twisted_ws.frames import OutgoingMessage
from twisted_ws.wire.loop.turns import FEW, QUANTUM
from twisted_ws.wire.loop.turns import STEPS as TURN
from twisted_ws.wire.loop.turns import TURN as TURN_SECONDS
from twisted_ws.wire.speedups import makeSender
from twisted_ws.wire.websocket.crowd import GROUP, Crowd
from twisted_ws.wire.websocket.fanout import BYTES, EVERYBODY, OWN_WAY, SHORT, STEPS, Later, stepsOf
from twisted_ws.wire.websocket.runtime import Runtime

ALL = 3 * TURN // STEPS  # members that do not fit into three turns together with anything else


class Member:
    """One of the recipients: a link, its sender, and the caller of both.

    Its socket is real. Where the other end is kept, what it got is read there; else only the number of frames is known.

    Attributes:
        sender: how frames go straight out.
        onSend: called before each message that goes its own way.
        takes: whether it takes them.
    """

    membership = None

    def __init__(self, sink=None):
        self.takes = True
        self.onSend = lambda message: None
        self._connection = self
        ours, self._theirs = (sink, None) if sink is not None else socket.socketpair()
        ours.setblocking(False)
        self._ours = ours
        self._messages, self._seen = [], 0
        self.sender = makeSender(ours.fileno(), False)
        self.sender.open = True

    def goOwnWay(self):
        """Take no frames straight out, as one that is behind or has compression."""
        self.sender.open = False

    def fill(self):
        """Have the kernel take no more."""
        with suppress(BlockingIOError):
            while True:
                self._ours.send(bytes(10_000))

    @property
    def isWatched(self):
        return self._theirs is not None

    @property
    def got(self):
        """The messages, in order; if it is not watched, ... for each frame."""
        if self.isWatched:
            self._messages += [payload for _, payload in framesOf(self._read())]
        else:
            self._messages += [...] * (self.sender.written - self._seen)
        self._seen = self.sender.written
        return self._messages

    def _read(self):
        data = b""
        with suppress(BlockingIOError):
            while True:
                data += self._theirs.recv(1 << 20, socket.MSG_DONTWAIT)
        return data

    def send(self, message):
        self.onSend(message)
        self.got.append(message.payload if isinstance(message, OutgoingMessage) else message)
        return self.takes

    def goOn(self):
        self.got.append("goes on")

    def end(self):
        if self.isWatched:
            self._ours.close()
            self._theirs.close()


def have(members, *messages):
    """Return whether each of them got these messages, in this order."""
    expected = [*messages]
    return all(each.got == expected if each.isWatched else len(each.got) == len(expected) for each in members)


class Subscribed:
    """The caller of a member that is there for channels only."""

    _connection = None

    def __init__(self, member, *channels):
        self.membership = member
        member.channels = channels


class World:
    """All members in one crowd; of very many, about a hundred are watched."""

    def __init__(self, count, sink, **limits):
        self.clock = Clock()
        runtime = Runtime(self.clock, Limits(**{"maxSendBufferTotal": 1 << 30, **limits}))
        self.turns, self.backlog, self.fanOuts = runtime.turns, runtime.backlog, runtime.fanOuts
        self.sink, self.made = sink, []
        step = count // 101 + 1
        self.members = [self.member(n % step == 0 or n < 6 or n >= count - 6) for n in range(count)]
        self.crowd = Crowd()
        for each in self.members:
            self.crowd.add(each)

    def member(self, isWatched=True):
        """Return one more, in no crowd."""
        self.made.append(Member(None if isWatched else self.sink))
        return self.made[-1]

    def send(self, text, members=None, name=EVERYBODY, **options):
        """Send to all, or to some."""
        message = OutgoingMessage(1, text) if isinstance(text, bytes) else text
        runs = self.crowd.runs() if members is None else [(members, [each.sender for each in members], len(members))]
        steps = stepsOf(message) if isinstance(message, OutgoingMessage) else STEPS
        chosen = None if members is None else set(members)

        def find(person):
            member = person.membership if name else connectionOf(person)
            return (member, message) if member is not None and (chosen is None or member in chosen) else None

        size = 0 if isinstance(text, Later) else len(text)
        return self.fanOuts.send([(run, message, steps) for run in runs], (name,), find, size, **options)

    def counts(self):
        """Let the reactor turn until nothing happens, and return how many messages were got in all, now and after each turn."""
        counts = [self.count()]
        while self.clock.getDelayedCalls():
            self.clock.turn()
            counts.append(self.count())
        return counts

    def count(self):
        return sum(len(each.got) for each in self.members)

    def end(self):
        for each in self.made:
            each.end()


@pytest.fixture
def makeWorld():
    with ExitStack() as stack:
        # A socket that takes whatever is sent, and of which nobody reads: the kernel drops what has no room at the other end.
        end, sink = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        end.bind(("127.0.0.1", 0))
        sink.connect(end.getsockname())

        def make(count=3, **limits):
            world = World(count, sink, **limits)
            stack.callback(world.end)
            return world

        yield make


def results(*answers):
    """Return what each answer is by now: a number, or None for a Deferred that has not fired."""
    return [getattr(each, "result", None) if isinstance(each, Deferred) else each for each in answers]


# In one turn.


def test_few(makeWorld):
    """What fits into the turn is sent when the call returns, with nothing left over; small messages need no timer."""
    world = makeWorld(FEW // STEPS)
    assert world.send(b"one") == FEW // STEPS
    assert world.clock.getDelayedCalls() == []
    assert not world.fanOuts.pending
    assert world.backlog.total == 0
    assert world.send(b"nobody", []) == 0


def test_ownWays(makeWorld):
    """Recipients that cannot be sent a whole frame go on by themselves, in order; those that take nothing are not counted."""
    world, order = makeWorld(4), []
    for number, each in enumerate(world.members):
        if number % 2:
            each.goOwnWay()
        each.onSend = lambda message, each=each: order.append(world.members.index(each))
        each.goOn = lambda each=each: order.append(world.members.index(each))
    world.members[2].fill()
    world.members[3].takes = False
    assert world.send(b"x") == 3
    assert order == [1, 2, 3]
    assert world.members[2].sender.rest() == b"\x81\x01x"
    assert have([world.members[n] for n in (0, 1, 3)], b"x")


def test_otherMessages(makeWorld):
    """Anything that is not a frame is handed to each recipient; a `deliver` of its own decides how."""
    world = makeWorld(3)
    world.members[1].takes = False
    assert world.send(("an", "object")) == 2
    assert [each.got for each in world.members] == [[("an", "object")]] * 3
    assert world.send(b"y", deliver=lambda member, message: member is not world.members[0]) == 2
    assert b"y" not in world.members[0].got


def test_oneThatFails(makeWorld):
    """A recipient that raises is logged and not counted, and does not stop the others."""
    world = makeWorld(3)
    world.members[0].onSend = lambda message: 1 / 0
    with capturedLogs() as logs:
        assert world.send("x") == 2
    assert [each["log_failure"].type for each in logs] == [ZeroDivisionError]
    assert [each.got for each in world.members[1:]] == [["x"], ["x"]]
    assert not world.fanOuts.pending


# In several.


@pytest.mark.parametrize(
    ("straight", "message", "steps"),
    [
        (True, b"x", STEPS),
        (False, b"x", STEPS + OWN_WAY),
        (True, b"x" * 10 * BYTES, STEPS + 10),
        (True, "x", STEPS),
    ],
)
def test_slices(makeWorld, straight, message, steps):
    """To more than fit, it goes a bounded number at a time, by what it costs, and the answer comes after the last."""
    world = makeWorld(10_000)
    if not straight:
        for each in world.members:
            each.goOwnWay()
    answer = world.send(message)
    counts = world.counts()
    most = TURN // steps
    # What goes its own way shows that only when it was tried.
    slack = 1 if straight else 2 * QUANTUM
    for before, after in pairwise([0, *counts]):
        assert after - before <= most + slack
    assert counts[-1] == 10_000
    assert len(counts) <= 10_000 // most + 5
    assert results(answer) == [10_000]
    assert not world.fanOuts.pending
    assert world.backlog.total == 0


def test_addUp(makeWorld):
    """Many small ones in one turn are as much work as a large one; what waits is counted and gone through in order."""
    world = makeWorld(100)
    answers = [world.send(b"%d" % number) for number in range(200)]
    sent = sum(each is not None for each in results(*answers))
    assert sent <= TURN // (100 * STEPS) + 1
    assert world.backlog.total > 0
    got = [len(world.members[-1].got)]
    while world.clock.getDelayedCalls():
        world.clock.turn()
        world.count()
        got.append(len(world.members[-1].got))
        assert got[-1] - got[-2] <= TURN // (100 * STEPS) + 1
    assert have(world.members, *[b"%d" % number for number in range(200)])
    assert results(*answers) == [100] * 200
    assert world.backlog.total == 0


def test_order(makeWorld):
    """What comes later stands behind, also for few; each one's messages are in the order of the calls."""
    world = makeWorld(ALL)
    some = world.members[-5:]
    answers = [world.send(b"a"), world.send(b"b", some, "channel"), world.send(b"c"), world.send(b"d", some, "channel")]
    assert results(*answers) == [None] * 4
    world.counts()
    assert results(*answers) == [ALL, 5, ALL, 5]
    assert have(some, b"a", b"b", b"c", b"d")
    assert have(world.members[:-5], b"a", b"c")


def test_slowOnes(makeWorld):
    """However long each one takes that goes its own way, a turn is over when its time is."""
    world = makeWorld(2_000)

    def takeLong(message):
        world.clock.rightNow += TURN_SECONDS

    for each in world.members:
        each.goOwnWay()
        each.onSend = takeLong
    answer = world.send(b"x")
    counts = world.counts()
    assert counts[0] <= GROUP + SHORT // STEPS
    assert all(after - before <= SHORT // STEPS for before, after in pairwise(counts))
    assert results(answer) == [2_000]


def test_later(makeWorld):
    """A message that is still to be made is made once, for its first recipient."""
    world, made = makeWorld(ALL), []

    def make():
        made.append(sum(bool(each.got) for each in world.members))
        return OutgoingMessage(1, b"b")

    answers = [world.send(b"a"), world.send(Later(make))]
    assert made == []
    world.fanOuts.catchUp(world.members[-1])
    assert world.members[-1].got == [b"a", b"b"]
    counts = world.counts()
    assert counts[-1] == 2 * ALL
    assert len(made) == 1
    assert results(*answers) == [ALL, ALL]


def test_othersHaveTheirTurn(makeWorld):
    """Between the slices, other work that waits for a turn gets it."""
    world = makeWorld(ALL)
    world.send(b"a")
    seen = []

    def look():
        seen.append(sum(bool(each.got) for each in world.members))
        if seen[-1] < ALL:
            world.turns.spend(QUANTUM)
            world.turns.later(look)

    world.turns.later(look)
    world.counts()
    assert all(after - before <= QUANTUM // STEPS for before, after in pairwise(seen))


def test_comesAndGoes(makeWorld):
    """A recipient that comes after the call does not get it; one that leaves meanwhile is not counted."""
    world = makeWorld(ALL)
    answer = world.send(b"a")
    late = world.member()
    world.crowd.add(late)
    world.fanOuts.came(late, EVERYBODY)
    world.fanOuts.catchUp(late)
    gone = world.members[-3:]
    for each in gone:
        each.goOwnWay()
        each.takes = False  # as a closed connection's
    world.counts()
    assert late.got == []
    assert results(answer) == [ALL - 3]
    world.send(b"b", [late])
    assert late.got == [b"b"]


# Ahead of the others.


def test_catchUp(makeWorld):
    """A recipient that is written to alone gets everything that was sent before that first, once; it is counted."""
    world = makeWorld(ALL)
    first, last, other = world.members[0], world.members[-1], world.members[-2]
    answers = [world.send(b"a"), world.send(b"b", [first, last, other]), world.send(b"c", [other]), world.send(b"d")]
    for each in first, last:
        world.fanOuts.catchUp(each)
        each.got.append("own")
        world.fanOuts.catchUp(each)
    assert first.got == last.got == [b"a", b"b", b"d", "own"]
    assert other.got == []
    answers.append(world.send(b"e"))
    world.fanOuts.catchUp(last)
    last.got.append("own")
    world.counts()
    assert first.got == [b"a", b"b", b"d", "own", b"e"]
    assert last.got == [b"a", b"b", b"d", "own", b"e", "own"]
    assert other.got == [b"a", b"b", b"c", b"d", b"e"]
    assert results(*answers) == [ALL, 3, 1, ALL, ALL]


def test_whoCaughtUpIsForgotten(makeWorld):
    """Of a recipient that caught up and left, nothing is kept once all that was on its way has been sent."""
    world = makeWorld(ALL)
    world.send(b"a")
    gone = Member(world.sink)
    world.fanOuts.came(gone, EVERYBODY)
    world.fanOuts.catchUp(gone)
    gone = ref(gone)
    gc.collect()
    assert gone() is not None  # for it may write again
    world.counts()
    gc.collect()
    assert gone() is None


def test_catchUpBySubscription(makeWorld):
    """A subscriber catches up with its channels only, from when it was there for them."""
    world = makeWorld(ALL)
    member = world.member()
    person = Subscribed(member, "a", "b.*")
    world.send(b"0")
    world.send(b"1", [member], "a")
    world.send(b"2", [world.member()], "b.c")
    world.fanOuts.came(person, "b.*")
    world.send(b"3", [member], "b.*")
    world.send(b"4", [world.member()], "d")
    world.fanOuts.catchUp(person)
    assert member.got == [b"1", b"3"]
    world.counts()
    assert member.got == [b"1", b"3"]


def test_overlaps(makeWorld):
    """A recipient in several parts gets it once, in slices or ahead of the others."""
    world = makeWorld(ALL)
    twice = world.member()
    parts = [(run, OutgoingMessage(1, b"x"), STEPS) for run in world.crowd.runs()]
    own = (([twice, *world.members], [twice, *world.members], ALL + 1), OutgoingMessage(1, b"x"), STEPS)
    message = own[1]
    answer = world.fanOuts.send([*parts, own], ("a", "*"), lambda person: (person.membership, message), 1, overlaps=True)
    world.fanOuts.catchUp(Subscribed(world.members[5], "a"))
    world.fanOuts.catchUp(Subscribed(world.members[-1], "*"))
    world.fanOuts.catchUp(Subscribed(twice, "a", "*"))
    world.counts()
    assert have((*world.members, twice), b"x")
    assert results(answer) == [ALL + 1]


# In the middle of it.


def test_sentFromWithin(makeWorld):
    """What a service sends while a message is handed out comes to all after it, and its answer after that."""
    world, answers = makeWorld(5), []
    for each in world.members:
        each.goOwnWay()

    def again(message):
        if message.payload == b"a":
            answers.append(world.send(b"b"))
            assert results(*answers) == [None]

    world.members[1].onSend = again
    assert world.send(b"a") == 5
    assert results(*answers) == [5]
    assert have(world.members, b"a", b"b")


def test_writtenToFromWithin(makeWorld):
    """One whom a service writes to, while others are handed a message, has that message first; once."""
    world = makeWorld(6)
    for each in world.members:
        each.goOwnWay()

    def write(message):
        for each in world.members:
            world.fanOuts.catchUp(each)
            each.got.append("own")

    world.members[1].onSend = write
    assert world.send(b"a") == 6
    # Its own was in the middle of being written.
    assert world.members[1].got == ["own", b"a"]
    assert have([each for each in world.members if each is not world.members[1]], b"a", "own")


def test_answersFromWithin(makeWorld):
    """Whoever waits for an answer may send again when it comes."""
    world = makeWorld(ALL)
    more = []
    world.send(b"a").addCallback(lambda count: more.append(world.send(b"b")))
    world.counts()
    assert results(*more) == [ALL]
    assert have(world.members, b"a", b"b")


# Too many.


def test_admit(makeWorld):
    """While nothing waits all is admitted; of too much work, or of too many bytes, no more until it is done."""
    world = makeWorld(ALL, fanOutLag=0.05, maxSendBufferTotal=4_000_000)
    world.fanOuts.admit(10_000_000)
    world.send(b"a")
    world.fanOuts.admit(1)
    with pytest.raises(ChannelError, match="try later") as caught:
        world.fanOuts.admit(1_000_000)
    assert (caught.value.code, caught.value.status) == ("unavailable", 503)
    for number in range(4):
        world.send(b"%d" % number)
    with pytest.raises(ChannelError):
        world.fanOuts.admit(1)
    world.counts()
    world.fanOuts.admit(1)
    assert world.backlog.total == 0


@pytest.mark.parametrize("inner", ["writes", "turns", "broadcasts"])
@pytest.mark.parametrize("outer", ["send", "turn"])
def test_finalisers(makeWorld, outer, inner):
    """Whatever a finaliser does in the middle of it, everybody gets each message once, and each answer comes."""
    for number in range(200):
        world = makeWorld(3)
        for each in world.members[1:]:
            each.goOwnWay()
        world.turns.spend(world.turns.left)  # so that all of it waits
        answers = [world.send(b"a")]

        def act(world=world, answers=answers):
            if inner == "broadcasts":
                answers.append(world.send(b"c"))
            elif inner == "turns":
                world.clock.turn()
            else:
                world.fanOuts.catchUp(world.members[1])

        if outer == "send":
            with collectAt(number, act) as moment:
                answers.append(world.send(b"b"))
        else:
            answers.append(world.send(b"b"))
            with collectAt(number, act) as moment:
                world.clock.turn()
        world.counts()
        sent = [b"a", b"b", b"c"][: len(answers)]
        assert [sorted(each.got) for each in world.members] == [sent] * 3, f"at moment {number}"
        assert results(*answers) == [3] * len(answers), f"at moment {number}"
        assert not world.fanOuts.pending
        assert world.backlog.total == 0
        world.end()
        if not moment.came:
            break
    assert number
