"""Coroutines that answer requests."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from twisted_ws.errors import ChannelError
from twisted_ws.web.http.errors import httpError, late

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest


def answerLater(request: HttpRequest, work: Coroutine[Any, Any, None], seconds: float) -> int:
    """Let `work` answer a request, or begin to; an exception that it raises is the answer.

    Args:
        request: the request. If its peer leaves, the work is cancelled.
        work: a coroutine.
        seconds: the time that it may take.
    """
    context = copy_context()
    try:
        waitsFor = context.run(work.send, None)
    except StopIteration:
        return NOT_DONE_YET
    except BaseException:  # also asyncio's CancelledError, as when the work has waited
        failed(Failure(), request)
        return NOT_DONE_YET
    task = Deferred.fromCoroutine(_rest(work, context, waitsFor))
    request.whenGone = task.cancel
    task.addTimeout(seconds, request.channel.site.reactor)
    task.addErrback(failed, request)
    return NOT_DONE_YET


@coroutine
def _rest(work: Coroutine[Any, Any, None], context: Context, waitsFor: Any) -> Generator[Any, Any, None]:
    """Continue a coroutine that has begun."""
    try:
        while True:
            try:
                result = yield waitsFor
            except BaseException as error:
                waitsFor = context.run(work.throw, error)
            else:
                waitsFor = context.run(work.send, result)
    except StopIteration:
        pass


def failed(failure: Failure, request: HttpRequest) -> None:
    """Answer a request with what its work has failed with."""
    error = failure.value
    if isinstance(error, ChannelError):
        failure = Failure(httpError(error))
    elif isinstance(error, defer.TimeoutError):
        failure = Failure(late())
    elif isinstance(error, CancelledError) and request.gone:
        return
    request.processingFailed(failure)
