"""A conversation over one WebSocket: sends the input, displays what comes, and ends in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.task import LoopingCall, deferLater

from twisted_ws.client import WebSocketClient
from twisted_ws.client.connecting import Connecting
from twisted_ws.commands.exits import Exit, codeOf, explained
from twisted_ws.commands.terminal.display import Display
from twisted_ws.commands.terminal.sources import Source
from twisted_ws.commands.terminal.streams import Output
from twisted_ws.errors import ConfigurationError, ConnectionClosed, WebSocketError

# Seconds for an orderly close after a signal, or after the reader of our output has gone.
INTERRUPTED = 2.0
# Seconds for a pong while nothing else comes.
PATIENCE = 10.0
# Seconds for answers to arrive after a pong has shown that the server has read everything.
LATE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """The rules of a conversation.

    Attributes:
        keepOpen: whether to stay connected after the end of the input.
        one: whether the first message ends it.
        wait: seconds without a message after the end of the input, before the connection is closed.
        ping: seconds between pings whose round trip is shown; 0: none.
    """

    keepOpen: bool = False
    one: bool = False
    wait: float = 0
    ping: float = 0


class Talk:
    """One conversation.

    Args:
        reactor: the reactor.
        url: as it is shown.
        manner: the rules.
        display: shows what happens.
        source: the messages to send; None: none.
        output: where the display writes.

    Attributes:
        trouble: the complaint at the end; "" if all is well.
    """

    def __init__(self, reactor: Any, url: str, manner: Manner, display: Display, source: Source | None, output: Output) -> None:
        self.trouble = ""
        self._reactor = reactor
        self._url = url
        self._manner = manner
        self._display = display
        self._source = source
        self._output = output
        self._connecting: Connecting | None = None
        self._client: WebSocketClient | None = None
        self._reading: Deferred[int] | None = None
        self._code: int | None = None  # the exit code, if decided before the connection ends
        self._received = 0
        self._receivedAt = 0.0
        self._due: bytes | None = None  # the newest unanswered ping
        self._answering = False  # a pong is being written
        output.broken.addCallback(self._brokenPipe)

    # Handlers of the client.

    def onPing(self, client: WebSocketClient, data: bytes) -> None:
        """Answer the ping, and display it.

        A server may send pings without end, read no pongs and respect no pauses. So of the unanswered pings only the newest is
        answered (RFC 6455 section 5.5.3), and those that the output has no room for are not displayed.
        """
        self._due = data
        self._answer(client)
        if not self._output.isFull:
            self._display.ping(data)

    def _answer(self, client: WebSocketClient) -> None:
        if self._due is not None and not self._answering:
            data, self._due, self._answering = self._due, None, True
            client.pong(data).addBoth(self._answered, client)

    def _answered(self, _: object, client: WebSocketClient) -> None:
        self._answering = False
        self._answer(client)

    def onPong(self, client: WebSocketClient, data: bytes) -> None:
        """Display the pong, if there is room."""
        if not self._output.isFull:
            self._display.pong(data, None)

    def onReconnect(self, client: WebSocketClient) -> None:
        """Display the new connection."""
        self._display.opened(self._url, client.negotiatedSubProtocol, True)

    # The whole conversation.

    async def run(self, connect: Callable[[], Connecting]) -> int:
        """Connect, talk, and return the exit code."""
        try:
            self._connecting = connect()
            client = self._client = await self._connecting
        except CancelledError:
            return self._ended(Exit.FAILED)
        except (WebSocketError, ConfigurationError, ValueError, TypeError, ConnectionClosed) as error:
            return self._ended(codeOf(error), explained(error))
        self._display.opened(self._url, client.negotiatedSubProtocol, False)
        self._receivedAt = self._reactor.seconds()
        pinging = LoopingCall(self._ping, client)
        pinging.clock = self._reactor
        if self._manner.ping:
            pinging.start(self._manner.ping)
        self._reading = Deferred.fromCoroutine(self._receive(client))
        sending = Deferred.fromCoroutine(self._send(client, self._source)) if self._source is not None else None
        try:
            code = await self._reading
        except CancelledError:
            code = self._ended(Exit.FAILED)
        if pinging.running:
            pinging.stop()
        if sending is not None:
            sending.addErrback(lambda failure: failure.trap(CancelledError))
            sending.cancel()
        return code

    def interrupt(self, code: int) -> None:
        """End with 1000, soon, and with this exit code."""
        self._code = code if self._code is None else self._code
        if self._client is not None:
            # A read loop that waits for room in the output would wait forever.
            self._client.close(timeout=INTERRUPTED).addCallback(self._stopReading)
        elif self._connecting is not None:
            self._connecting.cancel()

    def _stopReading(self, _: None) -> None:
        assert self._reading is not None  # set in the same turn as the client
        self._reading.cancel()

    def _brokenPipe(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.trouble = f"standard output cannot be written ({error.strerror}): make room, or write elsewhere"
        self.interrupt(Exit.BROKEN_PIPE if isinstance(error, BrokenPipeError) else Exit.FAILED)

    def codeOr(self, code: int) -> int:
        """Return the final exit code, once the output has been written or has failed; `code` is the result of `run`."""
        return code if self._code is None else self._code

    def _ended(self, code: int, trouble: str = "") -> int:
        """Return the exit code, and note the complaint."""
        if self._code is not None:
            return self._code
        if trouble:
            self.trouble = trouble
            self._display.failed(trouble)
        return code

    # In.

    async def _receive(self, client: WebSocketClient) -> int:
        while True:
            try:
                message: str | bytes = await client.readMessage()
            except ConnectionClosed as error:
                self._display.closed(error.statusCode, error.reason)
                code = codeOf(error)
                return self._ended(code, explained(error) if code else "")
            except WebSocketError as error:
                return self._ended(codeOf(error), explained(error))
            self._received += 1
            self._receivedAt = self._reactor.seconds()
            self._display.message(message)
            if self._manner.one:
                await client.close()
                return self._ended(Exit.OK)
            if self._output.isFull:
                await self._output.room()

    # Out.

    async def _send(self, client: WebSocketClient, source: Source) -> None:
        try:
            while (messages := await source.next()) is not None:
                last: Deferred[None] | None = None
                for message in messages:
                    self._display.sent(message)
                    last = client.writeMessage(message)
                if last is not None:
                    # Messages go out in order: once the last has gone, all have. So input is read as fast as the server takes it.
                    await last
        except ConfigurationError as error:
            self._code = self._ended(Exit.FAILED, str(error))
        except ConnectionClosed as error:
            if self._code is None:
                trouble = f"{explained(error)}; not all of standard input was sent"
                self._code = self._ended(codeOf(error) or Exit.FAILED, trouble)
            return
        if self._code is None:
            if self._manner.keepOpen or self._manner.one:
                return
            await self._quiet(client)
        await client.close()

    async def _quiet(self, client: WebSocketClient) -> None:
        """Wait until the server has read what was sent, and has answered.

        What comes after our Close is dropped, so answers must arrive before it. A pong shows that the server has read
        everything sent before the ping; a round trip in which nothing else came, that it has answered.
        """
        answeredAt: float | None = None
        while True:
            before = self._received
            try:
                await client.ping().addTimeout(PATIENCE, self._reactor)
            except TimedOut:
                if self._received == before and not self._output.isFull:
                    return
                continue
            except ConnectionClosed:
                return
            if self._output.isFull:
                await self._output.room()
                continue
            now = self._reactor.seconds()
            answeredAt = now if answeredAt is None else answeredAt
            left = self._receivedAt + self._manner.wait - now
            if self._manner.wait and left > 0:
                await deferLater(self._reactor, left, lambda: None)
            elif self._received == before or (not self._manner.wait and now - answeredAt >= LATE):
                return

    def _ping(self, client: WebSocketClient) -> None:
        data = os.urandom(8)
        if client.isOpen():
            client.ping(data).addCallbacks(lambda seconds: self._display.pong(data, seconds), lambda failure: None)
