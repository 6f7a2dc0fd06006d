"""Wrong credentials, counted by address."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from twisted_ws.access.failures import Failures
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.limits import Limits


def test_tooMany():
    """After as many wrong credentials as the limit says, an address is told how long to wait; others are not affected."""
    clock = Clock()
    failures = Failures(Limits(authFailures=2), clock.seconds)
    for _ in range(3):  # three were looked at in the same moment
        failures.check("192.0.2.1")
    for _ in range(3):
        failures.charge("192.0.2.1")
    with pytest.raises(AccessRefused) as caught:
        failures.check("192.0.2.1")
    assert (caught.value.status, dict(caught.value.headers)["Retry-After"]) == (429, "60")
    assert json.loads(caught.value.body)["error"] == "too-many-requests"
    failures.check("192.0.2.2")
    clock.advance(60)
    failures.check("192.0.2.1")


def test_aNetworkIsOneAddress():
    """Whoever has a whole IPv6 network cannot guess from each of its addresses."""
    failures = Failures(Limits(authFailures=1), Clock().seconds)
    failures.charge("2001:db8::1")
    with pytest.raises(AccessRefused):
        failures.check("2001:db8::2")
    failures.check("2001:db8:0:1::1")
