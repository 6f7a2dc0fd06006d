"""Messages as Python objects: JSON bound to a dataclass, dispatched by one of its fields."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from twisted_ws import WebSocketService, dispatches


@dataclass
class Order:
    """An order, as a caller sends it."""

    item: str
    count: Annotated[int, Meta(ge=1, le=100)] = 1


@dataclass
class Receipt:
    """The reply to an order."""

    number: int
    item: str
    count: int


class Orders(WebSocketService):
    """Take orders, and cancel them."""

    dispatcherKey = "event"
    dispatcherStreamId = "id"

    def __init__(self):
        self.orders = {}

    def onOrder(self, caller, order: Order):
        """Take ``{"event": "order", "item": "tea"}``; the returned object is sent as JSON."""
        number = len(self.orders) + 1
        self.orders[number] = order
        return Receipt(number, order.item, order.count)

    def onOrderError(self, caller, error):
        """Answer an invalid order; without this method the connection would be closed with 1003."""
        return {"error": str(error)}

    @dispatches("cancel order!")
    def cancel(self, caller, message: dict):
        """Take ``{"event": "cancel order!", "number": 1}``."""
        order = self.orders.pop(message.get("number"), None)
        return {"cancelled": order is not None}

    def onMessage(self, caller, message):
        """Answer every other message."""
        return {"error": "order or cancel"}
