"""What a connection that comes from another process has missed, where both processes count for themselves."""

from __future__ import annotations

import random

import pytest

from twisted_ws.engines import journal
from twisted_ws.engines.journal import ForeignJournal, Journal


class Two:
    """Two processes that are told the same, each when it reads it, the second one from some point on."""

    def __init__(self):
        self.here, self.there = ForeignJournal(), Journal()
        self.unsent = []
        self.there.told = self.unsent.append

    def add(self, of, *values):
        """Let one of them read something."""
        for value in values:
            of.add(of.number + 1, "broadcast", ("text", b"%d" % value), ("node", value))

    def send(self):
        """Let the second one know what the first one has."""
        self.here.others([[*each] for each in self.unsent])
        self.unsent.clear()

    def missed(self, number):
        """Return what a connection has missed that has left the first one at a number."""
        found = self.here.since(number)
        return None if found is None else [each.which[1] for each in found]


@pytest.mark.parametrize("seed", range(20))
def test_whoeverIsAhead(seed):
    """At each number of the other process, exactly what came here and not there is missed, whichever of the two is ahead."""
    choose = random.Random(seed)
    two = Two()
    here = there = 0
    for _ in range(200):
        if choose.random() < 0.5:
            there += 1
            two.add(two.there, there)
        elif there > 3:  # it has begun later
            here = max(here + 1, 3)
            two.add(two.here, here)
        if choose.random() < 0.1:
            two.send()
            number = choose.randint(max(there - 5, 0), there)
            assert two.missed(number) == [each for each in range(3, here + 1) if each > number]


def test_theSameTwice():
    """Two that nothing tells apart, such as a user who joins again, count as two."""
    two = Two()
    two.add(two.there, 7, 8, 7)
    two.send()
    two.add(two.here, 7, 8, 7)
    assert [two.missed(number) for number in range(4)] == [[7, 8, 7], [8, 7], [7], []]


def test_unknown():
    """It is not known what is missed before the other process has said that much, or when it was too much to be kept."""
    two = Two()
    two.add(two.there, 1)
    assert two.missed(1) is None
    two.send()
    assert two.missed(1) == []


@pytest.mark.parametrize("limit", ["ENTRIES", "BYTES"])
def test_tooMuch(monkeypatch, limit):
    """What is not kept any more is no loss to whoever had it there; to others it is one, also while nobody knows."""
    monkeypatch.setattr(journal, limit, 3)
    two = Two()
    two.add(two.here, 1, 2, 3, 4, 5)
    assert two.missed(0) is None
    two.add(two.there, 1, 2, 3)
    two.send()
    assert two.missed(1) is None
    assert [two.missed(number) for number in (2, 3)] == [[3, 4, 5], [4, 5]]
    two.add(two.here, 6)
    assert two.missed(2) is None
    assert two.missed(3) == [4, 5, 6]
