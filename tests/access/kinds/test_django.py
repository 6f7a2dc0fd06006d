"""Sessions of a Django site, as far as no site is needed."""

from __future__ import annotations

import hashlib

import pytest
from twisted.logger import capturedLogs, formatEvent

from tests.access.kinds.support import NOW, Host, request, settings
from tests.access.kinds.test_basic import Reactor
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.django import DjangoAuthenticator, Found


class World:
    """An authenticator whose sessions are in a table."""

    def __init__(self, directory, sessions, **options):
        self.reactor = Reactor()
        self.looked = []
        self.sessions = sessions
        self.authenticator = DjangoAuthenticator(settings(directory, self.reactor, settings="shop", **options), self.look)
        self.authenticator.start(Host())

    def look(self, session):
        self.looked.append(session)
        found = self.sessions.get(session)
        if isinstance(found, Exception):
            raise found
        return found

    def ask(self, session):
        return self.authenticator.identify(request(("cookie", f"sessionid={session}")))

    def answer(self, session):
        waiting = self.ask(session)
        self.reactor.pool.do()
        return waiting.result


ANN = Found("ann", frozenset({"staff"}), NOW + 3600)


def test_found(tmp_path):
    """A session's user is looked up in a thread, and the answer counts for half a minute."""
    world = World(tmp_path, {"s": ANN})
    found = world.answer("s")
    assert (found.user, found.scopes, found.expiresAt, found.isAmbient) == ("ann", {"staff"}, NOW + 3600, True)
    assert found.tokenId == "sha256:" + hashlib.sha256(b"s").hexdigest()
    assert world.ask("s") is found
    world.sessions.clear()
    world.reactor.advance(30)
    assert world.answer("s") is None
    assert world.ask("s") is None  # at once
    assert world.looked == ["s", "s"]


def test_together(tmp_path):
    """Many requests of one session ask once; one that leaves takes nothing from the others."""
    world = World(tmp_path, {"s": ANN})
    waiting = [world.ask("s") for _ in range(1000)]
    waiting[0].addErrback(lambda _: None)
    waiting[0].cancel()
    world.reactor.pool.do()
    assert {each.result.user for each in waiting[1:]} == {"ann"}
    assert world.looked == ["s"]


def test_away(tmp_path):
    """While the database is away, nobody comes in; the log says so without the session."""
    world = World(tmp_path, {"planted-session": RuntimeError("planted-session")})
    with capturedLogs() as events:
        waiting = world.ask("planted-session")
        world.reactor.pool.do()
    assert waiting.result.value.status == 503
    waiting.addErrback(lambda _: None)
    assert "could not look up a session: RuntimeError" in formatEvent(events[0])
    assert "planted-session" not in "".join(f"{formatEvent(each)}{each}" for each in events)


@pytest.mark.parametrize("user", ["a.b", "*", "~me", "\U0001f600" * 128])
def test_users(tmp_path, user):
    """A user may have any name of up to 128 characters."""
    world = World(tmp_path, {"s": ANN._replace(user=user), "t": ANN._replace(user=user + "x" * 128)})
    assert world.answer("s").user == user
    waiting = world.ask("t")
    world.reactor.pool.do()
    assert waiting.result.value.status == 401
    waiting.addErrback(lambda _: None)


@pytest.mark.parametrize("session", ["", "x" * 9000, "a\x00b"])
def test_noSession(tmp_path, session):
    """What can be no session is not looked up."""
    world = World(tmp_path, {})
    assert world.ask(session) is None
    assert world.authenticator.identify(request()) is None
    assert world.looked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs settings"),
        ({"settings": "no.such.module"}, "cannot be set up .ModuleNotFoundError"),
        ({"settings": "a", "user": "x"}, "username or pk"),
    ],
)
def test_options(tmp_path, options, message, monkeypatch):
    """What is wrong in the configuration is said at the start."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    with pytest.raises(ConfigurationError, match=message):
        DjangoAuthenticator(settings(tmp_path, Reactor(), **options))
