"""The guide for Flask, FastAPI and Django, followed with the frameworks themselves, nginx and TLS."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.live.applications import ANN, BOB, FRAMEWORKS, HOST, Visitor, application, parts
from tests.live.support import PATIENCE, unverified
from twisted_ws import channelToken


def channel(user: str) -> str:
    return f"users.{channelToken(user)}.orders"


class Stream:
    """An event stream of a visitor."""

    def __init__(self, visitor: Visitor, user: str) -> None:
        self._connection = visitor.connect()
        self._connection.request(
            "GET", f"/channels/{channel(user)}?after=0", headers={**visitor.headers, "Accept": "text/event-stream"}
        )
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def read(self) -> tuple[str, str]:
        """Return the next event: its type and its data; two empty texts at the end."""
        event = data = ""
        while line := self._answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data = value
            elif line == "\n" and (event or data):
                return event, data
        return event, data

    def close(self) -> None:
        """Leave."""
        self._answer.close()
        self._connection.close()


def poll(visitor: Visitor, user: str, wait: int = 0, after: str = "0") -> http.client.HTTPConnection:
    """Send a poll, and return the connection on which it is answered."""
    connection = visitor.connect()
    query = urlencode({"after": after, "wait": wait})
    connection.request("GET", f"/channels/{channel(user)}?{query}", headers=visitor.headers)
    return connection


def answered(connection: http.client.HTTPConnection) -> tuple[int, dict[str, object]]:
    """Return the answer of a poll: the status and the body."""
    answer = connection.getresponse()
    status, body = answer.status, json.loads(answer.read())
    connection.close()
    return status, body


def socketOf(visitor: Visitor, user: str) -> ClientConnection:
    headers = {name: value for name, value in visitor.headers.items() if name not in ("Host", "Origin")}
    return connect(
        f"wss://{HOST}:{visitor.port}/channels/{channel(user)}?after=0",
        sock=socket.create_connection(("127.0.0.1", visitor.port), PATIENCE),
        ssl=unverified(),
        origin=visitor.origin,
        additional_headers=headers,
        open_timeout=PATIENCE,
        ping_interval=None,
    )


def lastWords(client: ClientConnection) -> tuple[int, str]:
    """Return the code and the reason with which a WebSocket is closed, after all that comes before."""
    with pytest.raises(ConnectionClosed) as closed:
        list(iter(lambda: client.recv(PATIENCE), None))
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def refusedSocket(visitor: Visitor, user: str) -> int:
    """Return why no WebSocket is had: the status of the handshake, or of the channel (4000 less than the code that closes it)."""
    try:
        with socketOf(visitor, user) as client:
            return lastWords(client)[0] - 4000
    except InvalidStatus as refused:
        return refused.response.status_code


def refusals(visitor: Visitor, user: str) -> set[int]:
    """Return the statuses with which a visitor is refused on each transport."""
    with closing(Stream(visitor, user)) as stream:
        return {refusedSocket(visitor, user), stream.status, answered(poll(visitor, user))[0]}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start one application, with all that stands around it."""
    with application(request.param, tmp_path_factory.mktemp(request.param)) as port:
        yield port


def test_ownOrders(port: int) -> None:
    """Who has logged in to the application sees their own orders on every transport, and nobody sees those of others."""
    ann, bob, nobody = Visitor(port), Visitor(port), Visitor(port)
    nobody.login(ANN, "a guess")
    assert refusals(nobody, ANN) <= {401, 403}
    ann.login(ANN)
    bob.login(BOB)
    ann.order("tea")
    with socketOf(ann, ANN) as client, closing(Stream(ann, ANN)) as stream:
        assert json.loads(client.recv(PATIENCE)) == {"item": "tea"}
        assert stream.read()[0] == "subscribed"
        assert json.loads(stream.read()[1]) == {"item": "tea"}
        status, body = answered(poll(ann, ANN))
        assert (status, [each["data"] for each in body["messages"]]) == (200, [{"item": "tea"}])
        waiting = poll(ann, ANN, wait=60, after=body["id"])
        bob.order("coffee")
        ann.order("cake")
        assert json.loads(client.recv(PATIENCE)) == {"item": "cake"}
        assert json.loads(stream.read()[1]) == {"item": "cake"}
        assert [each["data"] for each in answered(waiting)[1]["messages"]] == [{"item": "cake"}]
    assert refusals(bob, ANN) == {403}
    assert refusals(ann, BOB) == {403}


def test_logout(port: int) -> None:
    """A logout ends the connections of that session at once, on every transport, and none comes back; other browsers go on."""
    here, elsewhere = Visitor(port), Visitor(port)
    here.login(BOB)
    elsewhere.login(BOB)
    end = answered(poll(here, BOB))[1]["id"]
    with socketOf(here, BOB) as client, socketOf(elsewhere, BOB) as other, closing(Stream(here, BOB)) as stream:
        while stream.read()[0] != "subscribed":
            pass
        waiting = poll(here, BOB, wait=60, after=end)
        here.logout()
        assert lastWords(client) == (4401, "revoked")
        events = []
        while any(event := stream.read()):
            events.append(event)
        assert events[-1] == ("expired", "{}")
        assert answered(waiting)[0] in (200, 401)
        assert refusals(here, BOB) == {401}
        elsewhere.order("milk")
        while json.loads(other.recv(PATIENCE)) != {"item": "milk"}:
            pass


def test_ofTheShopOnOurSide() -> None:
    """The shop with Flask needs less than 20 lines of configuration here, and no code."""
    ours = [block for heading in ("This server", "Flask") for block in parts()[heading] if block.kind == "toml"]
    lines = [line for block in ours for line in block.text.splitlines() if line and not line.startswith("#")]
    assert 0 < len(lines) < 20
