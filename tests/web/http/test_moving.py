"""HTTP connections while their site may go to another process at any moment."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.conftest import Connection, World
from tests.web.http.test_connection import GET, post

LATER = GET.replace(b"echo", b"later")


@pytest.fixture
def quiet() -> Iterator[int]:
    """The descriptor of a socket from which nothing comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours.fileno()


def connect(world: World, descriptor: int) -> tuple[Connection, Any]:
    """Return a connection whose transport has a descriptor, as real ones have, and its protocol."""
    connection = world.connect()
    connection.transport.fileno = lambda: descriptor  # type: ignore[attr-defined]
    return connection, connection.protocol


def test_noFurtherRequest(world: World, quiet: int) -> None:
    """A request that comes while the site is held is not begun: what has come of it can go elsewhere, or is answered later."""
    connection, protocol = connect(world, quiet)
    assert connection.ask(GET).status == 200
    protocol.hold()
    connection.send(GET)
    assert connection.take() == b""
    assert not protocol.isBusy
    assert protocol.moving() == (quiet, GET)
    world.clock.advance(3600)
    assert not connection.closing  # no deadline of ours ends what may be another's
    protocol.goOn()
    connection.settle()
    assert [each.status for each in connection.responses()] == [200]
    world.clock.advance(3600)
    assert connection.closing


def test_whatHasBegun(world: World, quiet: int) -> None:
    """A request that has begun is read and answered while the site is held; the next one on the connection waits."""
    connection, protocol = connect(world, quiet)
    connection.send(post(b"hello")[:-2])
    other, answering = connect(world, quiet)
    other.send(LATER + GET)
    for each in (protocol, answering):
        each.hold()
        assert each.isBusy
        assert each.moving() is None
    assert connection.ask(b"lo").body == b"hello"
    (request,) = world.later.requests
    request.answer(b"now")
    other.settle()
    assert [each.body for each in other.responses()] == [b"now"]
    assert (protocol.isBusy, answering.isBusy) == (False, False)
    assert (protocol.moving(), answering.moving()) == ((quiet, b""), (quiet, GET))


def test_turnedAway(world: World, quiet: int) -> None:
    """A request whose body or permission has not come in time is refused with 503, and handled no more; others are not."""
    body, asking, answering = connect(world, quiet), connect(world, quiet), connect(world, quiet)
    body[0].send(post(b"hello")[:-2])
    asking[0].send(GET.replace(b"echo", b"asks"))
    answering[0].send(LATER)
    for connection, protocol in (body, asking, answering):
        protocol.hold()
        protocol.turnAway()
        connection.settle()
    for connection, protocol in (body, asking):
        (response,) = connection.responses()
        assert (response.status, bool(response.header("retry-after"))) == (503, True)
        assert not protocol.isBusy
    assert answering[0].take() == b""
    assert answering[1].isBusy
    for admission in world.asks.admissions:
        admission.callback(None)
    assert asking[0].take() == b""
