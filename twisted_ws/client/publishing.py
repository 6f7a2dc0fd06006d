"""The publisher for programs on Twisted: it calls the HTTP API of a server."""

from __future__ import annotations

import base64
import os
import uuid
from random import SystemRandom
from typing import Any

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from twisted_ws.access.asking.exchange import Answer, Exchanges, Question, Unanswered
from twisted_ws.client.errors import PublishError
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import checkNumber
from twisted_ws.logs import printable
from twisted_ws.message import Published
from twisted_ws.wire.tls.files import readFile

_random = SystemRandom()

# Seconds for a call with all its repetitions, and how often it is tried: a server that restarts is back by then.
TIMEOUT = 5.0
ATTEMPTS = 4
# Seconds before the first repetition at most, and doubled each time (a random part of it) up to this.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 2.0
# Connections that are kept: each call that runs at the same time has one of its own.
CONNECTIONS = 8
# Statuses that may pass; with those in the second set, the server has certainly done nothing.
TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
_UNDONE = frozenset({425, 429, 503})


class _Receipt(msgspec.Struct):
    channel: str
    id: str
    recipients: int


class AgentPublisher:
    """Publishes to the channels of a server, over its broadcast port.

    ::

        push = AgentPublisher("http://127.0.0.1:8081", keyFile="/run/secrets/push")
        published = await push.publish("orders.42", {"state": "paid"})

    A call is repeated, within its time, when the server is away, restarts or is busy; a message is published once all the same,
    because each has an idempotency key. Calls run at the same time, each on a connection of its own: for messages that must stay
    in order, await one before the next.

    Args:
        url: ``http://host:port`` or ``https://host:port/prefix``: the server's broadcast port.
        keyFile: a file whose first line is an API key; it is read again when the key is refused. None: the server asks for none.
        timeout: seconds for a call with all its repetitions.
        attempts: how often a call is tried at most.
        reactor: the reactor; None for the global one.

    Raises:
        ConfigurationError: the URL is malformed, or the file cannot be used.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        url: str,
        keyFile: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        reactor: Any = None,
    ) -> None:
        checkNumber("timeout", timeout, above=True)
        checkNumber("attempts", attempts, 1)
        if not url.startswith(("http://", "https://")) or "?" in url or "@" in url:
            raise ConfigurationError("The URL of a server must be http://HOST:PORT or https://HOST:PORT.")
        if reactor is None:
            from twisted.internet import reactor
        self._url = url.rstrip("/")
        self._keyFile = None if keyFile is None else os.fspath(keyFile)
        self._key = self._readKey()
        self._timeout = timeout
        self._attempts = attempts
        self._reactor: Any = reactor
        self._exchanges = Exchanges(reactor, CONNECTIONS)

    def __repr__(self) -> str:
        return f"<AgentPublisher {self._url}>"

    def publish(
        self, channel: str, data: Any, *, key: str | None = None, idempotencyKey: str | None = None
    ) -> Deferred[Published]:
        """Publish to a channel: bytes are binary, a string is text, everything else is JSON.

        Args:
            channel: the channel.
            data: the message.
            key: of several messages with the same key, a subscriber that is slow may get only the newest.
            idempotencyKey: what is published with the same key within five minutes is published once; by default each call has a
                key of its own, for its repetitions.

        Raises:
            PublishError: it is not certain that it is published; the Deferred fails with it.
            TypeError: JSON has no form for `data`.
            ValueError: text with a lone surrogate.
        """
        fields: dict[str, Any] = {"channel": channel, "idempotencyKey": idempotencyKey or uuid.uuid4().hex}
        if isinstance(data, (bytes, bytearray, memoryview)):
            fields["base64"] = base64.b64encode(data).decode("ascii")
        else:
            fields["data"] = data
        if key is not None:
            fields["key"] = key
        return Deferred.fromCoroutine(self._publish(msgspec.json.encode(fields)))

    def broadcast(self, data: str | bytes) -> Deferred[None]:
        """Send to every connection of every service.

        Raises:
            PublishError: it is not certain that it was sent. Nothing keeps a second call from sending it twice.
        """
        kind = "text/plain; charset=utf-8" if isinstance(data, str) else "application/octet-stream"
        body = data.encode() if isinstance(data, str) else bytes(data)
        return Deferred.fromCoroutine(self._broadcast(kind, body))

    def close(self) -> Deferred[None]:
        """Close the connections; the next call makes new ones."""
        return self._exchanges.stop()

    async def _publish(self, body: bytes) -> Published:
        answer = await self._call("/api/publish", "application/json", body, isRepeatable=True)
        try:
            found = msgspec.json.decode(answer.body, type=_Receipt)
            return Published(found.channel, found.id, found.recipients)
        except (ValueError, RecursionError):
            raise PublishError("the answer is not a receipt: is this the broadcast port?", "http", answer.status) from None

    async def _broadcast(self, kind: str, body: bytes) -> None:
        await self._call("/broadcaster/broadcast", kind, body, isRepeatable=False)

    async def _call(self, path: str, kind: str, body: bytes, isRepeatable: bool) -> Answer:
        """Return the answer to a request, repeated while that may help."""
        end = self._reactor.seconds() + self._timeout
        pause, mayBeDone = FIRST_PAUSE, False
        left = self._attempts
        while True:
            left -= 1
            wait = _random.uniform(0, pause)
            try:
                answer = await self._try(path, kind, body, isRepeatable, end)
            except (Unanswered, defer.TimeoutError) as error:
                mayBeDone = mayBeDone or not getattr(error, "isUnsent", False)
                said = PublishError(f"no answer: {error or 'the time is up'}", "no-answer", None, mayBeDone)
                mayRepeat = isRepeatable or not mayBeDone
            else:
                if 200 <= answer.status < 300:
                    return answer
                mayBeDone = mayBeDone or answer.status in (502, 504)
                said = _errorOf(answer, mayBeDone)
                mayRepeat = answer.status in TRANSIENT and (isRepeatable or answer.status in _UNDONE)
                wait = max(wait, answer.retryAfter)
            if not left or not mayRepeat or self._reactor.seconds() + wait >= end:
                raise said
            await deferLater(self._reactor, wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _try(self, path: str, kind: str, body: bytes, isRepeatable: bool, end: float) -> Answer:
        """Return the answer to a request; one that the key does not allow is asked again if the file has another key."""
        question = Question("POST", self._url + path, (("Content-Type", kind),), body, not isRepeatable)
        answer = await self._send(question, end)
        if answer.status == 401 and self._keyFile is not None:
            key = self._readKey()
            if key != self._key:
                self._key = key
                answer = await self._send(question, end)
        return answer

    def _send(self, question: Question, end: float) -> Deferred[Answer]:
        if self._key:
            question = question._replace(headers=(*question.headers, ("Authorization", f"Bearer {self._key}")))
        return self._exchanges.send(question).addTimeout(max(end - self._reactor.seconds(), 0.001), self._reactor)

    def _readKey(self) -> str:
        if self._keyFile is None:
            return ""
        key = readFile(self._keyFile, "key file").data.decode("utf-8", "replace").strip().partition("\n")[0].strip()
        if not key:
            raise ConfigurationError(f"The key file {self._keyFile} is empty.")
        return key


def _errorOf(answer: Answer, mayBeDone: bool) -> PublishError:
    code, message = "http", f"the server answered {answer.status}"
    try:
        said = msgspec.json.decode(answer.body)
        code, message = printable(str(said["error"]), 100), printable(str(said["message"]), 500)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # not from the server itself, but from a proxy before it
    return PublishError(message, code, answer.status, mayBeDone)
