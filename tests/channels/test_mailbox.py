from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.channels.histories import Kept
from twisted_ws.channels.subscribers.mailbox import CHARGE, DROPS, NOTICE_CHARGE, STEPS, Mailbox, Policy
from twisted_ws.engines.replay import CHARGE as HELD_CHARGE
from twisted_ws.engines.replay import REPLAY_CHARGE
from twisted_ws.message import Kind, Publication

SIZE = CHARGE + 10
KEYED = SIZE + "k".__sizeof__()


def message(offset, channel="a", key=None, at=0, size=10):
    return Publication(channel, "e", offset, Kind.TEXT, b"x" * size, key, at)


def add(mailbox, item, now=0):
    """Add a message or a notice."""
    return mailbox.addNotice(item, now) if isinstance(item, bytes) else mailbox.add(item, now)


def drain(mailbox, now=0, room=1000):
    """Return the offsets of the messages and the notices that wait, in order."""
    found = []
    while mailbox:
        found += [item if isinstance(item, bytes) else item.offset for item in mailbox.take(room, now, True)]
    assert (bool(mailbox), mailbox.size, mailbox.notices) == (False, 0, 0)
    return found


@pytest.mark.parametrize("policy", list(Policy))
def test_order(policy):
    """What fits comes out in the order in which it went in, notices among messages."""
    mailbox = Mailbox(policy, 10_000, 30)
    assert [add(mailbox, item) for item in (message(1, "a"), b"f", b"g", message(1, "b"), b"h")] == [True] * 5
    assert (mailbox.size, mailbox.notices) == (2 * SIZE + 3 * (NOTICE_CHARGE + 1), 3 * (NOTICE_CHARGE + 1))
    assert drain(mailbox) == [1, b"f", b"g", 1, b"h"]


def test_room():
    """As much is taken as there is room for; a larger message goes alone."""
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
    for offset in range(1, 6):
        mailbox.add(message(offset), 0)
    assert mailbox.take(9, 0, False) == []
    assert [each.offset for each in mailbox.take(9, 0, True)] == [1]
    assert [each.offset for each in mailbox.take(29, 0, True)] == [2, 3]
    assert drain(mailbox) == [4, 5]
    assert mailbox.take(9, 0, True) == []


def test_close():
    """With the policy close, one byte too many or a message too old ends the connection."""
    mailbox = Mailbox(Policy.CLOSE, 2 * SIZE, 30)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 30)
    assert not mailbox.add(message(3), 30)
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
    assert mailbox.add(message(1), 0)
    assert not mailbox.add(message(2), 30.25)
    assert not mailbox.addNotice(b"f", 30.25)


@pytest.mark.parametrize("policy", list(Policy))
def test_beside(policy):
    """What waits for the subscriber elsewhere counts for the cap, too."""
    mailbox = Mailbox(policy, 2 * SIZE, 30)
    assert mailbox.add(message(1), 0, SIZE)
    if policy is Policy.CLOSE:
        assert not mailbox.add(message(2), 0, SIZE)
        return
    assert mailbox.add(message(2), 0, SIZE)
    assert drain(mailbox) == [2]
    assert not mailbox.addNotice(b"f", 0, 2 * SIZE)


def test_dropOldest():
    """With drop-oldest, the oldest messages go, never a notice; messages that are too old go however little waits."""
    mailbox = Mailbox(Policy.DROP_OLDEST, 2 * SIZE + NOTICE_CHARGE + 1, 30)
    for item in (b"f", message(1), message(2), message(3)):
        assert add(mailbox, item)
    assert mailbox.size == 2 * SIZE + NOTICE_CHARGE + 1
    assert drain(mailbox) == [b"f", 2, 3]
    for item in (b"f", message(1), message(2, at=20)):
        assert add(mailbox, item, getattr(item, "at", 0))
    assert mailbox.add(message(3, at=30), 30.25)
    assert drain(mailbox, 50.25) == [b"f", 3]
    for offset in (1, 2):
        assert mailbox.add(message(offset), 0)
    assert mailbox.addNotice(b"f", 0)
    assert drain(mailbox, 100) == [2, b"f"]


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
def test_newest(policy):
    """The newest message stays even if it is larger than the cap, but notices alone must fit."""
    mailbox = Mailbox(policy, NOTICE_CHARGE + 1, 30)
    assert mailbox.addNotice(b"f", 0)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 100)
    assert not mailbox.addNotice(b"f", 100)
    mailbox = Mailbox(policy, NOTICE_CHARGE + 1, 30)
    assert mailbox.add(message(1), 0)
    assert mailbox.add(message(2), 0)
    assert drain(mailbox, 100) == [2]


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
def test_framesAlone(policy):
    """Too many notices end the connection."""
    mailbox = Mailbox(policy, 2 * NOTICE_CHARGE, 30)
    assert mailbox.addNotice(b"", 0)
    assert mailbox.addNotice(b"", 0)
    assert not mailbox.addNotice(b"", 0)


def test_latest():
    """With latest, of one channel and key only the newest waits, in the place of the newest."""
    mailbox = Mailbox(Policy.LATEST, 10_000, 30)
    for item in (message(1), message(2, key="k"), message(3), message(1, "b"), message(4, key="l"), message(5, key="k")):
        assert mailbox.add(item, 0)
    assert mailbox.size == 2 * SIZE + 2 * KEYED
    assert drain(mailbox) == [3, 1, 4, 5]


def test_latestOverflows():
    """Of too many keys, those with the oldest messages are dropped."""
    mailbox = Mailbox(Policy.LATEST, 2 * KEYED, 30)
    for offset in range(1, 5):
        assert mailbox.add(message(offset, key=str(offset)), 0)
    assert drain(mailbox) == [3, 4]


@pytest.mark.parametrize("policy", list(Policy))
def test_drop(policy):
    """The waiting messages of one channel can be dropped alone; notices stay."""
    mailbox = Mailbox(policy, 100_000, 30)
    for offset in range(1, 4):
        for channel in "ab":
            mailbox.add(message(offset, channel, str(offset)), 0)
        mailbox.addNotice(b"%d" % offset, 0)
    mailbox.drop("c")
    mailbox.drop("a")
    assert mailbox.size == 3 * (KEYED + NOTICE_CHARGE + 1)
    assert [item for item in drain(mailbox) if item in (1, 2, 3)] == [1, 2, 3]


def test_wanted():
    """What is no longer wanted is dropped when its turn comes, or earlier if too much waits."""
    mailbox = Mailbox(Policy.CLOSE, 4 * SIZE, 30)
    for channel in "abab":
        mailbox.add(message(1, channel), 0)
    mailbox.wanted = lambda channel: channel == "b"
    assert mailbox.add(message(2, "b"), 0)
    assert mailbox.size == 4 * SIZE
    assert not mailbox.add(message(3, "b"), 0)
    assert drain(mailbox) == [1, 1, 2, 3]


# What a resume has to send.


@pytest.mark.parametrize("policy", list(Policy))
def test_past(policy):
    """A resume holds no message, however many there are, none of them counts as too old, and new messages come after it."""
    history = Kept(1000)
    mailbox = Mailbox(policy, 2 * SIZE, 30)
    assert mailbox.resume("a", history.since(0), (b"f",), 100)
    assert mailbox.size == REPLAY_CHARGE + NOTICE_CHARGE + 1
    for _ in range(1000):
        assert mailbox.add(history.publish(), 200)
    assert mailbox.size <= REPLAY_CHARGE + 1000 / 8 + SIZE + NOTICE_CHARGE + 1
    found = drain(mailbox, 300, 100_000)
    assert found[0] == b"f"
    assert found[1:] == ([*range(1, 2001)] if policy is not Policy.LATEST else [2000])


@pytest.mark.parametrize("policy", list(Policy))
def test_forgottenPast(policy):
    """What the history forgets before it was sent is lost, which ends a connection that must miss nothing."""
    history = Kept(10)
    mailbox = Mailbox(policy, 10_000, 30)
    mailbox.resume("a", history.since(4), (), 0)
    history.forget(6)
    if policy is Policy.CLOSE:
        assert not mailbox.add(history.publish(), 0)
        assert mailbox.isLost
        assert mailbox.take(1000, 0, True) == []
        mailbox = Mailbox(policy, 10_000, 30)
        mailbox.resume("a", history.since(4), (), 0)
        assert mailbox.take(1000, 0, True) == []
        assert mailbox.isLost
        return
    assert mailbox.add(history.publish(), 0)
    assert drain(mailbox) == ([7, 8, 9, 10, 11] if policy is Policy.DROP_OLDEST else [11])
    mailbox.resume("a", history.since(6), (), 0)
    history.forget(11)
    assert drain(mailbox) == []
    assert not mailbox.isLost


def test_latestPast():
    """With latest, only the last missed message of each key comes, unless a newer one waits."""
    history = Kept(0)
    for key in "abcab":
        history.publish(key)
    mailbox = Mailbox(Policy.LATEST, 10_000, 30)
    mailbox.resume("a", history.since(0), (), 0)
    mailbox.add(history.publish("d"), 0)
    mailbox.add(history.publish("a"), 0)
    assert drain(mailbox) == [3, 5, 6, 7]


def test_turns():
    """What was missed and what is published take turns; the messages of one channel stay in order."""
    history = Kept(3)
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
    for offset in (21, 22, 23):
        mailbox.add(message(offset, "b"), 0)
    mailbox.resume("a", history.since(0), (), 0)
    assert drain(mailbox) == [21, 1, 22, 2, 23, 3]


def test_heldPast():
    """Messages that no local history keeps are counted, but not towards the cap; new messages wait behind them."""
    mailbox = Mailbox(Policy.CLOSE, SIZE, 30)
    assert mailbox.resume("a", [message(offset) for offset in range(1, 4)], (), 0)
    assert mailbox.size == 3 * (HELD_CHARGE + 10)
    assert mailbox.add(message(4), 0)
    assert not mailbox.add(message(5), 0)
    assert len(mailbox.take(10, 0, False)) == 1
    assert mailbox.size == 2 * (HELD_CHARGE + 10) + 2 * SIZE
    assert drain(mailbox) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("since", "order"),
    [
        ((), [b"begins", 1, 2, 3, b"lost", 7]),
        ((message(4),), [b"begins", 1, 2, 3, 4, b"lost", 7]),
        ((message(21, "b"),), [b"begins", 1, 21, 2, 3, b"lost", 7]),
        ((message(4), message(21, "b")), [b"begins", 1, 2, 3, 4, 21, b"lost", 7]),
    ],
)
def test_noticeBehindPast(since, order):
    """A notice about a channel comes behind what was missed of it, and what has come since, and before what comes later."""
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
    assert mailbox.resume("a", [message(offset) for offset in range(1, 4)], [b"begins"], 0)
    for each in since:
        assert mailbox.add(each, 0)
    assert mailbox.addNotice(b"lost", 0, channel="a")
    assert mailbox.begins() is None
    assert mailbox.add(message(7), 0)
    assert drain(mailbox) == order


def test_noticeBehindDroppedPast():
    """If what was missed is dropped, the notice behind it is not."""
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
    mailbox.resume("a", [message(1)], (), 0)
    assert mailbox.addNotice(b"lost", 0, channel="a")
    mailbox.drop("a")
    assert drain(mailbox) == [b"lost"]


@pytest.mark.parametrize("held", [False, True])
def test_dropPast(held):
    """The missed messages of a channel can be dropped alone: what was published since stays."""
    for whole in (False, True):
        history = Kept(3)
        mailbox = Mailbox(Policy.CLOSE, 10_000, 30)
        mailbox.resume("a", [*history.since(0)] if held else history.since(0), (), 0)
        mailbox.add(history.publish(), 0)
        mailbox.drop("a", whole)
        assert drain(mailbox) == ([] if whole else [4])


# How long it takes.


class Steps:
    """Counts the lines of the package that run."""

    def __enter__(self):
        self.count = 0
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, event, _):
        if "twisted_ws" not in frame.f_code.co_filename:
            return None
        self.count += event == "line"
        return self._trace


MANY = 20_000


def steps(work):
    with Steps() as counted:
        work()
    return counted.count


@pytest.mark.parametrize("policy", list(Policy))
def test_steps(policy):
    """However much waits, adding, taking and dropping take no more steps than in an empty mailbox."""

    def worst(count):
        mailbox = Mailbox(policy, 1 << 40, 30)
        for number in range(count):
            mailbox.addNotice(b"f", 0)
            mailbox.add(message(number, str(number % 100), str(number)), 0)
        for _ in range(count):
            mailbox.addNotice(b"f", 0)
        return max(
            steps(lambda: mailbox.addNotice(b"f", 0)),
            steps(lambda: mailbox.add(message(count), 0)),
            steps(lambda: mailbox.add(message(0, "0", "0"), 0)),
            steps(lambda: mailbox.take(1, 0, True)),
            steps(lambda: mailbox.drop("none")),
        )

    assert worst(MANY) <= worst(10)


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
def test_stepsOfTheCap(policy):
    """Behind thousands of unread notices, each new message drops one, in the same few steps."""
    size = SIZE + "10".__sizeof__()
    mailbox = Mailbox(policy, MANY * (NOTICE_CHARGE + 1) + 2 * size, 30)
    for _ in range(MANY):
        mailbox.addNotice(b"f", 0)
    for number in range(10, 13):
        mailbox.add(message(number, key=str(number)), 0)
    assert max(steps(lambda number=number: mailbox.add(message(number, key=str(number)), 0)) for number in range(13, 100)) < 60
    assert mailbox.size == MANY * (NOTICE_CHARGE + 1) + 2 * size


def test_manyTooOld():
    """Messages that become too old at the same moment are dropped a few at a time, and none of them comes out."""
    mailbox = Mailbox(Policy.DROP_OLDEST, 1 << 40, 30)
    for number in range(MANY):
        mailbox.add(message(number), 0)
    full = mailbox.size
    mailbox.add(message(MANY, at=100), 100)
    assert mailbox.size == full - (DROPS - 1) * SIZE
    turns = 0
    while not (items := mailbox.take(1000, 100, True)):
        turns += 1
        assert mailbox.size >= full - (DROPS + turns * STEPS) * SIZE
    assert [each.offset for each in items] == [MANY]
    assert turns >= MANY // STEPS
    assert mailbox.size == 0


def test_manyOfThePast():
    """If only the newest message is wanted, thousands of others are skipped a few at a time."""
    history = Kept(MANY)
    mailbox = Mailbox(Policy.LATEST, 1 << 40, 30)
    mailbox.resume("a", history.since(0), (), 0)
    mailbox.take(1000, 0, True)  # finds out, once, which are wanted
    assert steps(lambda: mailbox.take(1000, 0, True)) < 60 * STEPS
    assert drain(mailbox) == [MANY]


# Whatever happens.


@given(
    st.sampled_from(list(Policy)),
    st.lists(st.tuples(st.sampled_from("amffrtd"), st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 3000)), max_size=60),
)
def test_count(policy, moves):
    """Whatever the order of events, the count is right, the cap holds, and the offsets of a channel only grow."""
    cap = 8000
    mailbox = Mailbox(policy, cap, 30)
    histories = {channel: Kept(0, channel) for channel in "abc"}
    resumed, tops = set(), dict.fromkeys("abc", 0)

    def take(room):
        for item in mailbox.take(room, 0, True):
            if not isinstance(item, bytes):
                assert item.offset > tops[item.channel]
                tops[item.channel] = item.offset

    for move, channel, key, size in moves:
        history = histories[channel]
        if move in "am":
            more = mailbox.add(history.publish(str(key), size), 0)
        elif move == "f":
            more = mailbox.addNotice(b"f" * size, 0)
        elif move == "r":
            mailbox.drop(channel)
            past = history.since(max(tops[channel], history.top - 3))
            more = not len(past) or mailbox.resume(channel, past, (b"r",), 0)
            resumed.add(channel)
        else:
            if move == "t":
                take(size)
            else:
                mailbox.drop(channel)
                tops[channel] = history.top
            continue
        if not more:
            break
        assert mailbox.size <= cap + 3000 + CHARGE + 3 * (REPLAY_CHARGE + 10)
    for _ in range(100):
        take(100_000)
    assert (bool(mailbox), mailbox.size, mailbox.notices) == (False, 0, 0)


BY_CHANNEL = {"a": Policy.CLOSE, "b": Policy.DROP_OLDEST, "c": Policy.LATEST}


def test_policiesByChannel():
    """Each channel's messages wait by its own policy; the one that has waited longest decides when there is too much."""
    mailbox = Mailbox(Policy.CLOSE, 3 * SIZE, 30, BY_CHANNEL.__getitem__)
    for item in (message(1, "c"), message(1, "b"), message(2, "c"), message(2, "b")):
        assert mailbox.add(item, 0)
    assert drain(mailbox) == [1, 2, 2]  # of c, only the newest
    for item in (message(1, "b"), message(2, "b"), message(1, "a"), message(3, "b"), message(4, "b")):
        assert mailbox.add(item, 0)  # those of b in front go
    assert not mailbox.add(message(5, "b"), 0)  # that of a may not
    mailbox = Mailbox(Policy.LATEST, 10_000, 30, BY_CHANNEL.__getitem__)
    assert mailbox.add(message(1, "b"), 0)
    assert mailbox.add(message(1, "a"), 0)
    assert not mailbox.add(message(2, "b", at=40), 40)  # the old one of b goes, and that of a is too old


def test_policiesOfReplays():
    """A replay is lost, or left out what later messages replace, by the policy of its channel."""
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30, BY_CHANNEL.__getitem__)
    for channel, lost in ("b", False), ("c", False), ("a", True):
        kept = Kept(3, channel)
        assert mailbox.resume(channel, kept.since(0), [], 0)
        kept.forget(2)
        found = mailbox.take(1000, 0, True)
        assert mailbox.isLost is lost
        assert [each.offset for each in found] == ([] if lost else [3])


def test_policiesThatChange():
    """While something of a channel waits, it waits by the policy that it came by; what comes later has the new one."""
    policies = {"c": Policy.LATEST}
    mailbox = Mailbox(Policy.CLOSE, 10_000, 30, policies.__getitem__)
    assert mailbox.add(message(1, "c"), 0)
    policies["c"] = Policy.DROP_OLDEST
    assert mailbox.add(message(2, "c"), 0)
    assert mailbox.add(message(3, "c"), 0)
    assert drain(mailbox) == [3]
    for offset in (4, 5):
        assert mailbox.add(message(offset, "c"), 0)
    assert drain(mailbox) == [4, 5]
