"""The publisher for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Any, Callable

from twisted_ws_publisher.calls import ATTEMPTS, TIMEOUT, Call, Calls, Lost, Pause, Request
from twisted_ws_publisher.connections import MOST_IDLE
from twisted_ws_publisher.http import Malformed, Response, ResponseReader, encode_request
from twisted_ws_publisher.keyfiles import PathLike
from twisted_ws_publisher.messages import Encoder, Message, Receipt, encode_json, make_message
from twisted_ws_publisher.publisher import channel_path, ticket_fields
from twisted_ws_publisher.settings import Settings, from_environment
from twisted_ws_publisher.traces import trace_headers

_CHUNK = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncPublisher:
    """A `Publisher` whose methods are coroutines. Its connections belong to the event loop in which it was used last.

    Args:
        url: as for `Publisher`, as are the others.
    """

    def __init__(
        self,
        url: str,
        key_file: PathLike | None = None,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        ca_file: PathLike | None = None,
        encode: Encoder = encode_json,
    ) -> None:
        self._settings = Settings(url, key_file, timeout, attempts, ca_file)
        self._calls = Calls(self._settings.policy, time.monotonic)
        self._encode = encode
        self._idle: deque[Streams] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_environment(cls, **more: Any) -> AsyncPublisher:
        """Make one of the environment: see `Publisher.from_environment`."""
        return cls(**{**from_environment(), **more})

    def __repr__(self) -> str:
        return f"<AsyncPublisher {self._settings.address.path or self._settings.address.authority}>"

    async def __aenter__(self) -> AsyncPublisher:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.transport.abort()
        await asyncio.sleep(0)  # in which the loop closes their sockets

    async def publish(self, channel: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> Receipt:
        """Publish to a channel: see `Publisher.publish`."""
        receipt: Receipt = await self._run(self._calls.publish(make_message(channel, data, key, idempotency_key, self._encode)))
        return receipt

    def batch(self) -> AsyncBatch:
        """Return an asynchronous context manager that publishes all its messages at its end: see `Publisher.batch`."""
        return AsyncBatch(self._send_batch, self._encode)

    async def broadcast(self, data: str | bytes) -> None:
        """Send to every connection: see `Publisher.broadcast`."""
        await self._run(self._calls.broadcast(data))

    async def ticket(
        self,
        user: str,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        info: Any = None,
        scopes: Iterable[str] = (),
        expires: float | None = None,
    ) -> str:
        """Return a ticket: see `Publisher.ticket`."""
        ticket: str = await self._run(self._calls.ticket(ticket_fields(user, subscribe, publish, info, scopes, expires)))
        return ticket

    async def revoke(
        self,
        *,
        token: str | None = None,
        user: str | None = None,
        issued_before: float | None = None,
        until: float | None = None,
    ) -> float:
        """Refuse a token, or a user's: see `Publisher.revoke`."""
        fields = {"token": token, "user": user, "issuedBefore": issued_before, "until": until}
        end: float = await self._run(self._calls.revoke(fields))
        return end

    async def disconnect(
        self,
        *,
        user: str | None = None,
        connection: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> int:
        """End connections: see `Publisher.disconnect`."""
        fields = {"user": user, "connection": connection, "code": code, "reason": reason}
        count: int = await self._run(self._calls.disconnect(fields))
        return count

    async def unsubscribe(
        self, channel: str, *, user: str | None = None, connection: str | None = None, reason: str | None = None
    ) -> int:
        """End subscriptions: see `Publisher.unsubscribe`."""
        fields = {"channel": channel, "user": user, "connection": connection, "reason": reason}
        count: int = await self._run(self._calls.unsubscribe(fields))
        return count

    async def channels(self, prefix: str = "", cursor: str | None = None, limit: int | None = None) -> Mapping[str, Any]:
        """Return a page of channels: see `Publisher.channels`."""
        return await self._get("/api/channels", prefix=prefix, cursor=cursor, limit=limit)

    async def history(
        self,
        channel: str,
        after: str | None = None,
        limit: int | None = None,
        *,
        last: int | None = None,
        before: str | None = None,
    ) -> Mapping[str, Any]:
        """Return what a channel keeps: see `Publisher.history`."""
        return await self._get(f"{channel_path(channel)}/history", after=after, limit=limit, last=last, before=before)

    async def presence(self, channel: str, cursor: str | None = None, limit: int | None = None) -> Mapping[str, Any]:
        """Return who is subscribed: see `Publisher.presence`."""
        return await self._get(f"{channel_path(channel)}/presence", cursor=cursor, limit=limit)

    async def delete_history(self, channel: str) -> int:
        """Delete what a channel keeps: see `Publisher.delete_history`."""
        count: int = await self._run(self._calls.delete_history(channel))
        return count

    async def _get(self, path: str, **query: str | int | None) -> Mapping[str, Any]:
        page: Mapping[str, Any] = await self._run(self._calls.get(path, **query))
        return page

    async def _send_batch(self, messages: list[Message]) -> list[Receipt]:
        receipts: list[Receipt] = await self._run(self._calls.batch(messages))
        return receipts

    async def _run(self, call: Call) -> Any:
        """Do what a call says, until it is done."""
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    response = await self._send(step.request, step.seconds)
                    if response.status == 401 and self._settings.refresh():
                        response = await self._send(step.request, step.seconds)
                except Lost as lost:
                    step = call.throw(lost)
                else:
                    step = call.send(response)
        except StopIteration as end:
            return end.value

    async def _send(self, request: Request, seconds: float) -> Response:
        progress = _Progress()
        try:
            return await asyncio.wait_for(self._exchange(request, progress), seconds)
        except asyncio.TimeoutError:
            raise Lost("the time is up", progress.was_sent, True) from None
        except (OSError, Malformed) as error:
            raise Lost(str(error), progress.was_sent) from None

    async def _exchange(self, request: Request, progress: _Progress) -> Response:
        while True:
            streams, is_fresh = await self._take()
            reader = ResponseReader()
            try:
                response = await self._talk(streams, request, reader, progress)
            except (OSError, Malformed):
                streams[1].transport.abort()
                if is_fresh or reader.began or not request.is_repeatable:
                    raise
                continue  # the server has closed it while nobody looked, as servers may
            except BaseException:  # cancelled: the answer is still to come
                streams[1].transport.abort()
                raise
            if response.keeps and len(self._idle) < MOST_IDLE:
                self._idle.append(streams)
            else:
                streams[1].transport.abort()
            return response

    async def _take(self) -> tuple[Streams, bool]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._idle, self._loop = deque(), loop  # those of another loop cannot even be closed any more
        while self._idle:
            streams = self._idle.pop()
            if not streams[0].at_eof() and not streams[1].is_closing():
                return streams, False
            streams[1].transport.abort()
        address = self._settings.address
        if address.path is not None:
            return await asyncio.open_unix_connection(address.path), True
        host = address.host if address.is_secure else None
        streams = await asyncio.open_connection(address.host, address.port, ssl=self._settings.tls, server_hostname=host)
        return streams, True

    async def _talk(self, streams: Streams, request: Request, reader: ResponseReader, progress: _Progress) -> Response:
        address = self._settings.address
        headers = {**self._settings.headers, **trace_headers()}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        progress.was_sent = True
        streams[1].write(encode_request(request.method, address.prefix + request.path, address.authority, headers, request.body))
        await streams[1].drain()
        while True:
            response = reader.feed(await streams[0].read(_CHUNK))
            if response is not None:
                return response


class _Progress:
    """What is known of a request whose answer does not come.

    Attributes:
        was_sent: whether the request, or a part of it, was sent.
    """

    was_sent = False


class AsyncBatch:
    """Messages that are published together when the ``async with`` block ends: see `Batch`.

    Attributes:
        receipts: those of the messages, in order, after the end.
    """

    def __init__(self, send: Callable[[list[Message]], Awaitable[list[Receipt]]], encode: Encoder) -> None:
        self.receipts: list[Receipt] = []
        self._messages: list[Message] = []
        self._send = send
        self._encode = encode

    def __len__(self) -> int:
        return len(self._messages)

    async def __aenter__(self) -> AsyncBatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publish.

        Raises:
            BatchError: some are not published.
        """
        if kind is None and self._messages:
            self.receipts = await self._send(self._messages)

    def publish(self, channel: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> None:
        """Add a message (see `Publisher.publish`)."""
        self._messages.append(make_message(channel, data, key, idempotency_key, self._encode))
