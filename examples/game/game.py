"""Noughts and crosses: the field "type" of each message names the method that gets it."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from twisted_ws import WebSocketService

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@dataclass
class Move:
    """A move, as a player sends it: ``{"type": "move", "cell": 4}``."""

    cell: Annotated[int, Meta(ge=0, le=8)]


class Match:
    """One game. It knows the rules, and nothing of connections.

    Attributes:
        cells: nine marks, "" where there is none.
        turn: whose turn it is, "" when the game is over.
        winner: "X", "O" or "nobody"; "" until it is over.
    """

    def __init__(self):
        self.cells = [""] * 9
        self.turn, self.winner = "X", ""

    def move(self, mark, cell):
        """Make a move; return whether the rules allow it."""
        if mark != self.turn or self.cells[cell]:
            return False
        self.cells[cell] = mark
        if any(all(self.cells[each] == mark for each in line) for line in LINES):
            self.end(mark)
        elif all(self.cells):
            self.end("nobody")
        else:
            self.turn = "O" if mark == "X" else "X"
        return True

    def end(self, winner):
        """End the game."""
        self.turn, self.winner = "", winner


class Game(WebSocketService):
    """Let callers play, two at a time."""

    dispatcherKey = "type"

    def __init__(self):
        self.waiting = None
        self.seats = {}  # caller: match, mark, opponent

    def onJoin(self, caller, message: dict):
        """Begin a game with whoever waits, or wait: ``{"type": "join"}``."""
        if caller in self.seats or caller is self.waiting:
            return {"type": "error", "error": "You are playing already."}
        if self.waiting is None:
            self.waiting = caller
            return {"type": "waiting"}
        first, self.waiting, match = self.waiting, None, Match()
        self.seats[first] = match, "X", caller
        self.seats[caller] = match, "O", first
        self.show(first)
        self.show(caller)
        return None

    def onMove(self, caller, move: Move):
        """Make a move."""
        match, mark, opponent = self.seats.get(caller, (None, "", None))
        if match is None or not match.move(mark, move.cell):
            return {"type": "error", "error": "That is not possible now."}
        self.show(caller)
        self.show(opponent)
        if match.winner:
            del self.seats[caller], self.seats[opponent]
        return None

    def onMoveError(self, caller, error):
        """Answer a move that is none; without this method the connection would be closed."""
        return {"type": "error", "error": str(error)}

    def onMessage(self, caller, message):
        """Answer everything else."""
        return {"type": "error", "error": "join, or move"}

    def onClose(self, caller, statusCode, reason):
        """Let the other one win."""
        if caller is self.waiting:
            self.waiting = None
        match, mark, opponent = self.seats.pop(caller, (None, "", None))
        if match is not None:
            match.end("O" if mark == "X" else "X")
            self.show(opponent)
            del self.seats[opponent]

    def show(self, caller):
        """Tell a player how the game stands."""
        match, mark, _ = self.seats[caller]
        caller.writeMessage({"type": "board", "you": mark, "cells": match.cells, "turn": match.turn, "winner": match.winner})
