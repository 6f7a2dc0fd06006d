from __future__ import annotations

import json
import sys

import msgspec
import pytest

from tests.channels.listeners import Ear, LateEngine, OtherEar, World
from tests.dispatch.support import Turns
from twisted_ws import ChannelError, ConnectionClosed
from twisted_ws.channels.audience import FEW
from twisted_ws.channels.channels import LONGEST_KEY
from twisted_ws.channels.feed import ATTEMPTS, LEAST
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.channels.subscribers.formats import LARGE
from twisted_ws.engines.contract import EngineState, History, Member, Members
from twisted_ws.message import Position, Published
from twisted_ws.wire.loop.turns import STEPS, TURN


@pytest.fixture
def world():
    return World()


def test_publish(world):
    """A message goes to all subscribers of its channel, whatever their format, and to nobody else."""
    ears = [Ear(), OtherEar(), Ear()]
    for ear in ears:
        world.subscribe(ear, "a")
    elsewhere = Ear()
    world.subscribe(elsewhere, "ab")
    assert world.publish("a", "one", {"two": 2}) == [("a", "e:1", 3), ("a", "e:2", 3)]
    assert [ear.heard for ear in ears] == [["one", '{"two":2}']] * 3
    assert elsewhere.heard == []
    assert world.publish("b", "x")[0].recipients == 0


def test_start(world):
    """A subscription says where it begins, at the end of the channel, and claims no recovery."""
    world.publish("a", "1", "2")
    ear = Ear()
    assert world.subscribe(ear, "a") == ("a", Position("e", 2), False, 0)
    assert ear.starts == [("a", Position("e", 2), False, 0)]
    assert ear.channels == ("a",)


def test_resume(world):
    """What came since a position comes first, then what is live."""
    world.publish("a", "1", "2", "3")
    ear = Ear()
    assert world.subscribe(ear, "a", "e:1") == ("a", Position("e", 1), True, 2)
    world.publish("a", "4")
    assert ear.heard == ["2", "3", "4"]
    assert ear.ids == ["e:2", "e:3", "e:4"]


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 3 * FEW])
def test_many(world, count):
    """Few or many, subscribers are sent to in the order they came, and leave one by one."""
    ears, order = [Ear() for _ in range(count)], []
    for ear in ears:
        ear.onHear = lambda text, ear=ear: order.append(ear)
        world.subscribe(ear, "a")
    assert world.channels.count("a") == count
    assert world.publish("a", "1")[0].recipients == count
    assert order == ears
    for left, ear in enumerate(ears, 1):
        assert world.channels.unsubscribe(ear, "a")
        assert world.publish("a", "x")[0].recipients == count - left
    assert world.channels.count("a") == 0


def test_patterns(world):
    """A pattern matches every channel below it; a subscriber that a message reaches in two ways gets it once."""
    exact, below, everything, both = Ear(), Ear(), OtherEar(), Ear()
    world.subscribe(exact, "a.b")
    for ear, pattern in (below, "a.*"), (everything, "*"), (both, "a.b.*"), (both, "a.*"), (both, "a.b"):
        assert world.subscribe(ear, pattern, "0")[2] is (pattern == "a.b")
    assert world.publish("a.b", "1")[0].recipients == 4
    assert world.publish("a.b.c", "2")[0].recipients == 3
    assert world.publish("a", "3")[0].recipients == 1
    assert (exact.heard, below.heard, everything.heard, both.heard) == (["1"], ["1", "2"], ["1", "2", "3"], ["1", "2"])
    assert below.starts == [("a.*", None, False, 0)]
    assert world.channels.unsubscribe(both, "a.*")
    world.channels.leave(below)
    assert world.publish("a.c", "4")[0].recipients == 1
    assert world.publish("a.b", "5")[0].recipients == 3
    world.channels.leave(everything)
    world.channels.leave(both)
    assert world.publish("a.b", "6")[0].recipients == 1


def test_largeInTurns():
    """A large message is encoded once for each kind of subscriber, over several turns if that takes long."""
    world, framed = World(clock=Turns()), []

    def slowly(kind):
        def slow(publication):
            framed.append(kind)
            world.clock.rightNow += TURN
            return publication

        return slow

    kinds = [type("Kind", (Ear,), {"format": staticmethod(slowly(number))}) for number in range(3)]
    ears = [kind() for kind in kinds for _ in range(2)]
    for ear in ears:
        world.subscribe(ear, "a")
    answer = world.channels.publish("a", "x" * LARGE)
    assert (framed, ears[0].heard) == ([0], [])  # the turn is over before it is sent
    for turns in (1, 2):
        world.clock.turn()
        assert framed == [0, 1, 2][: turns + 1]
    world.clock.turn()
    assert framed == [0, 1, 2]
    assert answer.result.recipients == 6
    assert [ear.heard for ear in ears] == [["x" * LARGE]] * 6


def test_unsubscribe(world):
    """The end of a subscription is reported once, with its reason; a subscriber that comes back starts afresh."""
    ear = Ear()
    world.subscribe(ear, "a")
    assert world.channels.unsubscribe(ear, "a", "go away")
    assert not world.channels.unsubscribe(ear, "a")
    assert not world.channels.unsubscribe(ear, "b")
    assert ear.ends == [("a", "go away")]
    world.publish("a", "1")
    assert world.subscribe(ear, "a")[1] == ("e", 1)
    world.publish("a", "2")
    assert ear.heard == ["2"]


def test_leave(world):
    """A subscriber that leaves is removed from every channel, and the engine stops watching them for it."""
    ear = Ear()
    for name in ("a", "b", "*"):
        world.subscribe(ear, name)
    world.channels.leave(ear)
    world.channels.leave(ear)
    assert ear.ends == [("a", ""), ("b", ""), ("*", "")]
    assert ear.channels == ()
    world.advance(301)
    assert len(world.engine) == 0


def test_find(world):
    """Visitors are found by their connection or their user while they are subscribed to something."""
    ann, bob = Ear("ann"), OtherEar("bob")
    world.subscribe(ann, "a")
    world.subscribe(ann, "b")
    world.subscribe(bob, "a")
    visitors = world.channels.visitors
    assert list(visitors) == [ann.caller, bob.caller]
    assert visitors.find(user="ann") == [ann.caller]
    assert visitors.find(connection=bob.caller.connectionId) == [bob.caller]
    ann.caller.user = "bob"
    assert visitors.find(user="ann") == visitors.find() == []
    assert visitors.find(user="bob")[0].membership is bob
    world.channels.leave(ann)
    assert list(visitors) == visitors.find(user="bob") == [bob.caller]
    ann.caller.user = "ann"
    assert visitors.find(user="ann") == []


def test_refusals():
    """Invalid names and positions, duplicates and excess subscriptions are refused, each with an error code."""
    world = World(channelsPerCaller=2, maxMessageSize=3)
    ear = Ear()
    world.subscribe(ear, "a")
    for code, request in (
        ("bad-channel", lambda: world.channels.subscribe(ear, "a b")),
        ("bad-channel", lambda: world.channels.publish("a.*", "")),
        ("bad-channel", lambda: world.channels.history("")),
        ("bad-channel", lambda: world.channels.forget("*")),
        ("bad-channel", lambda: world.channels.describe("*")),
        ("bad-position", lambda: world.channels.subscribe(ear, "b", "5")),
        ("already-subscribed", lambda: world.channels.subscribe(ear, "a")),
        ("too-large", lambda: world.channels.publish("a", "1234")),
        ("too-large", lambda: world.channels.publish("a", "", "k" * (LONGEST_KEY + 1))),
        ("too-large", lambda: world.channels.publish("a", "", None, "k" * (LONGEST_KEY + 1))),
    ):
        with pytest.raises(ChannelError) as caught:
            request()
        assert caught.value.code == code
    world.subscribe(ear, "b")
    with pytest.raises(ChannelError, match="at most 2 channels"):
        world.channels.subscribe(ear, "c")
    with pytest.raises(TypeError):
        world.channels.publish("a", object())
    with pytest.raises(ValueError, match="surrogates"):
        world.channels.publish("a", "", "\ud800")
    world.publish("a", "1")
    assert ear.heard == ["1"]
    assert len(world.now(world.channels.history("a", "0")).publications) == 1


def test_kept(world):
    """The history can be read, described, listed and deleted without a subscription."""
    world.publish("a", "1", "2")
    history = world.now(world.channels.history("a", "e:1"))
    assert (history.position, history.recovered, len(history.publications)) == (("e", 1), True, 1)
    assert world.now(world.channels.history("a"))[2] == []
    assert world.now(world.channels.describe("a")).messages == 2
    assert [each.channel for each in world.now(world.channels.list())] == ["a"]
    assert world.now(world.channels.forget("a")) == 2
    assert world.now(world.channels.history("a", "0"))[2] == []


def test_keys(world):
    """Keys travel with the message, and repeating an idempotency key publishes nothing."""
    ear = Ear()
    world.subscribe(ear, "a")
    for _ in range(2):
        answer = world.now(world.channels.publish("a", "1", "price", "once"))
        assert answer == ("a", "e:1", 1)
    assert ear.heard == ["1"]
    assert world.now(world.channels.history("a", "0")).publications[0].key == "price"


# Rule 2: one at a time.


def test_publishedWhilePassedOn(world):
    """What is published while a message is passed on reaches everybody after that message, even those that had it earlier."""
    first, second = Ear(), Ear()
    world.subscribe(first, "a")
    world.subscribe(second, "a")
    answers = []

    def again(text):
        if text == "1":
            answers.append(world.channels.publish("a", "2"))
            answers.append(world.channels.publish("a", "3"))
            assert not answers[0].called

    first.onHear = again
    world.publish("a", "1")
    assert second.heard == first.heard == ["1", "2", "3"]
    assert [world.now(answer).id for answer in answers] == ["e:2", "e:3"]
    world.publish("a", "4")
    assert second.heard[-1] == "4"


def test_refusedWhilePassedOn():
    """What cannot be published is refused at once, even while another message is being passed on."""
    world = World(channels=1)
    ear, answers = Ear(), []
    world.subscribe(ear, "a")

    def again(text):
        if text == "1":
            with pytest.raises(ChannelError) as caught:
                world.channels.publish("b", "2")
            answers.append(caught.value.code)
            answers.append(world.channels.publish("a", "3"))

    ear.onHear = again
    world.publish("a", "1")
    assert answers[0] == "unavailable"
    assert ear.heard == ["1", "3"]


@pytest.mark.parametrize("kind", [Ear, OtherEar])
def test_subscribedWhilePassedOn(world, kind):
    """A subscriber that comes while a message is passed on gets it once from the history, or not at all, as requested."""
    ear, fresh, resumed = Ear(), kind(), kind()
    world.subscribe(ear, "a")
    world.subscribe(OtherEar(), "a")

    def join(text):
        if text == "1":
            world.subscribe(fresh, "a")
            world.subscribe(resumed, "a", "0")

    ear.onHear = join
    world.publish("a", "1", "2")
    assert fresh.heard == ["2"]
    assert resumed.heard == ["1", "2"]


def crowded():
    """Return a world with a channel of more subscribers than one turn has time for, and the last of them."""
    world = World(clock=Turns())
    ears = [Ear() for _ in range(STEPS)]
    for ear in ears:
        world.subscribe(ear, "a")
    return world, ears


def test_onItsWay():
    """Messages to very many subscribers take several turns, bounded in each, and arrive in order; then the answers come."""
    world, ears = crowded()
    answers = [world.channels.publish("a", text) for text in "123"]
    counts = [sum(len(ear.heard) for ear in ears)]
    while not all(each.called for each in answers):
        world.clock.turn()
        counts.append(sum(len(ear.heard) for ear in ears))
        assert 0 < counts[-1] - counts[-2] <= STEPS // 2 + 1
    assert {tuple(ear.heard) for ear in ears} == {("1", "2", "3")}
    assert [world.now(each) for each in answers] == [("a", f"e:{n}", STEPS) for n in (1, 2, 3)]


@pytest.mark.parametrize("after", [None, "0", "e:1"])
@pytest.mark.parametrize("kind", [Ear, OtherEar])
def test_subscribedOnItsWay(kind, after):
    """A subscriber that comes while a message is on its way gets it from history or not at all, and later ones once."""
    world, _ = crowded()
    for text in "12":
        world.channels.publish("a", text)
    ear = kind()
    world.subscribe(ear, "a", after)
    world.channels.publish("a", "3")
    world.fanOuts.catchUp(ear.caller)
    assert ear.heard == {None: [], "0": ["1", "2"], "e:1": ["2"]}[after] + ["3"]
    for _ in range(20):
        world.clock.turn()
    assert ear.ids == [f"e:{text}" for text in ear.heard]
    assert ear.heard[-1:] == ["3"]
    assert len(ear.heard) == {None: 1, "0": 3, "e:1": 2}[after]


def test_unsubscribedOnItsWay():
    """A subscriber that leaves early gets what was published until then, once, and nothing later, even if it comes back."""
    world, ears = crowded()
    last = ears[-1]
    answers = [world.channels.publish("a", text) for text in "12"]
    assert last.heard == []
    world.channels.unsubscribe(last, "a")
    assert last.heard == ["1", "2"]
    answers.append(world.channels.publish("a", "3"))
    world.subscribe(last, "a")
    answers.append(world.channels.publish("a", "4"))
    for _ in range(20):
        world.clock.turn()
    assert last.heard == ["1", "2", "4"]
    assert [world.now(each).recipients for each in answers] == [STEPS, STEPS, STEPS - 1, STEPS]


def test_leftOnItsWay():
    """A subscriber that has gone gets nothing more, and is not waited for."""
    world, ears = crowded()
    answer = world.channels.publish("a", "1")
    world.channels.leave(ears[-1])
    for _ in range(20):
        world.clock.turn()
    assert answer.called
    world.channels.publish("a", "2")
    for _ in range(20):
        world.clock.turn()
    assert "2" not in ears[-1].heard
    assert ears[-2].heard == ["1", "2"]


def test_patternsOnTheirWay():
    """A subscriber that a message reaches in several ways gets it once, also in slices; so does one with only a pattern."""
    world, ears = crowded()
    both, wide = ears[5], Ear()
    world.subscribe(both, "*")
    world.subscribe(wide, "*")
    answer = world.channels.publish("a", "1")
    world.fanOuts.catchUp(wide.caller)
    for _ in range(20):
        world.clock.turn()
    assert (both.heard, wide.heard) == (["1"], ["1"])
    assert world.now(answer).recipients == STEPS + 1


def test_onceOnItsWay():
    """A publication that is repeated while it is on its way is not sent again, and has the same answer when there is one."""
    world, ears = crowded()
    answers = [world.channels.publish("a", "1", idempotencyKey="k") for _ in range(3)]
    assert not any(each.called for each in answers)
    for _ in range(20):
        world.clock.turn()
    assert [world.now(each) for each in answers] == [("a", "e:1", STEPS)] * 3
    assert ears[-1].heard == ["1"]
    assert world.now(world.channels.publish("a", "1", idempotencyKey="k")) == ("a", "e:1", STEPS)


def test_onceFromWithin(world):
    """So it is if a service repeats it while it is being sent."""
    ear, answers = Ear(), []
    world.subscribe(ear, "a")
    ear.onHear = lambda text: answers.append(world.channels.publish("a", "1", idempotencyKey="k"))
    assert world.now(world.channels.publish("a", "1", idempotencyKey="k")) == ("a", "e:1", 1)
    assert ear.heard == ["1"]
    assert world.now(answers[0]) == ("a", "e:1", 1)


def test_tooMuchOnItsWay():
    """While more is on its way than can be sent in time, a publication is refused, and neither numbered nor kept."""
    world = World(clock=Turns(), fanOutLag=0.01)
    for ear in [Ear() for _ in range(STEPS)]:
        world.subscribe(ear, "a")
    answer = world.channels.publish("a", "1")
    with pytest.raises(ChannelError) as caught:
        world.channels.publish("b", "3")
    assert caught.value.code == "unavailable"
    assert "b" not in world.engine
    for _ in range(20):
        world.clock.turn()
    assert answer.called
    world.publish("b", "3")


def test_leftWhilePassedOn(world):
    """A subscriber that leaves while a message is passed on does not disturb the others."""
    ears = [Ear(), OtherEar(), Ear()]
    for ear in ears:
        world.subscribe(ear, "a")
    ears[0].onHear = lambda text: [world.channels.leave(ear) for ear in ears[:2]]
    assert world.publish("a", "1")[0].recipients == 3
    assert world.publish("a", "2")[0].recipients == 1
    assert ears[2].heard == ["1", "2"]


# Rule 3: an engine that answers later.


@pytest.fixture
def late():
    return World(engine=LateEngine(), historyMessages=0)


def asked(world):
    """Return the question that was asked last."""
    return world.engine.questions[-1]


def joined(world, channel="a", last=0, ear=None):
    """Return an ear that is subscribed to a channel whose last message is e:`last`, or, without `last`, to a pattern."""
    ear = ear or Ear()
    started = world.channels.subscribe(ear, channel)
    world.engine.asked[-1].callback(None if last is None else Position("e", last))
    assert world.now(started).channel == channel
    return ear


def test_lateJoin(late):
    """What comes before the history is held, and what is in both comes once.

    It is asked for when the engine has said from where on it passes messages on: what it knew before that may end earlier.
    """
    ear, engine = Ear(), late.engine
    started = late.channels.subscribe(ear, "a", "e:1")
    taken = [engine.receive(engine.message(offset)) for offset in (3, 4, 5)]
    assert [question[0] for question in engine.questions] == ["watch"]
    engine.asked[0].callback(Position("e", 2))
    assert [question[0] for question in engine.questions] == ["watch", "since"]
    assert ear.heard == []
    engine.asked[1].callback(History(Position("e", 1), True, [engine.message(2), engine.message(3)]))
    assert late.now(started) == ("a", Position("e", 1), True, 4)
    assert engine.receive(engine.message(6)) == 1
    assert ear.heard == ["2", "3", "4", "5", "6"]
    assert [late.now(each) for each in taken] == [0, 0, 0]


def test_lateJoinWithoutHistory(late):
    """Without a position, a subscription begins with what comes next; a pattern has no history."""
    ear, wide, engine = Ear(), Ear(), late.engine
    late.channels.subscribe(ear, "a")
    engine.receive(engine.message(3))
    engine.asked[0].callback(Position("e", 3))
    started = late.channels.subscribe(wide, "*", "e:1")
    engine.asked[1].callback(None)
    assert late.now(started) == ("*", None, False, 0)
    assert engine.receive(engine.message(4)) == 2
    assert engine.receive(engine.message(1, channel="b")) == 1
    assert len(engine.asked) == 2
    assert (ear.heard, wide.heard) == (["4"], ["4", "1"])


def test_lateSecond(late):
    """A second subscriber of a channel begins at once, or waits for its own history only."""
    one, two, three, engine = joined(late, last=1), Ear(), Ear(), late.engine
    assert late.now(late.channels.subscribe(two, "a")).position == ("e", 1)
    started = late.channels.subscribe(three, "a", "e:0")
    assert engine.receive(engine.message(2)) == 2
    engine.asked[1].callback(History(Position("e", 0), True, [engine.message(1)]))
    assert late.now(started).missed == 2
    assert (one.heard, two.heard, three.heard) == (["2"], ["2"], ["1", "2"])
    assert engine.receive(engine.message(3)) == 3


def test_lateJoinAhead(late):
    """A history that is ahead of what was passed on does not make its subscriber hear anything twice."""
    one, two, engine = joined(late), Ear(), late.engine
    started = late.channels.subscribe(two, "a", "e:0")
    engine.asked[1].callback(History(Position("e", 0), True, [engine.message(1), engine.message(2)]))
    assert not started.called
    assert asked(late) == ("since", "a", ("e", 0))
    engine.receive(engine.message(1))
    engine.asked[2].callback(History(Position("e", 0), True, [engine.message(1), engine.message(2)]))
    engine.receive(engine.message(2))
    engine.receive(engine.message(3))
    assert late.now(started).missed == 2
    assert one.heard == two.heard == ["1", "2", "3"]


@pytest.mark.parametrize("recovered", [True, False])
def test_lateJoinNewEpoch(late, recovered):
    """A numbering that begins anew while a history is on its way is not taken for the old one.

    If the engine says that nothing is missing in between, it has lost what the others did not get, and may have it again.
    """
    one, two, engine = joined(late, last=1), Ear(), late.engine
    started = late.channels.subscribe(two, "a", "e:1")
    engine.receive(engine.message(1, epoch="f"))
    since = Position("e", 1) if recovered else Position("f", 0)
    engine.asked[2].callback(History(since, recovered, [engine.message(1, epoch="f")]))
    engine.asked[1].callback(History(Position("e", 1), True, [engine.message(2)]))
    assert (one.ids, two.ids) == (["f:1"], ["f:1"])
    assert late.now(started).missed == len(two.ids)
    assert one.lossesAt == ([] if recovered else [("f", 0)])


def test_gap(late):
    """What has a gap before it waits until the engine has said what is missing, and then comes in order, once."""
    ear, engine = joined(late, last=1), late.engine
    third, fourth, again = (engine.receive(engine.message(offset)) for offset in (3, 4, 3))
    assert ear.heard == []
    assert asked(late) == ("since", "a", ("e", 1))
    engine.asked[-1].callback(History(Position("e", 1), True, [engine.message(2), engine.message(3)]))
    assert ear.heard == ["2", "3", "4"]
    assert [late.now(each) for each in (third, fourth, again)] == [0, 1, 0]
    assert engine.receive(engine.message(4)) == 0
    assert engine.receive(engine.message(5)) == 1
    assert ear.lossesAt == []


def test_gapThatStays(late):
    """What the engine does not keep any more is said to be lost; so is what it says is there and never gives."""
    ear, engine = joined(late, last=1), late.engine
    engine.receive(engine.message(5))
    engine.asked[-1].callback(History(Position("e", 3), False, [engine.message(4)]))
    assert (ear.heard, ear.lossesAt) == (["4", "5"], [("e", 3)])
    engine.receive(engine.message(7))
    for _ in range(ATTEMPTS):
        assert ear.heard == ["4", "5"]
        engine.asked[-1].callback(History(Position("e", 5), True, []))
    assert (ear.heard, ear.lossesAt) == (["4", "5", "7"], [("e", 3), ("e", 6)])


def test_gapInPages(late):
    """Much is asked for in pages, and what comes meanwhile and is too much to hold is asked for, too."""
    ear, engine = joined(late), late.engine
    end = 3 * LEAST
    for offset in range(2, end):
        engine.receive(engine.message(offset))
    while not engine.asked[-1].called:
        _, _, after = asked(late)
        page = [engine.message(offset) for offset in range(after.offset + 1, end)[:LEAST]]
        engine.asked[-1].callback(History(after, True, page))
    assert [question[2].offset for question in engine.questions[1:]] == [0, LEAST + 1, 2 * LEAST + 1]
    engine.receive(engine.message(end))
    assert ear.heard == [str(offset) for offset in range(1, end + 1)]


def test_outage(late):
    """After the engine was away, what was missed is asked for; clients are told that they hear nothing, and then that they do."""
    ear, wide, engine = joined(late, last=1), joined(late, "*", None), late.engine
    engine.tell(EngineState.DOWN)
    assert ear.degradations == wide.degradations == [True]
    engine.tell(EngineState.RESUMING)
    engine.tell(EngineState.UP)
    assert ear.degradations == wide.degradations == [True, False]
    assert asked(late) == ("since", "a", ("e", 1))
    engine.receive(engine.message(3))
    engine.asked[-1].callback(History(Position("e", 1), True, [engine.message(2), engine.message(3)]))
    assert ear.heard == wide.heard == ["2", "3"]


def test_outageWhileAsked(late):
    """A question that fails because the engine is away is asked again when it is back."""
    ear, engine = joined(late), late.engine
    engine.receive(engine.message(2))
    engine.tell(EngineState.DOWN)
    engine.asked[-1].errback(ChannelError("unavailable", "no"))
    engine.tell(EngineState.UP)
    engine.asked[-1].callback(History(Position("e", 0), True, [engine.message(1), engine.message(2)]))
    assert (ear.heard, ear.lossesAt) == (["1", "2"], [])


def test_partOfTheEngineIsBack(late):
    """When a part of the engine is back, what could not be answered is asked again, and nothing else."""
    ear, other, engine = joined(late), joined(late, "b", last=1), late.engine
    engine.receive(engine.message(2))
    engine.tell(EngineState.DOWN)
    engine.asked[-1].errback(ChannelError("unavailable", "no"))
    engine.tell(EngineState.DOWN)
    assert asked(late) == ("since", "a", ("e", 0))
    engine.asked[-1].callback(History(Position("e", 0), True, [engine.message(1), engine.message(2)]))
    assert (ear.heard, ear.degradations, other.degradations) == (["1", "2"], [True], [True])
    assert [question[1] for question in engine.questions if question[0] == "since"] == ["a", "a"]


def test_lost(late):
    """An engine that knows that messages are lost says so, and the next ones follow."""
    ear, engine = joined(late, last=1), late.engine
    engine.node.lost("a", Position("f", 7))
    engine.receive(engine.message(8, epoch="f"))
    assert (ear.ids, ear.lossesAt) == (["f:8"], [("f", 7)])
    engine.node.lost("b", Position("f", 7))


def test_forgottenWhileOneJoins(late):
    """What the engine forgets while a subscription waits, and has again with another number, comes once."""
    one, two, engine = joined(late, last=1), Ear(), late.engine
    started = late.channels.subscribe(two, "a", "e:1", room=AnswerBudget(late.limits))
    engine.receive(engine.message(2))
    engine.asked[-1].callback(History(Position("e", 1), True, [engine.message(2), engine.message(3, "three")]))
    for _ in range(3):  # the feed asks for what others have been told
        engine.asked[-1].callback(History(Position("e", 2), True, []))
    assert engine.questions[-1][0] == "members"
    members = engine.asked[-1]
    engine.receive(engine.message(3, "three", epoch="f"))
    engine.asked[-1].callback(History(Position("e", 2), True, [engine.message(3, "three", epoch="f")]))
    members.callback(Members([], None, 0))
    assert (two.ids, two.heard) == (["e:2", "f:3"], ["2", "three"])
    assert late.now(started).recovered
    assert one.ids[-1] == "f:3"


def test_lostIsOldNews(late):
    """A loss that is told late, after what follows it was passed on, takes nobody back."""
    ear, engine = joined(late, last=1), late.engine
    engine.receive(engine.message(2))
    engine.receive(engine.message(3))
    engine.node.lost("a", Position("e", 2))
    engine.receive(engine.message(3))
    engine.receive(engine.message(4))
    assert (ear.ids, ear.lossesAt) == (["e:2", "e:3", "e:4"], [])


@pytest.mark.parametrize("loss", [2, 4])
def test_lostWhileOneJoins(late, loss):
    """What is lost while a subscription waits is not passed over in silence, unless its history has it; what follows is whole."""
    one, two, engine = joined(late, last=1), Ear(), late.engine
    room = AnswerBudget(late.limits)
    started = late.channels.subscribe(two, "a", "e:1", room=room)
    engine.receive(engine.message(2))
    engine.asked[-1].callback(History(Position("e", 1), True, [engine.message(2)]))
    engine.node.lost("a", Position("e", loss))
    engine.receive(engine.message(loss + 1))
    engine.asked[-1].callback(Members([], None, 0))
    assert two.heard == (["2", "3"] if loss == 2 else ["5"])
    assert late.now(started).recovered == (loss == 2)
    assert one.lossesAt == [("e", loss)]


def test_heardBeforeTheAnswer(late):
    """However much of a channel subscribers of a pattern get before the engine has answered about the channel, it comes once."""
    wide, ear, engine = joined(late, "*", None), Ear(), late.engine
    late.channels.subscribe(ear, "a")
    end = LEAST + 20
    messages = [engine.message(offset) for offset in range(1, end + 1)]
    for each in messages:
        engine.receive(each)
    engine.asked[-1].callback(Position("e", 0))
    while not engine.asked[-1].called:
        _, _, after = asked(late)
        engine.asked[-1].callback(History(after, True, messages[after.offset :][:LEAST]))
    engine.receive(engine.message(end + 1))
    assert wide.heard == [str(offset) for offset in range(1, end + 2)]
    assert ear.heard == [str(end + 1)]


def test_tooMuchAfterALoss(late):
    """A subscription that waits while more follows a loss than is held for it is refused: it would miss some of that unsaid."""
    _, two, engine = joined(late, last=1), Ear(), late.engine
    room = AnswerBudget(late.limits)
    failed = late.channels.subscribe(two, "a", "e:1", room=room)
    engine.asked[-1].callback(History(Position("e", 1), True, []))
    engine.node.lost("a", Position("e", 4))
    for offset in range(5, 6 + LEAST):
        engine.receive(engine.message(offset))
    engine.asked[-1].callback(Members([], None, 0))
    assert late.now(failed.addErrback(lambda failure: failure.value.code)) == "unavailable"
    assert (two.heard, two.channels) == ([], ())


def test_lostBeforeOneJoins(late):
    """A subscription without a position begins after what is lost while it waits."""
    _, two, engine = joined(late, last=1), Ear(), late.engine
    started = late.channels.subscribe(two, "a", room=AnswerBudget(late.limits))
    engine.receive(engine.message(2))
    engine.node.lost("a", Position("e", 4))
    engine.receive(engine.message(5))
    engine.asked[-1].callback(Members([], None, 0))
    assert late.now(started) == ("a", Position("e", 4), False, 1)
    assert two.heard == ["5"]


def test_whoLater(late):
    """Who is there is asked of the engine before the subscription begins, and counts the subscriber."""
    ear, engine = Ear("ann"), late.engine
    started = late.channels.subscribe(ear, "a", room=AnswerBudget(late.limits))
    assert list(engine.entered.values()) == ["ann"]
    engine.asked[0].callback(Position("e", 0))
    assert asked(late) == ("members", "a")
    assert engine.receive(engine.message(1)) == 0
    ann = Member("ann", msgspec.Raw(b"null"), 1)
    engine.asked[-1].callback(Members([ann], None, 6))
    assert late.now(started).missed == 1
    assert ear.who == {"count": 7, "members": [ann]}
    engine.node.joined("a", Member("bob", msgspec.Raw(b"1"), 1))
    assert [json.loads(each)["member"] for each in ear.notices] == [{"user": "bob", "info": 1}]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda channels, engine, ear: engine.asked[0].errback(ChannelError("unavailable", "no")), ChannelError),
        (lambda channels, engine, ear: channels.leave(ear), ConnectionClosed),
        (lambda channels, engine, ear: channels.unsubscribe(ear, "a"), ChannelError),
    ],
    ids=["refused", "gone", "unsubscribed"],
)
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("after", [None, "e:0"])
def test_lateRefusal(late, end, error, answers, after):
    """An engine that fails, or whose answer is no longer wanted, leaves nothing behind."""
    ann, engine, failures = Ear("ann"), late.engine, []
    late.channels.subscribe(ann, "a", after).addErrback(failures.append)
    with pytest.raises(ChannelError, match="already"):
        late.channels.subscribe(ann, "a")
    late.channels.subscribe(Ear(), "b")
    end(late.channels, engine, ann)
    for question, answer in zip(engine.questions, engine.asked, strict=True):
        if question[1] == "a" and not answer.called:
            if not answers:
                answer.errback(ChannelError("unavailable", "no"))
            elif question[0] == "watch":
                answer.callback(Position("e", 0))
            else:
                answer.callback(History(Position("e", 0), True, []))
    assert failures[0].check(error)
    assert ann.channels == ()
    assert engine.watched == ["b"]
    assert engine.receive(engine.message(1)) == 0
    assert engine.entered == {}


def test_leavesWithOneOfTwo(late):
    """A subscriber that leaves when one of its subscriptions has begun, and another waits, ends both."""
    ear, engine, failures = Ear(), late.engine, []
    late.channels.subscribe(ear, "a")
    late.channels.subscribe(ear, "b").addErrback(failures.append)
    engine.asked[0].callback(Position("e", 0))
    assert ear.channels == ("a",)
    late.channels.leave(ear)
    assert failures[0].check(ConnectionClosed)
    assert engine.watched == []
    engine.asked[1].callback(Position("e", 0))
    assert ear.channels == ()


@pytest.mark.parametrize("more", [0, 1])
def test_lateJoinBound(late, more):
    """As many messages are held for a join as a feed holds; if there are more and a history ends before them, it is refused."""
    _, ear, engine, failures = joined(late), Ear(), late.engine, []
    started = late.channels.subscribe(ear, "a", "e:0").addErrback(failures.append)
    messages = [engine.message(offset) for offset in range(1, LEAST + more + 1)]
    for each in messages:
        engine.receive(each)
    first, second = map(sys.getrefcount, messages[:2])
    assert second - first == more
    engine.asked[-1].callback(History(Position("e", 0), True, []))
    if more:
        assert failures[0].value.code == "unavailable"
        assert ear.heard == []
    else:
        assert late.now(started).missed == LEAST
        assert ear.heard == [each.payload.decode() for each in messages]


def test_lateHistory(late):
    """A history that took long to arrive is complete with the newest of what came meanwhile."""
    _, ear, engine = joined(late), Ear(), late.engine
    started = late.channels.subscribe(ear, "a", "e:0")
    messages = [engine.message(offset) for offset in range(1, 3 * LEAST)]
    for each in messages:
        engine.receive(each)
    engine.asked[-1].callback(History(Position("e", 0), True, messages[:-5]))
    assert late.now(started).missed == len(messages)
    assert ear.heard == [each.payload.decode() for each in messages]


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("after", [None, "e:0"])
def test_latePattern(late, position, after):
    """Whoever has a pattern gets each message once, and at once, while another one subscribes to its channel."""
    wide, ear, engine = joined(late, "*", None), Ear(), late.engine
    engine.receive(engine.message(1))
    started = late.channels.subscribe(ear, "a", after)
    taken = [engine.receive(engine.message(offset)) for offset in (2, 3)]
    assert wide.heard == ["1", "2", "3"]
    engine.asked[1].callback(Position("e", position))
    if after:
        engine.asked[2].callback(History(Position("e", 0), True, [engine.message(each + 1) for each in range(position)]))
    engine.receive(engine.message(4))
    assert late.now(started).missed == (3 if after else 0)
    assert wide.heard == ["1", "2", "3", "4"]
    assert ear.heard == wide.heard[0 if after else 3 :]
    assert [late.now(each) for each in taken] == [1, 1]


def test_latePatternAlone(late):
    """Whoever has a pattern gets what waits for something that is missing when the last subscriber of its channel leaves."""
    wide, ear, engine = joined(late, "*", None), joined(late, last=1), late.engine
    taken = engine.receive(engine.message(3))
    assert wide.heard == []
    late.channels.unsubscribe(ear, "a")
    assert wide.heard == ["3"]
    assert late.now(taken) == 1


@pytest.mark.parametrize("phase", ["watch", "since", "members"])
@pytest.mark.parametrize("leaves", [True, False])
def test_lateForNobody(late, phase, leaves):
    """The engine is not asked for anybody who does not wait any more, and is told when nobody waits for an answer."""
    one, ear, engine, failures = Ear(), Ear(), late.engine, []
    late.channels.subscribe(one, "a")
    if phase != "watch":
        engine.asked[0].callback(Position("e", 0))
    started = late.channels.subscribe(ear, "a", "e:0", room=AnswerBudget(late.limits)).addErrback(failures.append)
    if phase == "members":
        engine.asked[-1].callback(History(Position("e", 0), True, []))
    if leaves:
        late.channels.leave(ear)
    else:
        late.channels.unsubscribe(ear, "a")
    if phase == "watch":
        engine.asked[0].callback(Position("e", 0))
    assert started.called
    assert failures[0].check(ConnectionClosed, ChannelError)
    assert asked(late)[0] == phase
    assert all(answer.called for answer in engine.asked)
    assert engine.watched == ["a"]


def test_lateTogether(late):
    """Subscribers that wait for one channel do not disturb each other."""
    one, two, three, engine = Ear(), Ear(), Ear(), late.engine
    late.channels.subscribe(one, "a").addErrback(lambda failure: None)
    late.channels.subscribe(two, "a")
    engine.receive(engine.message(5))
    late.channels.leave(three)
    late.channels.leave(one)
    assert engine.watched == ["a"]
    engine.asked[0].callback(Position("e", 4))
    engine.receive(engine.message(6))
    assert (one.heard, two.heard) == ([], ["6"])
    late.channels.leave(two)
    assert engine.watched == []


def test_lateAnswers(late):
    """Every other answer comes when the engine gives it, also if it had to wait for its turn."""
    engine, answers = late.engine, []
    answers.append(late.channels.publish("a", "1"))
    answers.append(late.channels.forget("a"))
    answers.append(late.channels.history("a"))
    assert not any(answer.called for answer in answers)
    empty = History(Position("e", 0), True, [])
    values = Published("a", "e:1", 0), 1, empty
    for value, question in zip(values, engine.asked, strict=True):
        question.callback(value)
    assert tuple([late.now(answer) for answer in answers]) == values


def test_publishedWhileItIsHeard():
    """A message that a subscriber publishes while it is handed another gets the engine's answer, too."""

    class Both(LateEngine):
        def publish(self, channel, *rest):
            self.receive(self.message(1, channel=channel))
            return super().publish(channel, *rest)

    world, ear, answers = World(engine=Both()), Ear(), []
    joined(world, ear=ear)
    ear.onHear = lambda text: answers.append(world.channels.publish("b", "2"))
    world.channels.publish("a", "1")
    second = Published("b", "e:2", 0)
    world.engine.asked[1].callback(second)
    assert world.now(answers[-1]) is second
