from __future__ import annotations

import pytest

from tests.channels.listeners import Ear, identity
from twisted_ws.channels.audience import FEW, Audience


def flat(runs):
    """Return the subscribers of runs, and check that their senders are theirs."""
    found = [pair for members, senders, size in runs for pair in zip(members[:size], senders[:size], strict=True)]
    assert all(ear.sender is sender for ear, sender in found)
    return [ear for ear, _ in found]


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 100])
def test_membership(count):
    """Few or many, subscribers are counted, listed in the order they came, and removed one by one; no empty channel is kept."""
    audience, ears = Audience(identity), [Ear() for _ in range(count)]
    for number, ear in enumerate(ears, 1):
        audience.add("a", ear)
        assert audience.count("a") == number
    assert list(audience) == ears
    assert "a" in audience
    assert flat(audience.runs("a")) == ears
    for ear in ears[::2]:
        audience.remove("a", ear)
    assert list(audience) == ears[1::2]
    for ear in ears[1::2]:
        audience.remove("a", ear)
    assert "a" not in audience
    assert audience.count("a") == 0
    assert audience.runs("a") == []


def test_patterns():
    """With patterns, all subscribers of a channel are found, under the names that they subscribed to."""
    audience, one, two, three = Audience(identity), Ear(), Ear(), Ear()
    for name, ear in ("a.b", one), ("a.*", two), ("a.*", one), ("*", three), ("a.b.*", three):
        audience.add(name, ear)
    runs, names = audience.listeners("a.b")
    assert (flat(runs), names) == ([one, two, one, three], ["a.b", "a.*", "*"])
    assert flat(audience.runs("a.b")) == [one]
    assert (flat(audience.listeners("c")[0]), audience.listeners("c")[1]) == ([three], ["*"])
    audience.remove("*", three)
    assert audience.listeners("c") == ([], [])


@pytest.mark.parametrize("count", [FEW, 3 * FEW])
def test_asTheyWere(count):
    """Going through the subscribers in parts shows them as they were at the start."""
    audience, ears = Audience(identity), [Ear() for _ in range(count)]
    for ear in ears:
        audience.add("a", ear)
    runs = audience.runs("a")
    audience.remove("a", ears[0])
    audience.add("a", Ear())
    assert flat(runs) == ears
