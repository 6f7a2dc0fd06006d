from __future__ import annotations

from contextlib import suppress
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.moments import MOMENTS, collectAt, noMemory
from twisted_ws.wire.websocket.crowd import GROUP, Crowd


class Member:
    """A member that knows its sender, and counts how often members are compared."""

    compared = 0

    def __init__(self, number):
        self.number = number
        self.sender = -number

    def __eq__(self, other):
        Member.compared += 1
        return self is other

    __hash__ = object.__hash__


def flat(runs):
    """Return the members of runs in order, having looked that their senders are theirs."""
    for members, senders, size in runs:
        assert [each.sender for each in members[:size]] == list(senders[:size])
    return [each for members, _, size in runs for each in members[:size]]


@given(st.lists(st.one_of(st.just(0), st.integers(1, 1 << 20)), max_size=60), st.integers(1, 3 * GROUP))
def test_anyOrder(moves, begin):
    """Whichever members come and leave, their order is that of coming, and going through them shows them as they were."""
    crowd, model, taken = Crowd(), {}, []
    for number in range(begin):
        member = Member(number)
        model[member] = crowd.add(member)
    for number, move in enumerate(moves, begin):
        taken.append((crowd.runs(), list(model)))
        # Some leave together, from one place on.
        for _ in range(move % GROUP if move else 0):
            if model:
                gone = list(model)[move % len(model)]
                crowd.remove(gone, model.pop(gone))
        if not move:
            member = Member(number)
            model[member] = crowd.add(member)
        assert len(crowd) == len(model)
        assert list(crowd) == list(model)
    for runs, members in taken:
        assert flat(runs) == members


@given(st.lists(st.integers(0, 1 << 20), max_size=40), st.integers(1, 2 * GROUP))
def test_keepsNobody(leaving, begin):
    """Nothing keeps a member that has left, however the others were gone through before."""
    crowd = Crowd()
    places = {member: crowd.add(member) for member in map(Member, range(begin))}
    for number in leaving:
        for _ in range(number % GROUP + 1):
            if places:
                gone = [*places][number % len(places)]
                crowd.remove(gone, places.pop(gone))
                kept = ref(gone)
                del gone
                assert kept() is None
        assert len(flat(crowd.runs())) == len(places)


def test_steps():
    """Among 20,000, to come and to leave costs a group at most; runs are as many as groups."""
    crowd = Crowd()
    members = [Member(number) for number in range(20_000)]
    places = {member: crowd.add(member) for member in members}
    runs = crowd.runs()
    assert len(runs) == -(-20_000 // GROUP)
    assert max(size for _, _, size in runs) == GROUP
    Member.compared = 0
    crowd.remove(members[10_000], places[members[10_000]])
    crowd.remove(members[-1], places[members[-1]])
    assert Member.compared <= 2 * GROUP
    before = [(members, len(members)) for members, _, _ in crowd.runs()]
    crowd.remove(members[5], places[members[5]])
    changed = [old is not new for (old, _), (new, _, _) in zip(before, crowd.runs(), strict=True)]
    assert sum(changed) == 1


def test_fewAreLeft():
    """When nearly all have left, the rest is in few groups: going through them costs no more than there are."""
    crowd = Crowd()
    members = [Member(number) for number in range(20 * GROUP)]
    places = {member: crowd.add(member) for member in members}
    for member in members:
        if member.number % GROUP:
            crowd.remove(member, places[member])
    left = [member for member in members if not member.number % GROUP]
    assert list(crowd) == left
    assert len(crowd.runs()) <= 3
    for member in left:
        crowd.remove(member, places[member])
    assert crowd.runs() == []
    assert len(crowd) == 0


@pytest.mark.parametrize("size", [4, 8, 130, GROUP])
@pytest.mark.parametrize("number", range(12))
def test_withoutMemory(size, number):
    """Where an allocation fails as one comes or leaves, either that is done or it is not, and each has its own sender."""
    crowd = Crowd()
    places = {member: crowd.add(member) for member in map(Member, range(size))}
    *others, last = places
    new = Member(size)
    with suppress(MemoryError), noMemory(number):
        crowd.add(new)
    between = flat(crowd.runs())
    assert between in ([*places], [*places, new])
    with suppress(MemoryError), noMemory(number):
        crowd.remove(last, places[last])
    assert flat(crowd.runs()) in (between, [*others, *between[size:]])
    assert len(crowd) == len(flat(crowd.runs()))


def test_whileOthersComeAndLeave():
    """Members that come and leave while another comes or leaves have done so in the end."""
    for moment in MOMENTS:
        for change in ("add", "remove"):
            crowd = Crowd()
            places = {member: crowd.add(member) for member in map(Member, range(GROUP // 4))}
            first, second, third = list(places)[:3]
            came, late = Member(-1), Member(-2)

            def meanwhile(crowd=crowd, first=first, late=late, places=places):
                crowd.remove(first, places[first])
                crowd.add(late)

            with collectAt(moment, meanwhile) as it:
                if change == "add":
                    crowd.add(came)
                else:
                    crowd.remove(second, places[second])
            expected = {*places} | ({came} if change == "add" else set())
            expected -= {second} if change == "remove" else set()
            if it.came:
                expected = expected - {first} | {late}
            assert set(flat(crowd.runs())) == expected
            assert third in expected


def test_whileTheLastOneLeaves():
    """A member that comes while the only other one leaves, and the group with it, is there."""
    for moment in MOMENTS:
        crowd = Crowd()
        first, came = Member(0), Member(1)
        place = crowd.add(first)
        with collectAt(moment, lambda crowd=crowd, first=first, place=place: crowd.remove(first, place)) as it:
            found = crowd.add(came)
        assert flat(crowd.runs()) == ([came] if it.came else [first, came])
        crowd.remove(came, found)
        assert len(crowd) == (0 if it.came else 1)
