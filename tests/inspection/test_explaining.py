"""Why somebody may do something with a channel."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.engines.hub.test_servers import Machine
from twisted_ws import ChannelService, Identity, WebSocketServer
from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.explaining import WHAT_GRANTS, Asked, explainAnywhere
from twisted_ws.testing.server import MemoryServer

RULES = {"users.{user}.*": {"subscribe": "owner"}, "rooms.*": {"subscribe": ["granted", "ask"]}, "news": {"subscribe": "anyone"}}


class Site:
    """An authenticator that knows ann."""

    def identify(self, request):
        return Identity("ann")


def served(**options):
    """Return a server with rules and a service of channels at /channels."""
    server = WebSocketServer(
        reactor=Clock(), channelRules=RULES, authenticators={"site": Site()}, authenticate=["site"], **options
    )
    server.mount("/channels", ChannelService())
    answerInspection(server)
    return server


def ask(server, *asked, **more):
    """Return what is explained."""
    return Deferred.fromCoroutine(explainAnywhere(server, Asked(*asked, **more))).result


def test_steps():
    """An explanation has each step, with the key of the configuration that says so."""
    found = ask(served(), "subscribe", "users.ann.x", user="ann")
    assert found.allowed is True
    assert found.steps[-1].key == ("channels", "users.{user}.*", "subscribe")
    assert ask(served(), "subscribe", "users.bob.x", user="ann").allowed is False
    assert ask(served(), "subscribe", "news").allowed is True


def test_grants():
    """Grants count, and where one would be enough, that is said; where the application would be asked, that, too."""
    server = served()
    assert ask(server, "publish", "x.1", user="ann").allowed is False
    assert ask(server, "subscribe", "y.1", user="ann").note == WHAT_GRANTS
    assert ask(server, "subscribe", "y.1", user="ann", grants=("y.*",)).allowed is True
    assert ask(server, "subscribe", "rooms.1", user="ann").allowed is None


def test_caller():
    """About somebody who is connected, their own credentials and subscriptions decide."""
    server = served()
    memory = MemoryServer(server, server.reactor)
    memory.connect("/channels?channel=news")
    (caller,) = server.callers
    assert ask(server, "subscribe", "users.ann.x", connection=caller.connectionId).allowed is True
    assert ask(server, "subscribe", "users.bob.x", connection=caller.connectionId).allowed is False
    assert ask(server, "subscribe", "users.bob.x", connection="nobody.1") is None


def test_nothing():
    """Without such a service, there is nothing to explain; one without rules decides by itself."""
    assert ask(served(), "subscribe", "a", service="/other") is None
    server = WebSocketServer(reactor=Clock())
    server.mount("/channels", ChannelService())
    answerInspection(server)
    assert ask(server, "subscribe", "a").allowed is True
    assert "no rules" in ask(server, "subscribe", "a").note


def test_workers():
    """A supervisor, which has no services, has its workers explain."""
    machine = Machine(2)
    for worker in machine.workers:
        answerInspection(worker.server)
    found = machine.result(Deferred.fromCoroutine(explainAnywhere(machine.hub, Asked("subscribe", "a"))))
    assert found.allowed is True
