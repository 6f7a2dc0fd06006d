"""One call, and its repetitions: a generator that says what to do next, for threads and for asyncio alike."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Union
from urllib.parse import quote, urlencode

from twisted_ws_publisher.errors import TRANSIENT, BatchError, PublishError
from twisted_ws_publisher.http import Response
from twisted_ws_publisher.messages import Message, Receipt, batch_body, dumps, split

# Seconds for a call with all its repetitions, and how often it is tried: a server that restarts is back by then.
TIMEOUT = 5.0
ATTEMPTS = 4
# Seconds before the first repetition at most; doubled each time (a random part of it: "full jitter"), to this.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 2.0


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method: such as POST.
        path: with its query.
        content_type: of the body; "" without one.
        body: the body.
        is_repeatable: whether doing it twice does no more than once.
    """

    method: str
    path: str
    content_type: str
    body: bytes
    is_repeatable: bool = True


class Send(NamedTuple):
    """Send a request; its answer comes back, or a `Lost` is thrown into the generator."""

    request: Request
    seconds: float


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Lost(Exception):
    """There is no answer.

    Attributes:
        may_be_done: whether the request, or a part of it, was sent.
        is_late: whether the time was up.
    """

    def __init__(self, message: str, may_be_done: bool, is_late: bool = False) -> None:
        super().__init__(message)
        self.may_be_done = may_be_done
        self.is_late = is_late


Step = Union[Send, Pause]
Call = Generator[Step, Any, Any]


class Policy(NamedTuple):
    """How long and how often a call is tried."""

    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS


def exchange(request: Request, policy: Policy, clock: Callable[[], float]) -> Generator[Step, Any, Response]:
    """Return the answer to a request, repeated while that may help.

    Raises:
        PublishError: there is no answer in time, or it is an error.
    """
    end = clock() + policy.timeout
    pause = _FIRST_PAUSE
    may_be_done = False
    for left in reversed(range(policy.attempts)):
        wait = random.uniform(0, pause)
        try:
            response: Response = yield Send(request, max(end - clock(), 0.001))
        except Lost as lost:
            may_be_done = may_be_done or lost.may_be_done
            error = PublishError(f"no answer: {lost}", "no-answer", None, may_be_done)
            may_repeat = not lost.is_late and (request.is_repeatable or not lost.may_be_done)
        else:
            if 200 <= response.status < 300:
                return response
            error = _error(response, may_be_done)
            # With these statuses the server has done nothing; after a gateway's 502 and 504 nobody knows.
            may_repeat = response.status in TRANSIENT and (request.is_repeatable or response.status in (425, 429, 503))
            wait = max(wait, _retry_after(response))
        if not left or not may_repeat or clock() + wait >= end:
            raise error
        yield Pause(wait)
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise AssertionError("there is at least one attempt")


def _error(response: Response, may_be_done: bool) -> PublishError:
    code, message = "http", f"the server answered {response.status}"
    try:
        said = json.loads(response.body)
        code, message = str(said["error"]), str(said["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # not from the server itself, but from a proxy before it
    return PublishError(message, code, response.status, may_be_done or response.status in (502, 504))


def _retry_after(response: Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _read(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        raise PublishError("the answer is not JSON: is this the server's broadcast port?", "http", response.status) from None


def _receipt(said: Any) -> Receipt:
    try:
        return Receipt(said["channel"], said["id"], said["recipients"])
    except (KeyError, TypeError):
        raise PublishError("the answer is not a receipt: is this the server's broadcast port?", "http") from None


class Calls:
    """The operations of a server.

    Args:
        policy: how long and how often each is tried.
        clock: seconds, monotonic.
        broadcast_path: the path of the broadcast resource.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float], broadcast_path: str = "/broadcaster/broadcast") -> None:
        self._policy = policy
        self._clock = clock
        self._broadcast_path = broadcast_path

    def publish(self, message: Message) -> Call:
        """Publish a message; return its `Receipt`."""
        response = yield from self._post("/api/publish", message.body)
        return _receipt(_read(response))

    def batch(self, messages: Sequence[Message]) -> Call:
        """Publish messages in order; return their receipts.

        Raises:
            BatchError: not all are published.
        """
        results: list[Receipt | PublishError] = []
        for group in split(messages):
            try:
                response = yield from self._post("/api/batch", batch_body(group))
                said = _read(response)["results"]
                results += [_result(each) for each in said]
            except PublishError as error:
                # The later ones wait for nothing: they would only be published out of order.
                results += [error] * (len(messages) - len(results))
                break
        if any(isinstance(each, PublishError) for each in results):
            raise BatchError(results)
        return results

    def broadcast(self, data: str | bytes) -> Call:
        """Send to every connection."""
        is_text = isinstance(data, str)
        body = data.encode() if isinstance(data, str) else bytes(data)
        kind = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        yield from exchange(Request("POST", self._broadcast_path, kind, body, False), self._policy, self._clock)

    def disconnect(self, fields: Mapping[str, Any]) -> Call:
        """End connections; return how many."""
        return self._count("/api/disconnect", fields, "disconnected")

    def unsubscribe(self, fields: Mapping[str, Any]) -> Call:
        """End subscriptions; return how many."""
        return self._count("/api/unsubscribe", fields, "unsubscribed")

    def revoke(self, fields: Mapping[str, Any]) -> Call:
        """Take credentials back; return until when they are refused."""
        response = yield from self._post("/api/revoke", dumps(fields))
        return _read(response)["until"]

    def ticket(self, fields: Mapping[str, Any]) -> Call:
        """Have a ticket made; return it."""
        response = yield from self._post("/api/tickets", dumps(fields))
        return _read(response)["token"]

    def get(self, path: str, **query: str | int | None) -> Call:
        """Return what is at a path, as JSON has it."""
        chosen = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(chosen)}" if chosen else path
        response = yield from exchange(Request("GET", target, "", b""), self._policy, self._clock)
        return _read(response)

    def delete_history(self, channel: str) -> Call:
        """Delete what a channel keeps; return how many messages."""
        path = f"/api/channels/{quote(channel, safe='')}/history"
        response = yield from exchange(Request("DELETE", path, "", b""), self._policy, self._clock)
        return _read(response)["deleted"]

    def _count(self, path: str, fields: Mapping[str, Any], member: str) -> Call:
        response = yield from self._post(path, dumps(fields))
        return _read(response)[member]

    def _post(self, path: str, body: bytes) -> Generator[Step, Any, Response]:
        return exchange(Request("POST", path, "application/json", body), self._policy, self._clock)


def _result(said: Any) -> Receipt | PublishError:
    if "error" in said:
        return PublishError(said["message"], said["error"], 503 if said["error"] == "unavailable" else 400)
    return _receipt(said)
