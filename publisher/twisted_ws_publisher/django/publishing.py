"""Publishing when a transaction has been committed, and not when it has not."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Callable

from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.dispatch import Signal

from twisted_ws_publisher.django.conf import publisher_options
from twisted_ws_publisher.errors import BatchError, ConfigurationError, PublishError
from twisted_ws_publisher.messages import Receipt
from twisted_ws_publisher.publisher import Publisher

log = logging.getLogger("twisted_ws_publisher")

# Sent with `error` and `messages` (those that are not published, as (channel, data, key)) when publishing after a commit failed.
publish_failed = Signal()

_encoder = DjangoJSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@lru_cache(maxsize=1)
def get_publisher() -> Publisher:
    """Return the process's publisher, made of the settings.

    Raises:
        ConfigurationError: they are wrong.
    """
    return Publisher(encode=_encoder.encode, **publisher_options())


def publish(channel: str, data: Any, *, key: str | None = None, idempotency_key: str | None = None) -> Receipt:
    """Publish at once, whatever becomes of the transaction (see `Publisher.publish`).

    Raises:
        PublishError: it is not certain that it is published.
    """
    return get_publisher().publish(channel, data, key=key, idempotency_key=idempotency_key)


def broadcast(data: str | bytes) -> None:
    """Send to every connection at once (see `Publisher.broadcast`).

    Raises:
        PublishError: it is not certain that it was sent.
    """
    get_publisher().broadcast(data)


def publish_on_commit(
    channel: str, data: Any, *, key: str | None = None, using: str | None = None, fail_silently: bool = True
) -> None:
    """Publish when the transaction has been committed, in one batch with what else it publishes; never when it is rolled back.

    Outside a transaction, publish now.

    Args:
        channel: the channel.
        data: the message; dates, decimals and UUIDs are encoded as Django does.
        key: of several messages with the same key, a subscriber that is slow may get only the newest.
        using: the database.
        fail_silently: whether a failure is only logged and sent as the signal `publish_failed`. If it is not, the exception
            comes out of the end of the ``atomic`` block, when the transaction has long been committed.

    Raises:
        TypeError, ValueError: the message cannot be encoded.
    """
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        _encoder.encode(data)  # a mistake is the caller's, here, and not that of whoever commits
    connection = transaction.get_connection(using)
    message = (channel, data, key)
    here = frozenset(connection.savepoint_ids)
    # The callbacks of a savepoint that is rolled back are forgotten with it; so a callback takes messages of one savepoint only.
    pending = [each[1] for each in connection.run_on_commit if isinstance(each[1], _Messages)]
    if pending and pending[-1].takes(here, fail_silently):
        pending[-1].messages.append(message)
    else:
        transaction.on_commit(_Messages(message, here, fail_silently), using=using, robust=fail_silently)


class _Messages:
    """Publishes its messages when it is called."""

    def __init__(self, first: Any, savepoints: frozenset[str], fail_silently: bool) -> None:
        self.messages: list[Any] = [first]
        self._savepoints = savepoints
        self._fail_silently = fail_silently

    def takes(self, savepoints: frozenset[str], fail_silently: bool) -> bool:
        return savepoints == self._savepoints and fail_silently == self._fail_silently

    def __call__(self) -> None:
        try:
            _send(self.messages)
        except (PublishError, ConfigurationError) as error:
            if not self._fail_silently:
                raise
            log.error("%d messages are not published after a commit: %s", len(self._lost(error)), error)
            publish_failed.send_robust(sender=None, error=error, messages=self._lost(error))

    def _lost(self, error: Exception) -> list[Any]:
        if not isinstance(error, BatchError):
            return self.messages
        return [message for message, result in zip(self.messages, error.results) if isinstance(result, PublishError)]


def _send(messages: list[Any]) -> None:
    if sink is not None:
        sink(messages)
        return
    publisher = get_publisher()
    if len(messages) == 1:
        channel, data, key = messages[0]
        publisher.publish(channel, data, key=key)
        return
    with publisher.batch() as batch:
        for channel, data, key in messages:
            batch.publish(channel, data, key=key)


# Where messages go instead, in a test: see `capture`.
sink: Callable[[list[Any]], None] | None = None
