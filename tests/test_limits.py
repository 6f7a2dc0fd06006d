from __future__ import annotations

from dataclasses import fields

import pytest

from twisted_ws.limits import Limits, parseSize

ZERO_ALLOWED = {"historyMessages", "maxConnections", "maxConnectionsPerIp", "messageRate", "pingInterval", "drainTimeout"} | {
    "messageRatePerUser",
    "messageRatePerIp",
}


def test_defaults():
    """The defaults are those that the documentation promises."""
    limits = Limits()
    assert (limits.requestLine, limits.head, limits.headers, limits.headDeadline) == (8192, 16384, 100, 10)
    assert (limits.upgradeDeadline, limits.earlyBytes) == (10, 65536)
    assert (limits.body, limits.bodyDeadline) == (1048576, 30)
    assert (limits.maxMessageSize, limits.fragmentCharge, limits.controlRate, limits.messageRate) == (1048576, 64, 100, 0)
    assert (limits.maxSendBuffer, limits.maxSendBufferTotal, limits.writeDeadline) == (1048576, 1073741824, 30)
    assert (limits.pingInterval, limits.pingTimeout, limits.closeDeadline, limits.drainTimeout) == (25, 10, 5, 30)
    assert (limits.maxConnections, limits.maxConnectionsPerIp, limits.descriptorReserve) == (0, 0, 64)


@pytest.mark.parametrize("each", fields(Limits), ids=lambda each: each.name)
def test_described(each):
    """Every limit has a unit and a reason, for the reference is made from them."""
    assert each.metadata["unit"]
    assert each.metadata["reason"]
    assert bool(each.metadata["zero"]) is (each.name in ZERO_ALLOWED)


@pytest.mark.parametrize("each", fields(Limits), ids=lambda each: each.name)
@pytest.mark.parametrize("value", [-1, -0.5, "10", None, True, float("nan"), float("inf")])
def test_wrongValues(each, value):
    """A limit that is negative, infinite or not a number is refused by name."""
    with pytest.raises(ValueError, match=f"^{each.name} must be a .*number of {each.metadata['unit']}, .* not"):
        Limits(**{each.name: value})


@pytest.mark.parametrize("each", fields(Limits), ids=lambda each: each.name)
def test_zero(each):
    """Zero is taken only where it has a meaning: nothing else is ever unlimited."""
    if each.metadata["zero"]:
        assert getattr(Limits(**{each.name: 0}), each.name) == 0
    else:
        with pytest.raises(ValueError, match=f"^{each.name} must be .*, more than 0, not 0$"):
            Limits(**{each.name: 0})


def test_kinds():
    """Times may be fractions, counts may not; limits do not change."""
    assert Limits(pingTimeout=0.5).pingTimeout == 0.5
    with pytest.raises(ValueError, match="maxMessageSize must be a whole number of bytes"):
        Limits(maxMessageSize=1.5)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Limits().head = 1  # type: ignore[misc]


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("65536", 65536), ("64KiB", 65536), ("1 m", 1 << 20), ("2GB", 2 << 30)])
def test_parseSize(text, size):
    """A size is a number of bytes, or of their multiples by 1024."""
    assert parseSize(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "1T", "KiB", "²"])
def test_parseNoSize(text):
    """Anything that is not a size is refused, with the forms that a size has."""
    with pytest.raises(ValueError, match="64KiB"):
        parseSize(text)
