"""Which daemon the settings ask for: one process that does all, or a supervisor with workers."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from twisted_ws.daemon.process import ProcessDaemon
from twisted_ws.daemon.settings import Settings


def daemonFor(
    settings: Settings,
    runner: MutableMapping[str, Any] | None = None,
    again: Callable[[], Settings] | None = None,
    given: Sequence[str] | None = None,
) -> ProcessDaemon:
    """Return the daemon for these settings.

    Args:
        settings: what to run.
        runner: see `ProcessDaemon`.
        again: returns the settings of later; None: they stay.
        given: the arguments that they come from; None: from none.

    Raises:
        ConfigurationError: see `ProcessDaemon`.
    """
    if settings.workers is None:
        return ProcessDaemon(settings, runner, again=again)
    from twisted_ws.daemon.workers.supervisor import Supervisor

    return Supervisor(settings, runner, again=again, given=given)
