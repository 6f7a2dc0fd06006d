"""Grants, and who they belong to."""

from __future__ import annotations

import sys

import msgspec
import pytest

from twisted_ws.errors import ChannelError
from twisted_ws.identity import Grants, Identity


@pytest.mark.parametrize(
    ("grants", "channel", "allowed"),
    [
        (["orders.42"], "orders.42", True),
        (["orders.42"], "orders.4", False),
        (["orders.*"], "orders.42", True),
        (["orders.*"], "orders.42.x", True),
        (["orders.*"], "orders", False),
        (["orders.*"], "ordersx", False),
        (["orders.*"], "*", False),
        (["orders.*"], "orders.*", True),
        (["orders.*"], "orders.eu.*", True),
        (["orders.eu.*"], "orders.*", False),
        (["orders.42"], "orders.*", False),
        (["*"], "anything", True),
        (["*"], "*", True),
        (["*"], "~me", False),
        (["*"], "~server.stats", False),
        (["~server.*"], "~server.stats", False),
        (["~server.stats"], "~server.stats", True),
        ([], "a", False),
    ],
)
def test_grants(grants, channel, allowed):
    """A grant is a name, or a pattern for all names that begin with its tokens; no pattern reaches names that begin with ~."""
    assert Grants(grants).allows(channel) is allowed


@pytest.mark.parametrize("name", ["", "a..b", "a*", "*.a", 5, None, "a b"])
def test_badGrants(name):
    """What is neither a name nor a pattern is refused."""
    with pytest.raises(ChannelError):
        Grants([name])


def test_users():
    """The name of a user is text of at most 128 characters."""
    assert Identity("x" * 128).user
    assert Identity("").isGuest
    with pytest.raises(ValueError, match="128"):
        Identity("x" * 129)
    with pytest.raises(TypeError):
        Identity(5)


def test_whatIsShown():
    """Claims are decoded for those who look, and are in no representation."""
    identity = Identity("ann", by="site", payload=b'{"sub":"ann","secret":"s3cret"}')
    assert identity.claims["secret"] == "s3cret"
    assert repr(identity) == "<Identity 'ann' by site>"


def weigh(found):
    """Return the bytes of an object and of what it holds."""
    inner = found.items() if isinstance(found, dict) else found if isinstance(found, (frozenset, list, tuple)) else ()
    return sys.getsizeof(found) + sum(map(weigh, inner))


@pytest.mark.parametrize(
    "text", ["[" + "[],[]," * 1000 + "0]", "{" + '"a":{},' * 1000 + '"b":0}', '["a",1.5]', '"' + "x" * 5000 + '"', "null"]
)
@pytest.mark.parametrize("names", [0, 1, 5, 2000])
def test_size(text, names):
    """What the size says of an identity is no less than half of what its parts take: caches are bounded by it."""
    parts = [f"c{number}" for number in range(names)]
    info = msgspec.json.decode(text)
    identity = Identity("ann", Grants(parts), Grants(parts), frozenset(parts), info, payload=text.encode())
    taken = weigh(info) + sum(weigh(frozenset(msgspec.json.decode(msgspec.json.encode(parts)))) for _ in range(3))
    assert identity.size > (taken - 1000) / 2
    assert identity.size < 30 * taken + 1000
