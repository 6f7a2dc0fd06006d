"""What a supervisor does that another one takes the place of; whole servers are in tests/daemon/test_upgrade_live.py."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from twisted_ws.daemon.succession.offer import Offer
from twisted_ws.errors import ConfigurationError


class Connection:
    """One to the broadcast site."""

    isBusy = isHeld = False

    def hold(self) -> None:
        """Note it."""
        self.isHeld = True

    def turnAway(self) -> None:
        """Do nothing: no request has begun."""


class Standing:
    """A supervisor, of which all is there that an offer holds, up to its workers: these are being replaced."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.server: Any = self
        self.gate = self
        self.crew = self
        self.essentials = [Connection()]

    def holdPorts(self) -> None:
        """Accept what the reactor has found in this turn, as it does with a port that stops reading."""
        self.reactor.callLater(0, self.essentials.append, Connection())

    def stopOutbox(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)

    def hold(self) -> list[Any]:
        """Refuse."""
        raise ConfigurationError("not now")

    def instructions(self) -> None:
        """Find no more descriptors."""
        raise OSError(errno.EMFILE, "Too many open files")

    isHeld = False

    def releasePorts(self) -> None:
        """Note it."""
        self.isReleased = True


def test_acceptedInTheSameTurn() -> None:
    """A connection that is accepted in the turn in which ports are held is held like those that were there before."""
    supervisor: Any = Standing()
    held = Deferred.fromCoroutine(Offer(supervisor, -1)._hold())
    supervisor.reactor.pump([0, 0, 0])
    with pytest.raises(ConfigurationError, match="not now"):
        held.result.raiseException()  # type: ignore[union-attr]
    assert [each.isHeld for each in supervisor.essentials] == [True, True]
    held.addErrback(lambda failure: None)


def test_whatTheSystemRefuses() -> None:
    """If the system has no descriptor left, or no room for what is given, one line says so, and the old supervisor goes on."""
    supervisor: Any = Standing()
    over = Deferred.fromCoroutine(Offer(supervisor, -1).run())
    with pytest.raises(ConfigurationError, match="The system refuses what this takes: Too many open files"):
        over.result.raiseException()  # type: ignore[union-attr]
    assert supervisor.isReleased
    over.addErrback(lambda failure: None)
