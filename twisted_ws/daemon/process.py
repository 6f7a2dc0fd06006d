"""The daemon as a process of its own, under twistd, twist or ``twisted-ws``."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Mapping
from typing import IO, Any

from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from twisted_ws.daemon.logs import observerFor
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError

__all__ = ["ProcessDaemon"]

# twistd's own log file keeps every old one it has rotated; with a log format of ours this many are kept.
ROTATED_FILES = 10
ROTATE_BYTES = 10_000_000


class ProcessDaemon(Daemon):
    """A `Daemon` that has the process: its signals, its descriptors and its log.

    Args:
        settings: what to run.
        runner: the options of twistd, {} under another runner.

    Raises:
        ConfigurationError: see `Daemon`; or a port is taken, which is looked for before twistd leaves the terminal.
    """

    def __init__(self, settings: Settings, runner: Mapping[str, Any]) -> None:
        super().__init__(settings, ownsProcess=True)
        self._runner = runner
        self._lookForTakenPorts()

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log observer where the format is not twistd's own."""
        if self.settings.logFormat == "json" and isinstance(parent, Componentized) and not self._runner.get("logger"):
            parent.setComponent(ILogObserver, observerFor("json", self._logFile()))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def _logFile(self) -> IO[str]:
        path = self._runner.get("logfile")
        if path == "-" or (not path and self._runner.get("nodaemon", True)):
            return sys.stdout
        file: Any = LogFile.fromFullPath(path or "twistd.log", rotateLength=ROTATE_BYTES, maxRotatedFiles=ROTATED_FILES)
        return file  # type: ignore[no-any-return]

    def _lookForTakenPorts(self) -> None:
        """Find a taken port while there is still a terminal to say it on: a daemon's own words end in its log."""
        settings = self.settings
        for option, where, interface in (
            ("port", settings.port, settings.interface),
            ("tls-port", settings.tlsPort, settings.interface),
            ("broadcast-port", settings.broadcastPort, settings.broadcastInterface),
            ("broadcast-tls-port", settings.broadcastTlsPort, settings.broadcastInterface),
        ):
            if not where.isdigit() or where == "0":
                continue
            with socket.socket(socket.AF_INET6 if ":" in interface else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((interface, int(where)))
                    probe.listen(1)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise ConfigurationError(
                            f"Another process listens on port {where}: stop it, or choose another with --{option}."
                        ) from None
                    # Anything else is told when the real socket is bound.
