"""Messages as Python objects: JSON bound to a dataclass, dispatched by one of its fields."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from twisted_ws import WebSocketService, dispatches


@dataclass
class Order:
    """What a caller sends to order something."""

    item: str
    count: Annotated[int, Meta(ge=1, le=100)] = 1


@dataclass
class Receipt:
    """What it gets back."""

    number: int
    item: str
    count: int


class Orders(WebSocketService):
    """Takes orders, and cancels them."""

    dispatcherKey = "event"
    dispatcherStreamId = "id"

    def __init__(self):
        self.orders = {}

    def onOrder(self, caller, order: Order):
        """Take ``{"event": "order", "item": "tea"}``; any object that is returned is sent as JSON."""
        number = len(self.orders) + 1
        self.orders[number] = order
        return Receipt(number, order.item, order.count)

    def onOrderError(self, caller, error):
        """Hear of an order that does not fit; without this method the connection would be closed with 1003."""
        return {"error": str(error)}

    @dispatches("cancel order!")
    def cancel(self, caller, message: dict):
        """Take ``{"event": "cancel order!", "number": 1}``."""
        order = self.orders.pop(message.get("number"), None)
        return {"cancelled": order is not None}

    def onMessage(self, caller, message):
        """Take whatever no other method takes."""
        return {"error": "order or cancel"}
