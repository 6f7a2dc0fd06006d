from __future__ import annotations

import sys

import pytest

from twisted_ws.daemon.loading.outbox import makeOutbox
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.server import WebSocketServer


def made(**settings):
    """Return what these settings make of a server."""
    server = WebSocketServer()
    return makeOutbox(Settings(**settings), server, server.reactor)


def test_none():
    """Without --outbox there is none."""
    assert made() is None


def test_begins():
    """With it, nothing is connected before the start, and what a metric reads is there."""
    outbox = made(outbox="postgresql://push@db.example/shop")
    assert (outbox.state.value, outbox.waiting, outbox.lag, outbox.published, outbox.refused) == ("stopped", 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"outbox": "postgresql://push:hush@db.example/shop"}, "--outbox-password-file"),
        ({"outbox": "host=db.example password=hush"}, "--outbox-password-file"),
        ({"outbox": "mysql://db.example"}, "postgresql://USER@HOST/DATABASE"),
        ({"outbox": "postgresql://db.example/?colour=hush"}, "colour"),
        ({"outboxPasswordFile": "/hush"}, "give --outbox too"),
        ({"outbox": "postgresql:///shop", "outboxPasswordFile": "/nowhere"}, "/nowhere"),
    ],
)
def test_mistakes(settings, said):
    """A mistake is told at the start, in one line that has no password."""
    with pytest.raises(ConfigurationError, match=said) as raised:
        made(**settings)
    assert "\n" not in str(raised.value)
    assert "hush" not in str(raised.value).replace("colour=hush", "")


def test_notInstalled(monkeypatch):
    """Where psycopg is not installed, the error says which extra has it."""
    for name in [each for each in sys.modules if each.startswith("twisted_ws.outbox")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"psycopg is not installed.*twisted-ws\[outbox\]"):
        made(outbox="postgresql:///shop")
