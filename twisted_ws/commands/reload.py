"""``twisted-ws reload``: let a running server with workers read certificates again, or replace its workers one by one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ConfigurationError


class ReloadOptions(CommandOptions):
    """The options of ``twisted-ws reload``."""

    synopsis = "Usage: twisted-ws reload [options]"
    longdesc = (
        "Lets a server of this machine that runs with --workers read its certificates, keys, authenticators and rules for "
        "channels again. With --services, it starts new workers, with the services and settings as they are now, and each "
        "replaces an old one; what channels remember stays."
    )
    examples = "twisted-ws reload --services"
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["services", None, "replace the workers one by one; the command waits for that"],
    ]
    optParameters = [  # noqa: RUF012
        ["state-directory", None, None, "that of the server [$XDG_STATE_HOME/twisted-ws]"],
        ["process", None, None, "its process id, if there are several servers"],
    ]

    def postOptions(self) -> None:
        """Check the number."""
        if self["process"] is not None and not self["process"].isdigit():
            raise UsageError(f"--process must be a number, not {self['process']!r}")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = ReloadOptions()
    options.parseOptions(arguments)
    from twisted_ws.daemon.workers.control import ask, controlSockets
    from twisted_ws.wire.tls.selfsigned import stateDirectory

    try:
        directory = options["state-directory"] or stateDirectory()
        found = [int(options["process"])] if options["process"] else list(controlSockets(os.path.expanduser(directory)))
        if not found:
            complain(f"no server with workers is running that keeps its control socket in {directory} (see --state-directory)")
            return Exit.UNREACHABLE
        if len(found) > 1:
            raise UsageError(f"there are several servers: give one of --process {', '.join(map(str, found))}")
        wrong = ask(directory, found[0], {"reload": "services" if options["services"] else "certificates"})
    except ConfigurationError as error:
        complain(str(error))
        return Exit.UNREACHABLE
    for each in wrong:
        complain(each)
    if not wrong:
        done = "all workers have been replaced" if options["services"] else "certificates, keys and rules have been read again"
        print(f"process {found[0]}: {done}")
    return Exit.FAILED if wrong else Exit.OK
