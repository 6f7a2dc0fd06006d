from __future__ import annotations

import random

import pytest

from twisted_ws.client import (
    BadHandshake,
    ConnectFailed,
    ConnectionClosed,
    HandshakeRefused,
    HandshakeTimeout,
    InvalidURL,
    MessageTooBig,
    ProtocolError,
    ProxyRefused,
    Redirected,
    Retry,
    TransportError,
    UntrustedCertificate,
    WrongName,
)
from twisted_ws.errors import BindingError
from twisted_ws.upgrade import Headers

LOST = ConnectionClosed(1006)


def refused(status, retryAfter=None):
    return HandshakeRefused("no", status, Headers(()), b"", retryAfter)


def test_waits():
    """Without jitter, the waits grow by the factor from the interval to the largest one, and stay there."""
    retry = Retry(interval=1, maxInterval=10, factor=2, jitter=0)
    assert [retry.wait(n, LOST) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert retry.wait(10**9, LOST) == 10
    assert Retry(interval=3, factor=1, jitter=0).wait(50, LOST) == 3
    for factor in (1e10, 10**10, 1e308):
        assert Retry(interval=1, maxInterval=60, factor=factor, jitter=0).wait(70, LOST) == 60
    assert Retry(interval=0, maxInterval=60, factor=1e10, jitter=0).wait(70, LOST) == 0


def test_jitter():
    """Jitter takes a random part of the wait off: the same parts for the same random numbers."""
    whole = Retry(interval=8, maxInterval=8, jitter=1, random=lambda: 0.25)
    assert whole.wait(1, LOST) == 6
    half = Retry(interval=8, maxInterval=8, jitter=0.5, random=lambda: 1.0)
    assert half.wait(1, LOST) == 4
    first, second = ([Retry(random=random.Random(7).random).wait(n, LOST) for n in range(1, 9)] for _ in range(2))
    assert first == second
    assert all(0.5 * min(2 ** (n - 1), 30) <= wait <= min(2 ** (n - 1), 30) for n, wait in enumerate(first, 1))


def test_seeded():
    """A program that seeds Python's shared random numbers does not make its clients wait alike."""
    waits = []
    for _ in range(2):
        random.seed(7)
        waits.append([Retry().wait(n, LOST) for n in range(1, 9)])
    assert waits[0] != waits[1]


def test_hints():
    """A Retry-After is waited for, if it is longer, up to an hour; after Close 1001 and 1012, some seconds at random."""
    retry = Retry(interval=1, maxInterval=30, jitter=0, random=lambda: 0.5)
    assert retry.wait(1, refused(503, 17)) == 17
    assert retry.wait(1, refused(429, 0)) == 1
    assert retry.wait(5, refused(503, 2)) == 16
    assert retry.wait(1, refused(503, 1e9)) == 3600
    assert retry.wait(1, refused(503)) == 1
    assert retry.wait(1, ConnectionClosed(1012)) == 5.5
    assert retry.wait(1, ConnectionClosed(1001)) == 5.5
    assert retry.wait(5, ConnectionClosed(1012)) == 16
    assert retry.wait(1, ConnectionClosed(1013)) == 1
    assert Retry(interval=1, maxInterval=2, jitter=0).wait(1, ConnectionClosed(1012)) <= 2


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        ConnectionClosed(1001),
        ConnectionClosed(1011),
        ConnectionClosed(1012),
        ConnectionClosed(1013),
        ConnectionClosed(1014),
        TransportError("no pong"),
        ConnectFailed("refused"),
        HandshakeTimeout("late"),
        refused(503),
        refused(500),
        refused(429),
        refused(408),
        refused(425),
        ProxyRefused("no answer"),
        ProxyRefused("bad gateway", 502),
    ],
    ids=repr,
)
def test_again(error):
    """Failures that may pass are retried."""
    assert Retry().again(error)


@pytest.mark.parametrize(
    "error",
    [
        *map(ConnectionClosed, (1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 3000, 4000)),
        *map(refused, (200, 400, 401, 403, 404, 426, 501)),
        Redirected("there", 302, Headers(())),
        ProxyRefused("who are you", 407),
        ProtocolError("frames"),
        MessageTooBig("big"),
        BindingError("shape"),
        BadHandshake("key"),
        UntrustedCertificate("who"),
        WrongName("other"),
        InvalidURL("url"),
        RuntimeError("bug"),
    ],
    ids=repr,
)
def test_never(error):
    """Permanent failures are not retried."""
    assert not Retry().again(error)


def test_choose():
    """The user may choose which close codes are retried."""
    retry = Retry(closeCodes=frozenset({4000}), statusCodes=frozenset({404}))
    assert retry.again(ConnectionClosed(4000))
    assert not retry.again(LOST)
    assert retry.again(refused(404))
    assert not retry.again(refused(503))


@pytest.mark.parametrize(
    "options",
    [
        {"interval": -1},
        {"interval": float("inf")},
        {"maxInterval": float("nan")},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"maxCount": -1},
        {"interval": 5, "maxInterval": 4},
    ],
    ids=repr,
)
def test_badPolicy(options):
    """An invalid policy is refused."""
    with pytest.raises(ValueError, match="must be"):
        Retry(**options)
    with pytest.raises(TypeError):
        Retry(interval="1")  # type: ignore[arg-type]
