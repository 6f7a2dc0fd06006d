from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from twisted_ws.dispatch import upgrades
from twisted_ws.upgrade import Reject, UpgradeRequest


class Chat:
    def onOpen(self, caller: Any) -> None: ...


def callUpgrade(service: Any, request: UpgradeRequest, mayLog: Callable[[str], bool] = lambda kind: True) -> Any:
    return upgrades.callUpgrade(service, request, mayLog)


class Asked(Chat):
    """Answers with what a function returns."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    def onUpgrade(self, request: UpgradeRequest) -> Any:
        return self.answer(request)


def ask(answer: Callable[[Any], Any], path: str = "/ws") -> Any:
    """Return what the front door gets: a result, a Failure, or None for nothing yet."""
    results: list[Any] = []
    maybeDeferred(callUpgrade, Asked(answer), UpgradeRequest(path)).addBoth(results.append)
    return results[0] if results else None


def throw(error: BaseException) -> Any:
    raise error


async def later(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


def test_without() -> None:
    """A service without onUpgrade serves every connection itself."""
    chat = Chat()
    assert callUpgrade(chat, UpgradeRequest()) == (chat, ())


def test_unreadable() -> None:
    """If a service's onUpgrade cannot even be looked up, the answer is a 500, too."""

    class Broken(Chat):
        @property
        def onUpgrade(self) -> Any:
            raise OSError("no database")

    with capturedLogs() as events, pytest.raises(Reject) as caught:
        callUpgrade(Broken(), UpgradeRequest())
    assert caught.value.status == 500
    assert [event["log_failure"].type for event in events] == [OSError]


@pytest.mark.parametrize("wrap", [lambda value: value, later, succeed], ids=["plain", "async", "Deferred"])
def test_answers(wrap: Callable[[Any], Any]) -> None:
    """A plain, async or Deferred answer is a service, or a service and headers."""
    chat = Chat()
    assert ask(lambda request: wrap(chat)) == (chat, ())
    assert ask(lambda request: wrap((chat, {"Set-Cookie": "a=b", "X-A": "b"}))) == (chat, (("Set-Cookie", "a=b"), ("X-A", "b")))
    assert ask(lambda request: wrap((chat, None))) == (chat, ())


@pytest.mark.parametrize("refuse", [throw, later, fail], ids=["plain", "async", "Deferred"])
def test_reject(refuse: Callable[[Any], Any]) -> None:
    """A Reject is passed on to the front door unchanged, and not logged."""
    reject = Reject(401, "no token", {"WWW-Authenticate": "Bearer"})
    with capturedLogs() as events:
        assert ask(lambda request: refuse(reject)).value is reject
    assert events == []


@pytest.mark.parametrize("refuse", [throw, later, fail], ids=["plain", "async", "Deferred"])
@pytest.mark.parametrize("error", [KeyError("db password"), SystemExit(3), CancelledError(), asyncio.CancelledError()])
def test_raises(refuse: Callable[[Any], Any], error: BaseException) -> None:
    """Any other exception becomes a 500 that reveals nothing, and one traceback in the log."""
    with capturedLogs() as events:
        reject = ask(lambda request: refuse(error), "/a%0Ab").value
    assert (reject.status, reject.body, reject.headers) == (500, "Internal server error.", ())
    assert [event["log_failure"].value for event in events] == [error]
    assert (events[0]["service"], events[0]["path"]) == ("Asked", "/a\\nb")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "Asked.onUpgrade must return a service object, or (service, headers), not NoneType"),
        ("ok", "not str"),
        (b"ok", "not bytes"),
        (True, "not bool"),
        ({}, "not dict"),
        ([], "not list"),
        ((1, 2, 3), "not tuple"),
        ((None, {}), "not NoneType"),
        (Chat, "Chat is a class: pass an instance, Chat()"),
        (object(), "object handles no event"),
        ((Chat(), ["a"]), "must return its headers as a dict, not list"),
        ((Chat(), {"a b": "c"}), "headers that cannot be sent"),
        ((Chat(), {"a": "b\r\nc: d"}), "headers that cannot be sent"),
        ((Chat(), {"a": 5}), "headers that cannot be sent"),
        ((Chat(), {"Upgrade": "h2c"}), "must not set the header Upgrade: it belongs to the handshake"),
        ((Chat(), {"connection": "close"}), "must not set the header connection"),
        ((Chat(), {"Content-Length": "5"}), "must not set"),
        ((Chat(), {"Transfer-Encoding": "chunked"}), "must not set"),
        ((Chat(), {"Sec-WebSocket-Protocol": "x"}), "must not set"),
        ((Chat(), {"sec-websocket-anything": "x"}), "must not set"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, later], ids=["plain", "async"])
def test_mistakes(answer: Any, text: str, wrap: Callable[[Any], Any]) -> None:
    """An invalid answer is the service's mistake: a 500, and one clear line in the log."""
    with capturedLogs() as events:
        reject = ask(lambda request: wrap(answer)).value
    assert (reject.status, reject.body) == (500, "Internal server error.")
    assert [event["log_level"] for event in events] == [LogLevel.error]
    assert text in events[0]["reason"]
    assert "log_failure" not in events[0]


def test_waits() -> None:
    """The front door waits as long as onUpgrade does."""
    waiting: Deferred[Any] = Deferred()
    chat, results = Chat(), []
    callUpgrade(Asked(lambda request: waiting), UpgradeRequest()).addCallback(results.append)
    assert results == []
    waiting.callback(chat)
    assert results == [(chat, ())]


async def endless(events: list[str], waiting: Deferred[Any], after: Callable[[], Any]) -> Any:
    try:
        await waiting
    finally:
        events.append("cleaned up")
        return after()  # noqa: B012 - the worst that a service could do


@pytest.mark.parametrize(
    "after",
    [lambda: None, Chat, lambda: throw(Reject(503)), lambda: throw(asyncio.CancelledError())],
    ids=["None", "service", "Reject", "CancelledError"],
)
def test_cancel(after: Callable[[], Any]) -> None:
    """When the peer leaves, the coroutine is cancelled where it waits, and whatever it does then is ignored."""
    happened: list[str] = []
    waiting: Deferred[Any] = Deferred()
    results: list[Any] = []
    with capturedLogs() as events:
        answer = callUpgrade(Asked(lambda request: endless(happened, waiting, after)), UpgradeRequest())
        answer.addBoth(results.append)
        answer.cancel()
    assert happened == ["cleaned up"]
    assert isinstance(results[0], Failure)
    assert results[0].check(CancelledError)
    assert len(results) == 1
    assert events == []


def test_cancelDeferred() -> None:
    """A Deferred that cannot be cancelled is abandoned, and its later result is dropped."""
    waiting: Deferred[Any] = Deferred(lambda _: None)
    results: list[Any] = []
    with capturedLogs() as events:
        answer = callUpgrade(Asked(lambda request: waiting), UpgradeRequest())
        answer.addBoth(results.append)
        answer.cancel()
    assert results[0].check(CancelledError)
    assert events == []


@pytest.mark.parametrize("breaks", [lambda waiting: throw(KeyError("a bug")), lambda waiting: waiting.errback(KeyError("a bug"))])
def test_cancelBreaks(breaks: Callable[[Any], Any]) -> None:
    """A canceller that raises is logged, and stops nothing else."""
    waiting: Deferred[Any] = Deferred(breaks)
    results: list[Any] = []
    with capturedLogs() as events:
        answer = callUpgrade(Asked(lambda request: waiting), UpgradeRequest())
        answer.addBoth(results.append)
        answer.cancel()
    assert results[0].check(CancelledError)
    assert [event["log_failure"].type for event in events] == [KeyError]


def test_linesAreCounted() -> None:
    """A peer that can make onUpgrade fail cannot fill the log: lines are limited by kind."""
    kinds: list[str] = []

    def mayLog(kind: str) -> bool:
        kinds.append(kind)
        return len(kinds) == 1

    def broken(request: UpgradeRequest) -> Any:
        raise KeyError("a bug")

    with capturedLogs() as events:
        for _ in range(3):
            with pytest.raises(Reject) as caught:
                callUpgrade(Asked(broken), UpgradeRequest(), mayLog)
            assert caught.value.status == 500
    assert len(events) == 1
    assert kinds == ["Asked.onUpgrade raised KeyError"] * 3
