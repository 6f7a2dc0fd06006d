"""Answers that take their time: what a coroutine returns or raises."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from twisted_ws.errors import ChannelError
from twisted_ws.web.answers import HttpError, retryAfter
from twisted_ws.web.health import RETRY_SECONDS

if TYPE_CHECKING:
    from twisted_ws.web.request import HttpRequest

__all__ = ["answerLater", "httpError", "late"]


def answerLater(request: HttpRequest, work: Coroutine[Any, Any, None], seconds: float) -> int:
    """Let `work` answer a request, or begin to; what it raises is the answer.

    Args:
        request: the request. When its peer leaves, the work is cancelled.
        work: a coroutine.
        seconds: how long it may take.
    """
    task = Deferred.fromCoroutine(work)
    if not task.called:
        request.notifyFinish().addErrback(lambda gone: task.cancel())
        task.addTimeout(seconds, request.channel.site.reactor)

    def failed(failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ChannelError):
            failure = Failure(httpError(error))
        elif isinstance(error, defer.TimeoutError):
            failure = Failure(late())
        elif isinstance(error, CancelledError) and request.gone:
            return
        request.processingFailed(failure)

    task.addErrback(failed)
    return NOT_DONE_YET


def httpError(error: ChannelError) -> HttpError:
    """Return the answer that a refused request gets."""
    headers = retryAfter(RETRY_SECONDS) if error.status in (429, 503) else None
    more = {} if error.channel is None else {"channel": error.channel}
    return HttpError(error.status, error.message, error.code, headers, more)


def late() -> HttpError:
    """Return the answer to a request that took too long."""
    return HttpError(503, "The service did not decide in time.", headers=retryAfter(RETRY_SECONDS))
