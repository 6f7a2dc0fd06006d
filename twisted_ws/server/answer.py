"""The answer to what a service has published: nobody need wait for it."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.errors import ChannelError
from twisted_ws.logs import Throttle

_T = TypeVar("_T")
_log = Logger()


class Answer(Deferred[_T]):
    """The Deferred of an answer that the engine gives later.

    If it fails with `ChannelError` and nobody has handled that when the Deferred is forgotten, the log has one line, which says
    where in the service's code it came from. Of any other failure, Twisted reports what it knows.

    Args:
        asked: the engine's Deferred.
        what: what was asked, as in ``publish to a channel of orders``.
        throttle: counts such lines.
        asker: where it was asked.
    """

    def __init__(self, asked: Deferred[_T], what: str, throttle: Throttle, asker: FrameType) -> None:
        super().__init__(lambda _: asked.cancel())
        code = asker.f_code
        self._asker = f"{code.co_qualname} ({asker.f_globals.get('__name__', '?')}, line {asker.f_lineno})"
        self._what = what
        self._throttle = throttle
        asked.addCallbacks(self.callback, self.errback)

    def __del__(self) -> None:
        if self.called and isinstance(self.result, Failure):
            self.addErrback(self._ignored)

    def _ignored(self, failure: Failure) -> Failure | None:
        error = failure.value
        if not isinstance(error, ChannelError):
            return failure
        if turn := self._throttle.allows(f"{self._asker} could not {self._what}"):
            _log.error(
                "{asker} could not {what}: {reason}",
                asker=self._asker,
                what=self._what,
                reason=str(error),
                event="publish.failed",
                suppressed=turn - 1,
            )
        return None


def answerOf(asked: Deferred[_T], what: str, throttle: Throttle) -> Deferred[_T]:
    """Return what to give to the caller of the function that calls this: an `Answer`, if `asked` has not fired yet."""
    return asked if asked.called and not asked.paused else Answer(asked, what, throttle, sys._getframe(2))
