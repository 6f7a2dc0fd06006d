"""What one asks of a running server of this machine, by its control socket, and how it is found."""

from __future__ import annotations

import os
from typing import Any

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ConfigurationError


class ControlOptions(CommandOptions):
    """The options of a command that asks a server with workers."""

    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["state-directory", None, None, "that of the server [$XDG_STATE_HOME/twisted-ws]"],
        ["process", None, None, "its process id, if there are several servers"],
    ]

    def postOptions(self) -> None:
        """Check the number."""
        if self["process"] is not None and not self["process"].isdigit():
            raise UsageError(f"--process must be a number, not {self['process']!r}")


def control(options: ControlOptions, request: dict[str, Any], done: str) -> int:
    """Send a request to the server that the options name, or to the only one; print what came of it, and return the exit code.

    Args:
        options: parsed ones.
        request: see `twisted_ws.daemon.workers.control.ask`.
        done: what to print, after the process id, when nothing went wrong.

    Raises:
        UsageError: there are several servers.
    """
    from twisted_ws.daemon.workers.control import ask, controlSockets
    from twisted_ws.wire.tls.selfsigned import stateDirectory

    try:
        directory = os.path.expanduser(options["state-directory"] or stateDirectory())
        found = [int(options["process"])] if options["process"] else list(controlSockets(directory))
        if not found:
            complain(f"no server with workers is running that keeps its control socket in {directory} (see --state-directory)")
            return Exit.UNREACHABLE
        if len(found) > 1:
            raise UsageError(f"several servers are running: choose one with --process: {', '.join(map(str, found))}")
        wrong = ask(directory, found[0], request)
    except ConfigurationError as error:
        complain(str(error))
        return Exit.UNREACHABLE
    for each in wrong:
        complain(each)
    if not wrong:
        print(f"process {found[0]}: {done}")
    return Exit.FAILED if wrong else Exit.OK
