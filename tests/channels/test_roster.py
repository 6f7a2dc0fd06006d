from __future__ import annotations

import pytest

from twisted_ws.channels.roster import People
from twisted_ws.channels.visitor import Visitor
from twisted_ws.upgrade import UpgradeRequest


def visitor(people, user=None):
    made = Visitor(UpgradeRequest())
    made.people = people
    made.user = user
    return made


@pytest.fixture
def people():
    return People()


def test_find(people):
    """They are found by id, by user, or by both, each once and in order; without either, nobody is."""
    ann, again, bob = (visitor(people, user) for user in ("ann", "ann", "bob"))
    for each in ann, again, bob, ann:
        people.add(each)
    assert (len(people), list(people), bob in people) == (3, [ann, again, bob], True)
    assert people.find(user="ann") == [ann, again]
    assert people.find(connection=bob.connectionId) == [bob]
    assert people.find(bob.connectionId, "ann") == [bob, ann, again]
    assert people.find(ann.connectionId, "ann") == [ann, again]
    assert people.find() == people.find("0", "eve") == []


def test_comesAndGoes(people):
    """Who has left, or is called otherwise now, is found no more by what was; nothing is kept of it."""
    ann, nobody = visitor(people, "ann"), visitor(people)
    ann.user = "eve"  # before it came
    people.add(ann)
    people.add(nobody)
    assert people.find(user="eve") == [ann]
    nobody.user = "eve"
    ann.user = ["unhashable"]
    assert people.find(user="eve") == [nobody]
    ann.user = "bob"
    for each in ann, ann, nobody:
        people.discard(each)
    nobody.user = "ann"
    assert (len(people), people.find(user="bob"), people.find(nobody.connectionId, "ann")) == (0, [], [])
    assert not people._byUser


def test_steps(people):
    """To find one among thousands, or to take it away, nobody else is looked at."""
    looked = []

    class Looked(Visitor):
        def __eq__(self, other):
            looked.append(self)
            return self is other

        __hash__ = object.__hash__

    everybody = [Looked(UpgradeRequest()) for _ in range(5000)]
    for number, each in enumerate(everybody):
        each.user = str(number)
        people.add(each)
    assert people.find(everybody[4000].connectionId, "4001") == everybody[4000:4002]
    people.discard(everybody[4500])
    assert len(looked) < 10
