"""The outbox that ``--outbox`` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted_ws.access.secretfile import readPassword
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.server import WebSocketServer
from twisted_ws.telemetry.counts import OUTBOX

if TYPE_CHECKING:
    from twisted_ws.outbox.service import Outbox
    from twisted_ws.outbox.table import Table


def outboxOptions(settings: Settings) -> Callable[[], dict[str, Any]] | None:
    """Return what reads the parameters of a connection to the database, None without one.

    Raises:
        ConfigurationError: psycopg is not installed, or a setting is wrong; the function raises it, too. No text has a password.
    """
    dsn, path = settings.outbox, settings.outboxPasswordFile
    if dsn is None:
        if path is not None:
            raise ConfigurationError("--outbox-password-file needs a database: give --outbox too.")
        return None
    try:
        from twisted_ws.outbox.table import connectionOptions
    except ImportError as error:
        raise ConfigurationError(
            f"--outbox: {error.name or error} is not installed. Install twisted_ws with its extra, twisted-ws[outbox]."
        ) from None

    def options() -> dict[str, Any]:
        try:
            return connectionOptions(dsn, None if path is None else readPassword(path, "outbox password file"))
        except ValueError as error:
            if str(error) == "it has a password":
                raise ConfigurationError("--outbox has a password: write it to a file and give --outbox-password-file.") from None
            raise ConfigurationError(f"--outbox must be a URL such as postgresql://USER@HOST/DATABASE: {error}.") from None

    options()  # a mistake is told at the start, and the file is read again for each connection
    return options


def makeOutbox(settings: Settings, server: WebSocketServer, reactor: Any) -> Outbox | None:
    """Return the service that publishes what is in the outbox; None if there is none.

    Raises:
        ConfigurationError: psycopg is not installed, or a setting is wrong. The text has no password.
    """
    options = outboxOptions(settings)
    if options is None:
        return None
    from twisted_ws.outbox.service import Outbox
    from twisted_ws.outbox.table import Table

    def connect(woken: int) -> Table:
        return Table(options(), settings.limits, woken)

    def publish(channel: str, message: Any, key: str | None, idempotencyKey: str) -> Any:
        return server.publish(channel, message, key=key, idempotencyKey=idempotencyKey, source=OUTBOX)

    return Outbox(connect, publish, server.runtime.turns, reactor)
