"""What is sent to the server, and what it answers."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

# Messages and bytes of one request: the server's defaults (batchMessages; body, 1 MiB) with room for other fields.
MOST_MESSAGES = 1000
MOST_BYTES = 900_000

Encoder = Callable[[Any], str]


def encode_json(data: Any) -> str:
    """Return data as JSON (RFC 8259).

    Raises:
        TypeError: JSON has nothing like it.
        ValueError: it has NaN or an infinity, or contains itself.
    """
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Receipt(NamedTuple):
    """That a message is published.

    Attributes:
        channel: the channel.
        id: the message's id: a position in the channel, from which a subscriber can continue.
        recipients: the connections that it was written to, or queued for.
    """

    channel: str
    id: str
    recipients: int


class Message(NamedTuple):
    """A message on its way.

    Attributes:
        channel: the channel.
        body: the JSON object that the server takes, encoded.
    """

    channel: str
    body: bytes


def make_message(
    channel: str,
    data: Any,
    key: str | None = None,
    idempotency_key: str | None = None,
    encode: Encoder = encode_json,
) -> Message:
    """Return a message: bytes are binary, a string is text, everything else is JSON.

    Args:
        channel: the channel.
        data: the message.
        key: of several messages with the same key, a subscriber that is slow may get only the newest.
        idempotency_key: a message with the same key is published once only, for five minutes; by default one of its own, so
            that repeating the request does no harm.
        encode: makes JSON of what is neither bytes nor a string.

    Raises:
        TypeError, ValueError: there is no JSON for it.
    """
    fields = [f'"channel":{json.dumps(channel)}']
    if isinstance(data, (bytes, bytearray, memoryview)):
        fields.append(f'"base64":"{base64.b64encode(data).decode("ascii")}"')
    else:
        fields.append(f'"data":{json.dumps(data) if isinstance(data, str) else encode(data)}')
    if key is not None:
        fields.append(f'"key":{json.dumps(key)}')
    fields.append(f'"idempotencyKey":{json.dumps(uuid.uuid4().hex if idempotency_key is None else idempotency_key)}')
    return Message(channel, ("{" + ",".join(fields) + "}").encode())


def split(messages: Sequence[Message], most: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> list[list[Message]]:
    """Return messages in groups of which each is one request, in order."""
    groups: list[list[Message]] = []
    size = most_bytes
    for each in messages:
        if size + len(each.body) + 1 > most_bytes or len(groups[-1]) >= most:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += len(each.body) + 1
    return groups


def batch_body(messages: Sequence[Message]) -> bytes:
    """Return the body of a request for several messages."""
    return b'{"messages":[' + b",".join([each.body for each in messages]) + b"]}"


def dumps(fields: Any) -> bytes:
    """Return the body of any other request."""
    return encode_json({name: value for name, value in fields.items() if value is not None}).encode()
