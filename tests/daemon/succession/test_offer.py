"""What a supervisor does that another one takes the place of; whole servers are in tests/daemon/test_upgrade_live.py."""

from __future__ import annotations

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


def test_acceptedInTheSameTurn() -> None:
    """A connection that is accepted in the turn in which ports are held is held like those that were there before."""
    supervisor: Any = Standing()
    held = Deferred.fromCoroutine(Offer(supervisor, -1)._hold())
    supervisor.reactor.pump([0, 0, 0])
    with pytest.raises(ConfigurationError, match="not now"):
        held.result.raiseException()  # type: ignore[union-attr]
    assert [each.isHeld for each in supervisor.essentials] == [True, True]
    held.addErrback(lambda failure: None)
