"""Connects, and connects again: one attempt at a time, when a `Retry` says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.client.errors import seconds
from twisted_ws.client.retry import Retry, expired
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.logs import printable


class Reconnector:
    """Keeps a connection up.

    Args:
        reactor: tells the time.
        retry: when to try again; None: never.
        dial: makes one attempt.
        opened: called with each connection.
        givenUp: called with the reason when there will be no more connections.
        renews: whether an attempt may have other credentials than the last: then one that was refused because of them, or a
            connection that ended with them, is followed by one more.

    Attributes:
        hasRenewed: whether such an attempt was made since a connection has lasted.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        retry: Retry | None,
        dial: Callable[[], Deferred[ClientConnection]],
        opened: Callable[[ClientConnection], None],
        givenUp: Callable[[Exception], None],
        renews: bool = False,
    ) -> None:
        self._reactor = reactor
        self._retry = retry
        self._dial = dial
        self._opened = opened
        self._givenUp = givenUp
        self._count = 0  # attempts in a row, not counting the first
        self._since = 0.0
        self._dialing: Deferred[None] | None = None
        self._next: IDelayedCall | None = None
        self._stopped = False
        self._renews = renews
        self.hasRenewed = False  # since a connection has lasted

    def start(self) -> None:
        """Make an attempt now."""
        self._next = None
        self._dialing = self._dial().addCallbacks(self._done, self._failed)
        self._dialing.addErrback(
            lambda failure: self._log.failure("a client failed when its connection opened", failure, event="client.failed")
        )

    def lost(self, error: Exception, hadMessage: bool) -> None:
        """Reconnect, or give up, after the loss of the connection.

        Args:
            error: the reason.
            hadMessage: whether a message came over the connection.
        """
        if self._retry is not None and (hadMessage or self._reactor.seconds() - self._since >= self._retry.maxInterval):
            self._count = 0
        self._again(error)

    def ended(self, error: Exception) -> bool:
        """Return whether another attempt will follow the connection, which has just ended; `lost` follows."""
        if self._retry is not None and self._reactor.seconds() - self._since >= self._retry.maxInterval:
            self.hasRenewed = False  # the credentials were good for a while
        return self._willReturn(error)

    def _willReturn(self, error: Exception) -> bool:
        if self._retry is None:
            return False
        return self._retry.again(error) or (self._renews and not self.hasRenewed and expired(error))

    def stop(self) -> None:
        """Make no more attempts."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._dialing is not None:
            self._dialing.cancel()

    def _done(self, connection: ClientConnection) -> None:
        self._dialing = None
        self._since = self._reactor.seconds()
        self._opened(connection)

    def _failed(self, failure: Failure) -> None:
        self._dialing = None
        if not self._stopped:
            error = failure.value
            assert isinstance(error, Exception)
            self._again(error)

    def _again(self, error: Exception) -> None:
        retry = self._retry
        if retry is None or not self._willReturn(error) or (retry.maxCount and self._count >= retry.maxCount):
            self._stopped = True
            self._givenUp(error)
            return
        self.hasRenewed = self.hasRenewed or expired(error)
        self._count += 1
        wait = retry.wait(self._count, error)
        self._log.info(
            "not connected: {reason}; attempt {count} in {wait}",
            reason=printable(error),
            count=self._count,
            wait=seconds(round(wait, 1)),
            event="client.reconnects",
        )
        self._next = self._reactor.callLater(wait, self.start)
