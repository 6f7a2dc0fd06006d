"""What a worker is told at its start, as one frame: settings, and what is its share of the limits."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from typing import Any

from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits

# What all workers together may hold: each gets its part.
SHARED = ("maxConnections", "maxSendBufferTotal", "maxReceiveBufferTotal", "credentialsTotal", "drainRate")


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told at its start.

    Attributes:
        settings: what to run; without what only the supervisor needs.
        workers: how many there are.
        directory: where the supervisor was started: modules are looked for there, and services are made there.
        broadcastURL: where to POST a broadcast, for the demo page.
        needsKey: whether that needs an API key or a password.
        sockets: for each of its listeners the numbers of the sockets, one for each slot or one for all.
    """

    settings: Settings
    workers: int
    directory: str
    broadcastURL: str = ""
    needsKey: bool = False
    sockets: tuple[tuple[int, ...], ...] = ()

    def encode(self) -> bytes:
        """Return them as bytes, for a process of the same version that trusts this one.

        Raises:
            ConfigurationError: an option of a service cannot be passed to another process.
        """
        for mount in self.settings.services:
            for name, value in mount.options.items():
                try:
                    pickle.dumps(value)
                except Exception as error:
                    raise ConfigurationError(
                        f"--workers: the option {name} of the service {mount.target} cannot be passed on: {error}."
                    ) from None
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return pickle.dumps(values)

    @classmethod
    def decode(cls, data: bytes) -> Orders:
        """Return what `encode` has made."""
        return cls(**pickle.loads(data))


def share(limits: Limits, workers: int) -> Limits:
    """Return the limits of one of several workers: what is counted in each process is divided, and rounded up."""
    parts = {name: -(-getattr(limits, name) // workers) for name in SHARED}
    return replace(limits, **parts)


def settingsFor(settings: Settings, workers: int) -> Settings:
    """Return the settings of one worker: without broadcast ports and what is checked there."""
    return replace(
        settings,
        broadcastPort="off",
        broadcastTlsPort="off",
        metricsPort="off",
        historyFile=None,
        outbox=None,
        outboxPasswordFile=None,
        apiKeyFile=None,
        auditLog=None,
        checkers=(),
        workers=None,
        limits=share(settings.limits, workers),
    )


def environment() -> dict[str, str]:
    """Return the environment of a worker: without what is for the supervisor alone, and it finds modules where they are here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))}
    if "PYTHONPATH" in kept:
        kept[_KEPT_PATH] = kept["PYTHONPATH"]
    kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(each) for each in sys.path)
    return kept


# Where PYTHONPATH is kept for the processes that a worker starts.
_KEPT_PATH = "TWISTED_WS_PYTHONPATH"


def restoreEnvironment() -> None:
    """Undo in a worker what `environment` has changed, for the processes that services start."""
    path = os.environ.pop(_KEPT_PATH, None)
    if path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = path


def command(*arguments: str) -> list[str]:
    """Return the command line of a worker; options of this interpreter hold for it too."""
    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    return [sys.executable, *flags, *(() if "-P" in flags else ("-P",)), "-m", "twisted_ws.daemon.workers", *arguments]
