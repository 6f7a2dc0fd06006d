"""Publish to the channels of a twisted-ws server: from threads, from asyncio, and from web frameworks."""

from __future__ import annotations

from twisted_ws_publisher.aio import AsyncPublisher
from twisted_ws_publisher.errors import BatchError, ConfigurationError, PublishError
from twisted_ws_publisher.messages import Receipt
from twisted_ws_publisher.publisher import Publisher
from twisted_ws_publisher.subscriptions import SubscriptionTokenMaker
from twisted_ws_publisher.tickets import TicketMaker
from twisted_ws_publisher.tokens import channel_token

__all__ = [
    "AsyncPublisher",
    "BatchError",
    "ConfigurationError",
    "PublishError",
    "Publisher",
    "Receipt",
    "SubscriptionTokenMaker",
    "TicketMaker",
    "channel_token",
]

__version__ = "0.1.0"
