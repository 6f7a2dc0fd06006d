"""What twistd runs for ``wsservice``; loaded only when that is run."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from twisted_ws.daemon.options import ServiceOptions as Options
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError


def makeService(options: Options | Settings) -> Any:
    """Return the daemon for these options (an `IService`), listening already.

    It owns the process: its signals and descriptor limit. A program that does other things as well uses
    `twisted_ws.server.server.WebSocketServer`, or `twisted_ws.daemon.service.Daemon`.

    Args:
        options: those of the command line; or, in a `.tac` file, settings. There the log is twistd's (or what the file sets as
            the application's `ILogObserver`), whatever `logFormat` says.

    Raises:
        SystemExit: an error that the operator can fix, as one line; twistd shows other errors with a traceback.
    """
    _showOneLine()
    try:
        return _make(options)
    except ConfigurationError as error:
        raise SystemExit(f"twisted_ws: {error}") from None


def _make(options: Options | Settings) -> Any:
    settings, runner = (options, None) if isinstance(options, Settings) else (options.settings(), options.parent)
    # The reactor and Autobahn are loaded here: twistd --help and wsservice --help do not need them.
    from twisted_ws.daemon.workers.starting import daemonFor

    again, given = (None, None) if isinstance(options, Settings) else (options.settings, options.given)
    daemon = daemonFor(settings, runner, again, given)
    daemon.listenEarly()
    return daemon


def _showOneLine() -> None:
    """Show later errors, such as a Unix socket that cannot be made, as one line too, and Ctrl-C as nothing."""
    previous = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, ConfigurationError):
            print(f"twisted_ws: {error}", file=sys.__stderr__)
        elif not issubclass(kind, KeyboardInterrupt):  # after which Python ends by the signal itself
            previous(kind, error, traceback)

    sys.excepthook = show
