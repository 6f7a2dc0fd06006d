from __future__ import annotations

import pytest

from tests.delivery.listeners import Ear, identity
from twisted_ws.delivery.audience import FEW, Audience


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 100])
def test_membership(count):
    """Few or many: each is counted, heard of in the order it came, and taken away for itself; an empty channel is none."""
    audience, ears = Audience(identity), [Ear() for _ in range(count)]
    for number, ear in enumerate(ears, 1):
        audience.add("a", ear)
        assert audience.count("a") == number
    assert list(audience) == ears
    assert "a" in audience
    assert audience.listeners("a", False)._subscribers == tuple(ears)
    for ear in ears[::2]:
        audience.remove("a", ear)
    assert list(audience) == ears[1::2]
    for ear in ears[1::2]:
        audience.remove("a", ear)
    assert "a" not in audience
    assert audience.count("a") == 0
    assert audience.listeners("a", False) is None


def test_crowd():
    """For many, what a message needs is made once, and anew after each change; who holds the old one has them as they were."""
    audience, ears = Audience(identity), [Ear() for _ in range(2 * FEW)]
    for ear in ears:
        audience.add("a", ear)
    listeners = audience.listeners("a", False)
    assert audience.listeners("a", False) is listeners
    audience.remove("a", ears[0])
    assert audience.listeners("a", False)._subscribers == tuple(ears[1:])
    audience.add("a", ears[0])
    assert audience.listeners("a", False)._subscribers == (*ears[1:], ears[0])
    assert listeners._subscribers == tuple(ears)


def test_patterns():
    """With patterns, each who hears a channel by any way is there once; without, only the channel's own are looked for."""
    audience, one, two, three = Audience(identity), Ear(), Ear(), Ear()
    for name, ear in ("a.b", one), ("a.*", two), ("a.*", one), ("*", three), ("a.b.*", three):
        audience.add(name, ear)
    assert audience.listeners("a.b", True)._subscribers == (one, two, three)
    assert audience.listeners("a.b", False)._subscribers == (one,)
    assert audience.listeners("c", True)._subscribers == (three,)
    assert audience.listeners("c", False) is None
    audience.remove("*", three)
    assert audience.listeners("c", True) is None
