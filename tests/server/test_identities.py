"""Authenticators of a running server are replaced, all or none, and nobody who is being asked about notices."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_ws import ConfigurationError, Identity, Limits, UpgradeRequest, WebSocketServer
from twisted_ws.services.demo import Demo


class Fixed:
    """Says that everybody is one user; notes when it begins and ends."""

    def __init__(self, user, takesMessage=False):
        self.answer = Identity(user)
        self.takesMessage = takesMessage
        self.said = []

    def start(self, host):
        self.said.append("start")

    def stop(self):
        self.said.append("stop")

    def identify(self, request):
        return self.answer


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def old():
    return Fixed("old")


@pytest.fixture
def server(clock, old):
    """A server that asks the old one, and lets guests in elsewhere."""
    made = WebSocketServer(reactor=clock, authenticate=["site"], authenticators={"site": old, "spare": Fixed("spare")})
    made.mount("/a", Demo())
    made.mount("/b", Demo(), authenticate=["site", "guest"])
    return made


def users(server):
    found = []
    for path in "/a", "/b":
        request = UpgradeRequest(path)
        server.ask(request, server.match(path))
        found.append(request.user)
    return found


def test_replaced(server, clock, old):
    """The new one decides in every chain from that moment on; the old one ends when nobody can wait for it any more."""
    new = Fixed("new")
    replace = server.identities.replace(["site"], {"site": new})
    assert (users(server), new.said) == (["old", "old"], [])
    replace()
    assert (users(server), new.said) == (["new", "new"], ["start"])
    assert server.authenticators["site"] is new
    clock.advance(Limits().upgradeDeadline - 0.1)
    assert old.said == ["start"]
    clock.advance(0.1)
    assert old.said == ["start", "stop"]


def test_whoIsBeingAskedAbout(server, clock, old):
    """An answer that was waited for when its authenticator was replaced counts."""
    old.answer = later = Deferred()
    request = UpgradeRequest("/a")
    answer = server.ask(request, server.match("/a"))
    server.identities.replace(["site"], {"site": Fixed("new")})()
    later.callback(Identity("slow"))
    assert isinstance(answer.result, tuple)
    assert request.user == "slow"


@pytest.mark.parametrize(
    ("removed", "made", "why"),
    [
        (["site"], {}, "authenticators.site is still needed"),
        ([], {"site": Fixed("new")}, "another of this name"),
        ([], {"guest": Fixed("new")}, "another of this name"),
        (["site"], {"site": Fixed("new", takesMessage=True)}, "is a guest"),
    ],
)
def test_allOrNone(server, old, removed, made, why):
    """What a chain cannot have changes nothing."""
    with pytest.raises(ConfigurationError, match=why):
        server.identities.replace([*removed, "spare"], made)
    assert (users(server), old.said, {*server.authenticators}) == (["old", "old"], ["start"], {"site", "spare", "guest"})


def test_stop(server, clock, old):
    """A stop also ends those that were replaced a moment ago, once."""
    server.identities.replace(["site"], {"site": Fixed("new")})()
    Deferred.fromCoroutine(server.identities.stop())
    assert old.said == ["start", "stop"]
    assert not clock.getDelayedCalls()
