"""What twistd runs for ``wsservice``; loaded when that is asked for, and not before."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from twisted_ws.daemon.options import ServiceOptions as Options
from twisted_ws.errors import ConfigurationError

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> Any:
    """Return the daemon for these options (an `IService`).

    Raises:
        ConfigurationError: something the operator can mend; on the command line it is shown as one line, with exit code 1.
    """
    _showOneLine()
    settings = options.settings()
    # The reactor and Autobahn load here: twistd --help and wsservice --help do without them.
    from twisted_ws.daemon.process import ProcessDaemon

    return ProcessDaemon(settings, getattr(options, "parent", None) or {})


def _showOneLine() -> None:
    """Have a ConfigurationError that ends the process shown as its one line: a traceback would hide it from the operator."""
    previous = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, ConfigurationError):
            print(f"twisted_ws: {error}", file=sys.__stderr__)
        else:
            previous(kind, error, traceback)

    sys.excepthook = show
