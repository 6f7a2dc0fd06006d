"""The publisher for threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Callable
from urllib.parse import quote

from twisted_ws_publisher.calls import ATTEMPTS, TIMEOUT, Call, Calls, Lost, Pause
from twisted_ws_publisher.connections import Connections
from twisted_ws_publisher.keyfiles import PathLike
from twisted_ws_publisher.messages import Encoder, Message, Receipt, encode_json, make_message
from twisted_ws_publisher.settings import Settings, from_environment


class Publisher:
    """Calls the HTTP API of a server, from any thread.

    A call is repeated, within its time, when the server is away, restarts or is busy; a message is published once all the same,
    because each has an idempotency key. Make one for a process: it keeps connections, and makes its own after a fork.

    Args:
        url: ``http://host:port``, ``https://host:port/prefix`` or ``unix:/run/push.sock``: the server's broadcast port.
        key_file: holds an API key in its first line, or as the server's own file has it (``name: key scopes``); None where the
            server asks for none.
        timeout: seconds for a call with all its repetitions.
        attempts: how often a call is tried at most.
        ca_file: holds the certificates that are trusted, in PEM; by default the system's.
        encode: makes JSON of messages that are neither text nor bytes.

    Raises:
        ConfigurationError: one is wrong.
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
        self._connections = Connections(self._settings)
        self._calls = Calls(self._settings.policy, time.monotonic)
        self._encode = encode

    @classmethod
    def from_environment(cls, **more: Any) -> Publisher:
        """Make one of ``TWISTED_WS_URL``, ``_KEY_FILE``, ``_TIMEOUT``, ``_ATTEMPTS`` and ``_CA_FILE``.

        Raises:
            ConfigurationError: there is no URL, or one of them is wrong.
        """
        return cls(**{**from_environment(), **more})

    def __repr__(self) -> str:
        return f"<Publisher {self._settings.address.path or self._settings.address.authority}>"

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        self._connections.close()

    def publish(self, channel: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> Receipt:
        """Publish to a channel: bytes are binary, a string is text, everything else is JSON.

        Args:
            channel: the channel.
            data: the message.
            key: of several messages with the same key, a subscriber that is slow may get only the newest.
            idempotency_key: what is published with the same key within five minutes is published once; by default each call has
                a key of its own, for its repetitions.

        Raises:
            PublishError: it is not certain that it is published.
            TypeError, ValueError: `data` cannot be encoded.
        """
        receipt: Receipt = self._run(self._calls.publish(make_message(channel, data, key, idempotency_key, self._encode)))
        return receipt

    def batch(self) -> Batch:
        """Return a context manager that publishes all its messages at its end, with one request per thousand."""
        return Batch(self._send_batch, self._encode)

    def broadcast(self, data: str | bytes) -> None:
        """Send to every connection of every service.

        Raises:
            PublishError: it is not certain that it was sent. Nothing keeps a second call from sending it twice.
        """
        self._run(self._calls.broadcast(data))

    def ticket(
        self,
        user: str,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        info: Any = None,
        scopes: Iterable[str] = (),
        expires: float | None = None,
    ) -> str:
        """Return a ticket, by which a page may connect once as a user, within a minute (see `TicketMaker.make`).

        Raises:
            PublishError: there is none.
        """
        ticket: str = self._run(self._calls.ticket(ticket_fields(user, subscribe, publish, info, scopes, expires)))
        return ticket

    def revoke(
        self,
        *,
        token: str | None = None,
        user: str | None = None,
        issued_before: float | None = None,
        until: float | None = None,
    ) -> float:
        """End what was opened with a token (its ``jti``), or with any token of a user that was issued until now, and refuse them.

        Returns:
            Until when they are refused, in Unix time.

        Raises:
            PublishError: it is not certain.
        """
        fields = {"token": token, "user": user, "issuedBefore": issued_before, "until": until}
        end: float = self._run(self._calls.revoke(fields))
        return end

    def disconnect(
        self,
        *,
        user: str | None = None,
        connection: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> int:
        """End a connection, or all of a user, for good; return how many.

        Raises:
            PublishError: it is not certain.
        """
        fields = {"user": user, "connection": connection, "code": code, "reason": reason}
        count: int = self._run(self._calls.disconnect(fields))
        return count

    def unsubscribe(
        self, channel: str, *, user: str | None = None, connection: str | None = None, reason: str | None = None
    ) -> int:
        """End the subscriptions to a channel of a connection, or of a user; return how many.

        Raises:
            PublishError: it is not certain.
        """
        fields = {"channel": channel, "user": user, "connection": connection, "reason": reason}
        count: int = self._run(self._calls.unsubscribe(fields))
        return count

    def channels(self, prefix: str = "", cursor: str | None = None, limit: int | None = None) -> Mapping[str, Any]:
        """Return a page of the channels whose names begin with `prefix`: ``{"channels": [...], "next": cursor or None}``.

        Raises:
            PublishError: there is no answer.
        """
        return self._get("/api/channels", prefix=prefix, cursor=cursor, limit=limit)

    def history(
        self,
        channel: str,
        after: str | None = None,
        limit: int | None = None,
        *,
        last: int | None = None,
        before: str | None = None,
    ) -> Mapping[str, Any]:
        """Return what a channel keeps, after an id: ``{"channel", "id", "recovered", "messages"}``.

        Raises:
            PublishError: there is no answer.
        """
        return self._get(f"{channel_path(channel)}/history", after=after, limit=limit, last=last, before=before)

    def presence(self, channel: str, cursor: str | None = None, limit: int | None = None) -> Mapping[str, Any]:
        """Return who is subscribed to a channel: ``{"channel", "count", "members", "next"}``.

        Raises:
            PublishError: there is no answer.
        """
        return self._get(f"{channel_path(channel)}/presence", cursor=cursor, limit=limit)

    def delete_history(self, channel: str) -> int:
        """Delete what a channel keeps; return how many messages.

        Raises:
            PublishError: it is not certain.
        """
        count: int = self._run(self._calls.delete_history(channel))
        return count

    def _get(self, path: str, **query: str | int | None) -> Mapping[str, Any]:
        page: Mapping[str, Any] = self._run(self._calls.get(path, **query))
        return page

    def _send_batch(self, messages: list[Message]) -> list[Receipt]:
        receipts: list[Receipt] = self._run(self._calls.batch(messages))
        return receipts

    def _run(self, call: Call) -> Any:
        """Do what a call says, until it is done."""
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(call)
                    continue
                try:
                    response = self._connections.send(step.request, step.seconds)
                    if response.status == 401 and self._settings.refresh():
                        response = self._connections.send(step.request, step.seconds)
                except Lost as lost:
                    step = call.throw(lost)
                else:
                    step = call.send(response)
        except StopIteration as end:
            return end.value


class Batch:
    """Messages that are published together, in order, when the ``with`` block ends; none if it raises.

    Attributes:
        receipts: those of the messages, in order, after the end.
    """

    def __init__(self, send: Callable[[list[Message]], list[Receipt]], encode: Encoder) -> None:
        self.receipts: list[Receipt] = []
        self._messages: list[Message] = []
        self._send = send
        self._encode = encode

    def __len__(self) -> int:
        return len(self._messages)

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Publish.

        Raises:
            BatchError: some are not published.
        """
        if kind is None and self._messages:
            self.receipts = self._send(self._messages)

    def publish(self, channel: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> None:
        """Add a message (see `Publisher.publish`)."""
        self._messages.append(make_message(channel, data, key, idempotency_key, self._encode))


def channel_path(channel: str) -> str:
    """Return the path of a channel in the HTTP API."""
    return f"/api/channels/{quote(channel, safe='')}"


def ticket_fields(
    user: str,
    subscribe: Iterable[str],
    publish: Iterable[str],
    info: Any,
    scopes: Iterable[str],
    expires: float | None,
) -> Mapping[str, Any]:
    """Return the fields of a request for a ticket."""
    granted = {"subscribe": list(subscribe), "publish": list(publish)}
    return {"user": user, "grants": granted, "scopes": list(scopes), "info": info, "expires": expires}
