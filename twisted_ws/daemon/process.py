"""The daemon as a process of its own, under twistd, twist or ``twisted-ws``."""

from __future__ import annotations

import atexit
import gc
import os
import pwd
import resource
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from twisted_ws import __version__
from twisted_ws.daemon.clock import countMonotonicTime
from twisted_ws.daemon.loading.engines import tellEngine
from twisted_ws.daemon.logs import DaemonLog, openLogFile
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import Settings
from twisted_ws.daemon.systemd import notify
from twisted_ws.daemon.watchdog import Watchdog
from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.speedups import sayWhich


class ProcessDaemon(Daemon):
    """A `Daemon` that owns the process: its signals, descriptors and log, and notifications to systemd.

    SIGHUP reloads. The first SIGINT or SIGTERM drains, a second one ends the process at once.

    Args:
        settings: what to run.
        runner: the options of twistd or twist; None under another runner.
        reactor: the reactor; None for the global one.
        again: see `Daemon`.

    Attributes:
        exitCode: that of the process, once the reactor has stopped.
        log: the log, unless the runner has another.

    Raises:
        ConfigurationError: see `Daemon`.
    """

    _log = Logger()
    exitCode = 0
    _rotate: Callable[[], None] | None = None  # opens the log file anew
    _logPath = ""  # of twistd's log file; "" without one

    def __init__(
        self,
        settings: Settings,
        runner: MutableMapping[str, Any] | None = None,
        reactor: Any = None,
        again: Callable[[], Settings] | None = None,
    ) -> None:
        sayWhich(__version__)
        _raiseDescriptorLimit()  # first: when a port opens, the gate looks how many there are
        if reactor is None:
            from twisted.internet import reactor
        countMonotonicTime(reactor)  # before anything that may keep its clock is made
        super().__init__(settings, reactor, again)
        self.log = DaemonLog(settings.logFormat, settings.logLevels, self.recent, settings.logUsers)
        self._runner = {} if runner is None else runner
        Watchdog(self._reactor, settings.limits.reactorTurn).setServiceParent(self)  # type: ignore[no-untyped-call]

    def listenEarly(self) -> None:
        """Listen while there is still a terminal for errors: those of a daemon end up in its log.

        Only Unix sockets have to wait, because their lock names the process, which changes when twistd leaves the terminal.

        Raises:
            ConfigurationError: cannot listen on a port; one line.
        """
        for listener in self._listeners:
            listener.place.examine()
        self.listen(listener for listener in self._listeners if listener.place.kind != "unix")

    # The log.

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it our log unless the runner has another."""
        runner = self._runner
        if "fileLogObserverFactory" in runner:  # twist, which has its own formats
            if self.settings.logFormat == "json":
                runner["fileLogObserverFactory"] = self.log.observer
        elif "logfile" in runner and isinstance(parent, Componentized) and not (runner["logger"] or runner.get("syslog")):
            parent.setComponent(ILogObserver, self.log.observer(self._logFile()))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def _logFile(self) -> Any:
        """Return the log file that twistd would use."""
        path, foreground = self._runner["logfile"], self._runner["nodaemon"]
        if path == "-" and not foreground:
            raise ConfigurationError("A daemon has no standard output to log to: give twistd --logfile, or -n.")
        if path == "-" or (foreground and not path):
            return sys.stdout
        return self._openLog(path or "twistd.log")

    def _openLog(self, path: str) -> Any:
        self._logPath = os.path.abspath(path)
        file = openLogFile(path, *self._owner())
        self._rotate = file.rotate
        self._reopenOnSignal()
        return file

    def _reopenOnSignal(self) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: self._reactor.callFromThread(self.reopen))

    def _owner(self) -> tuple[int, int]:
        """Return the user and group that twistd will change to; -1 for one that stays. A user without a group brings its own."""
        uid, gid = (self._runner.get(name) for name in ("uid", "gid"))
        if uid is not None and gid is None:
            gid = pwd.getpwuid(uid).pw_gid
        return (-1 if uid is None else uid), (-1 if gid is None else gid)

    def reopen(self) -> None:
        """Open the log and the audit log anew: a log rotator has moved them away."""
        if self._rotate is not None:
            self._rotate()
        super().reopen()

    def _linesLost(self) -> int | None:
        return self.log.lost if self.log.isUsed else None

    def _isLogged(self) -> bool:
        return self.log.isUsed

    def _takeLevels(self, settings: Settings) -> bool:
        self.log.setLevels(settings.logLevels)
        return True

    # Start and stop.

    def privilegedStartService(self) -> None:
        """Listen, while the process may still be root."""
        with self._telling():
            super().privilegedStartService()
            for each in (*self._listeners, self._history, self._audit):
                if each is not None:
                    each.give(*self._owner())

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Log an error of the operator if this is a daemon already, whose standard error is gone."""
        try:
            yield
        except ConfigurationError as error:
            if "statusPipe" in self._runner:
                self._log.critical("{reason}", reason=str(error), event="server.failed")
            raise

    def startService(self) -> None:
        """Run, and notify systemd once the reactor runs."""
        with self._telling():
            super().startService()
        if self._audit is not None:
            self._reopenOnSignal()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(number) is signal.SIG_DFL:
                # A log rotator signals all servers, and one that logs to a pipe must not die of it.
                signal.signal(number, signal.SIG_IGN)
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        self._collect()
        self._run()

    def _collect(self) -> None:
        """Let the garbage collector not scan again and again what exists by now, and will stay."""
        gc.collect()
        gc.freeze()

    def _run(self) -> None:
        """Do what is left to do when the reactor runs."""
        self.server.started().addCallbacks(lambda _: self._tellReady(), lambda _: None)

    def _tellReady(self) -> None:
        """Notify systemd, and log what the engine is."""
        notify("READY=1")
        Deferred.fromCoroutine(tellEngine(self.settings.engine, self.server.engine)).addErrback(
            lambda failure: self._log.failure("the engine does not say which nodes there are", failure, event="engine.failed")
        )

    def _engineFailed(self, failure: Failure) -> None:
        """End with exit code 1: a service without its channels would be of no use."""
        super()._engineFailed(failure)
        print(f"twisted_ws: {failure.getErrorMessage()}", file=sys.__stderr__)
        self.exitCode = 1
        if self._runner:  # twistd, which ends with 0 whenever its reactor was stopped
            atexit.register(_exitWithError)
        self._reactor.callWhenRunning(self._reactor.stop)

    def stopService(self) -> Deferred[None]:
        """Drain; another SIGINT or SIGTERM ends the process, and SIGHUP is ignored from now on."""
        self._beginToStop(_endAtOnce)
        return super().stopService()

    @staticmethod
    def _beginToStop(atOnce: Callable[[int, Any], None]) -> None:
        notify("STOPPING=1")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, atOnce)

    def reload(self) -> None:
        """Reload certificates, keys, passwords and rules, and notify systemd."""
        notify("RELOADING=1")
        super().reload()
        notify("READY=1")


def _raiseDescriptorLimit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # the system has a lower limit: the gate keeps to that
    ProcessDaemon._log.info("{count} descriptors are allowed (raised from {soft})", count=hard, soft=soft, event="limit.raised")


def _exitWithError() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _endAtOnce(number: int, frame: object) -> None:
    """End the process now: a second signal means that the sender does not want to wait for the drain."""
    os.write(2, b"twisted_ws: ended at once, before all callers had left\n")
    os._exit(128 + number)
