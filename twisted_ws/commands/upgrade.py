"""``twisted-ws upgrade``: let a running server with workers be replaced, supervisor and all, without closing connections."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ConfigurationError


class UpgradeOptions(CommandOptions):
    """The options of ``twisted-ws upgrade``."""

    synopsis = "Usage: twisted-ws upgrade [options]"
    longdesc = (
        "Replaces a server of this machine that runs with --workers by the version that is installed now, with the settings that "
        "its configuration file has now: the whole of it, and no connection that can move is closed. If the new one cannot take "
        "over, the old one goes on, and the command says why. It waits until all workers have been replaced, too."
    )
    examples = "twisted-ws upgrade"
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["state-directory", None, None, "that of the server [$XDG_STATE_HOME/twisted-ws]"],
        ["process", None, None, "its process id, if there are several servers"],
    ]

    def postOptions(self) -> None:
        """Check the number."""
        if self["process"] is not None and not self["process"].isdigit():
            raise UsageError(f"--process must be a number, not {self['process']!r}")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = UpgradeOptions()
    options.parseOptions(arguments)
    from twisted_ws.daemon.workers.control import ask, controlSockets
    from twisted_ws.wire.tls.selfsigned import stateDirectory

    try:
        directory = os.path.expanduser(options["state-directory"] or stateDirectory())
        found = [int(options["process"])] if options["process"] else list(controlSockets(directory))
        if not found:
            complain(f"no server with workers is running that keeps its control socket in {directory} (see --state-directory)")
            return Exit.UNREACHABLE
        if len(found) > 1:
            raise UsageError(f"there are several servers: give one of --process {', '.join(map(str, found))}")
        wrong = ask(directory, found[0], {"upgrade": True})
    except ConfigurationError as error:
        complain(str(error))
        return Exit.UNREACHABLE
    for each in wrong:
        complain(each)
    if not wrong:
        print(f"process {found[0]}: the server has been replaced")
    return Exit.FAILED if wrong else Exit.OK
