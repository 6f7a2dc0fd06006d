"""Rooms: path parameters, a ticket in the query, one object for each connection."""

from twisted_ws import Reject, WebSocketService

TICKETS = {"t-ada": "Ada", "t-bob": "Bob"}


class Guest(WebSocketService):
    """One person in one room; `Rooms.onUpgrade` makes one for each connection."""

    def __init__(self, rooms, room, name):
        self.rooms, self.room, self.name = rooms, room, name

    def onOpen(self, caller):
        """Enter the room."""
        caller.user = self.name
        self.rooms.setdefault(self.room, set()).add(caller)

    def onTextMessage(self, caller, text):
        """Send the text and the sender's name to everybody in the room."""
        for other in tuple(self.rooms[self.room]):
            other.writeTextMessage(f"{self.name}: {text}")

    def onClose(self, caller, statusCode, reason):
        """Leave the room."""
        self.rooms[self.room].discard(caller)


class Rooms(WebSocketService):
    """Mount this one: ``--service /rooms/{room}=rooms:Rooms``."""

    def __init__(self):
        self.rooms = {}

    def onUpgrade(self, request):
        """Check the ticket, and return the service object for this connection."""
        name = TICKETS.get(request.query.get("ticket", [""])[0])
        if name is None:
            raise Reject(401, "Where is your ticket?")
        return Guest(self.rooms, request.pathParams["room"], name)
