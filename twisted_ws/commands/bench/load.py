"""The load: connections that are opened, messages that come back, and one message to many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.python.failure import Failure

from twisted_ws.client import WebSocketClient
from twisted_ws.client.errors import ReadTimeout
from twisted_ws.commands.bench.durations import Durations
from twisted_ws.commands.exits import codeOf, explained
from twisted_ws.errors import ConfigurationError, ConnectionClosed, WebSocketError

# Handshakes at the same time: more would wait in the backlog of the port, and that would be measured.
AT_ONCE = 64
# Seconds for an answer, before a path counts as one that does not echo.
ANSWER = 3.0
# Seconds that a publication may take to all subscribers, before the rest counts as lost.
LOSS = 10.0
# Seconds for connections to close at the end.
GOODBYE = 5.0

_MARK = "twisted-ws bench "

Errors = (WebSocketError, ConnectionClosed, ConfigurationError, ValueError)


class Load:
    """Connections to one server, and what they measure.

    Args:
        reactor: the reactor.
        dial: opens a connection.
        show: called now and then with what is being done.

    Attributes:
        clients: the open connections.
        handshakes: how long each took to open.
        seconds: how long all took together.
        failures: why others did not open, and how many of each.
        code: the exit code for the first failure.
    """

    def __init__(self, reactor: Any, dial: Callable[[], Awaitable[WebSocketClient]], show: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._clock: Callable[[], float] = reactor.seconds
        self._dial = dial
        self._show = show
        self.clients: list[WebSocketClient] = []
        self.handshakes = Durations()
        self.seconds = 0.0
        self.failures: dict[str, int] = {}
        self.code = 0

    async def open(self, count: int) -> None:
        """Open so many connections; the first failure of all is final, for the rest would fail as well."""
        left = iter(range(count))
        begun = self._clock()

        async def work() -> None:
            for _ in left:
                if self.failures and not self.clients:
                    return
                start = self._clock()
                try:
                    client = await self._dial()
                except Errors as error:
                    self._failed(error)
                else:
                    self.handshakes.add(self._clock() - start)
                    self.clients.append(client)
                self._show(f"connections: {len(self.clients)} of {count}")

        await _together(work() for _ in range(min(AT_ONCE, count)))
        self.seconds = self._clock() - begun

    def _failed(self, error: Exception) -> None:
        text = explained(error)
        self.failures[text] = self.failures.get(text, 0) + 1
        self.code = self.code or codeOf(error)

    async def echoes(self, message: str) -> bool:
        """Return whether the path answers a message, by a connection that is used for nothing else."""
        try:
            probe = await self._dial()
        except Errors:
            return False
        try:
            await probe.writeTextMessage(message)
            await probe.readMessage(Any, ANSWER)
        except Errors:
            return False
        finally:
            await _closed(probe, self._reactor)
        return True

    async def echo(self, message: str, seconds: float) -> tuple[Durations, float]:
        """Send messages over all connections, on each the next one when an answer has come.

        Returns:
            How long answers took, and how long all took together.
        """
        found = Durations()
        begun = self._clock()
        until = begun + seconds

        async def work(client: WebSocketClient) -> None:
            try:
                while (start := self._clock()) < until:
                    client.writeTextMessage(message)
                    await client.readMessage(Any, LOSS)
                    found.add(self._clock() - start)
                    if not found.count & 0xFF:
                        self._show(f"echo: {found.count} messages")
            except Errors as error:
                self._failed(error)

        await _together(work(client) for client in self.clients)
        return found, self._clock() - begun

    async def fanOut(self, publish: Callable[[str], Awaitable[None]], size: int, seconds: float) -> FanOut:
        """Publish one message after the other, each when all connections have had the one before.

        Args:
            publish: publishes a text to all connections.
            size: bytes of each message.
            seconds: how long.

        Raises:
            WebSocketError: nothing can be published.
        """
        return await FanOut(self._reactor, self.clients, self._show).run(publish, size, seconds)

    async def close(self) -> None:
        """Close all connections."""
        self._show("closing")
        await _together(_closed(client, self._reactor) for client in self.clients)


class FanOut:
    """One message to many, again and again.

    Args:
        reactor: the reactor.
        clients: who should get it.
        show: called now and then with what is being done.

    Attributes:
        delays: from the beginning of a publication to each arrival.
        published: how many were published.
        lost: how many have not arrived.
        seconds: how long all took together.
    """

    def __init__(self, reactor: Any, clients: list[WebSocketClient], show: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._clock: Callable[[], float] = reactor.seconds
        self._clients = clients
        self._show = show
        self.delays = Durations()
        self.published = 0
        self.lost = 0
        self.seconds = 0.0
        self._current = ""
        self._since = 0.0
        self._missing = 0
        self._arrived: Deferred[None] = Deferred()

    async def run(self, publish: Callable[[str], Awaitable[None]], size: int, seconds: float) -> FanOut:
        """Publish for so many seconds, at least once."""
        listening = [Deferred.fromCoroutine(self._listen(client)) for client in self._clients]
        begun = self._clock()
        try:
            while not self.published or self._clock() < begun + seconds:
                text = f"{_MARK}{self.published} "
                self._current, self._since, self._missing = text, self._clock(), len(self._clients)
                self._arrived = Deferred()
                await publish(text.ljust(size, "."))
                self.published += 1
                if self._missing:
                    try:
                        await self._arrived.addTimeout(LOSS, self._reactor)
                    except TookTooLong:
                        self.lost += self._missing
                        break
                self._show(f"fan-out: {self.published} published, {self.delays.count} arrived")
        finally:
            self.seconds = self._clock() - begun
            for each in listening:
                each.addErrback(lambda failure: None)
                each.cancel()
        return self

    async def _listen(self, client: WebSocketClient) -> None:
        while True:
            message = await client.readMessage(Any)
            if not isinstance(message, str) or not message.startswith(self._current) or not self._current:
                continue
            self.delays.add(self._clock() - self._since)
            self._missing -= 1
            if not self._missing and not self._arrived.called:
                self._arrived.callback(None)


async def _closed(client: WebSocketClient, reactor: Any) -> None:
    try:
        await client.close(timeout=GOODBYE)
    except (*Errors, ReadTimeout):
        pass


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; if this is cancelled, so are they, and an error is raised as it is."""
    try:
        await gatherResults([Deferred.fromCoroutine(each) for each in works], consumeErrors=True)
    except BaseException as error:
        inner = getattr(error, "subFailure", None)
        if isinstance(inner, Failure) and inner.value is not None:
            raise inner.value from None
        raise
