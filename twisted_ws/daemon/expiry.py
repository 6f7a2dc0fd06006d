"""A daily check of the certificate in use: a warning at the start is forgotten after months of running."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twisted_ws.wire.tls.server import WARN_DAYS, ServerTLS, inWords

DAY = 24 * 3600.0


class ExpiryWatch(Service):
    """Warns each day while the certificate in use expires in less than `WARN_DAYS`.

    Args:
        tls: the TLS whose certificate is checked.
        reactor: the reactor.
    """

    _log = Logger()

    def __init__(self, tls: ServerTLS, reactor: Any) -> None:
        self._tls = tls
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        """Begin; today's check was made when the certificate was loaded."""
        super().startService()  # type: ignore[no-untyped-call]
        self._loop.start(DAY, now=False)

    def stopService(self) -> None:
        """Stop."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        days = self._tls.daysLeft()
        if days < 0:
            self._log.warn(
                "The certificate in use HAS EXPIRED, and clients refuse it: renew it, then reload (SIGHUP).",
                event="certificate.expired",
            )
        elif days < WARN_DAYS:
            self._log.warn(
                "The certificate in use expires in {left}: renew it, then reload (SIGHUP).",
                left=inWords(days),
                event="certificate.expires",
            )
