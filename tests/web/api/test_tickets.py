from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dispatch.support import Turns
from tests.web.worlds import Client
from twisted_ws import Limits, WebSocketServer
from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.kinds.ticket import LEEWAY, TicketAuthenticator
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.web.api.broadcast import broadcastSite

NOW = 1_800_000_000.0


def ticketsCalled(directory: Path, *names: str) -> dict[str, Any]:
    """Return authenticators of tickets by name, with one secret."""
    (directory / "secret").write_text("s" * 32)
    options = {"secret-file": "secret"}
    return {
        name: TicketAuthenticator(AuthenticatorSettings(name, options, str(directory), Limits(), None), lambda: NOW)
        for name in names
    }


class Back:
    """The broadcast site of a server with these authenticators."""

    def __init__(self, authenticators: dict[str, Any]) -> None:
        clock = Turns()
        server = WebSocketServer(reactor=clock, authenticators=authenticators, unixTime=lambda: NOW)
        self._client = Client(broadcastSite(server, Credentials(reactor=clock)), clock)

    def ask(self, **body: Any) -> tuple[int, Any]:
        """Ask for a ticket; return the status, and what is in the answer."""
        response = self._client.post("/api/tickets", json.dumps(body).encode(), "Content-Type: application/json")
        return response.status, response.json


def test_made(tmp_path: Path) -> None:
    """A back end has a ticket made, with which its user comes in, with the rights that it names."""
    made = ticketsCalled(tmp_path, "first", "second")
    back = Back(made)
    grants = {"subscribe": ["orders.*"]}
    status, answer = back.ask(user="ann", grants=grants, scopes=["chat"], info={"n": 1}, expires=60)
    assert (status, answer["seconds"]) == (200, 60)
    identity = made["first"].identify(UpgradeRequest(f"/?ticket={answer['token']}"))
    assert (identity.user, list(identity.subscribe), identity.scopes, identity.info) == ("ann", ["orders.*"], {"chat"}, {"n": 1})
    assert identity.expiresAt == NOW + 60 + LEEWAY
    assert back.ask(user="ann", authenticator="second")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"user": "ann", "authenticator": "guest"}, 404, "not-found"),
        ({"user": "ann", "grants": {"subscribe": ["a b"]}}, 400, "bad-channel"),
        ({"user": "ann", "expires": 0}, 400, "bad-request"),
        ({"user": "ann", "scopes": [""]}, 400, "bad-request"),
        ({"user": ""}, 400, "bad-request"),
        ({"user": "ann", "info": "i" * 5000}, 413, "too-large"),
        ({"user": "ann", "seconds": 600}, 400, "bad-request"),
    ],
)
def test_refused(tmp_path: Path, body: dict[str, Any], status: int, error: str) -> None:
    """What no ticket can be made of is refused with a reason."""
    answered, answer = Back(ticketsCalled(tmp_path, "mine")).ask(**body)
    assert (answered, answer["error"]) == (status, error)


def test_nobodyWouldTakeThem() -> None:
    """Without an authenticator that takes tickets, none are made."""
    assert Back({}).ask(user="ann")[0] == 404
