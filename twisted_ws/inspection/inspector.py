"""What a broadcast site needs to show the servers behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.board import Board
from twisted_ws.inspection.callers import PAGE
from twisted_ws.inspection.log import Warnings
from twisted_ws.inspection.settings import Settings
from twisted_ws.server.server import WebSocketServer


class Inspector:
    """Knows, for one broadcast site, what only the process of the site has.

    Args:
        server: its server, which asks all others.
        settings: returns the settings in force; None: nobody knows them, because no file or command line has made the server.
        lineOf: returns the line of the configuration file that says something; see `twisted_ws.daemon.lines.lineOf`.
        warnings: the warnings of this process; None if nobody keeps them.

    Attributes:
        board: the channels of the server itself.
    """

    def __init__(
        self,
        server: WebSocketServer,
        settings: Callable[[], Settings] | None = None,
        lineOf: Callable[[Sequence[str]], Awaitable[int | None]] | None = None,
        warnings: Warnings | None = None,
    ) -> None:
        self._settings = settings
        self._lineOf = lineOf
        if PAGE not in server.node.answers:
            answerInspection(server)
        self.board = Board(server, warnings)

    def settings(self) -> Settings:
        """Return the settings in force."""
        return Settings(None, [], []) if self._settings is None else self._settings()

    async def placeOf(self, key: Sequence[str]) -> tuple[str | None, int | None]:
        """Return the configuration file that has a key, and its line; None and None for what no file says."""
        if not key or self._lineOf is None:
            return None, None
        line = await self._lineOf(key)
        return (None, None) if line is None else (self.settings().file, line)
