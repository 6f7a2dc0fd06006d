"""The command ``twisted-ws``: the same as ``twistd -n wsservice``, for places where only a package's own commands can be run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.python.usage import UsageError

from twisted_ws.daemon.options import ServiceOptions
from twisted_ws.errors import ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server in the foreground until a signal ends it.

    Args:
        arguments: the options; None for the command line's.

    Returns:
        0 after a drain, 1 if the start fails, 2 if the options are wrong.
    """
    options = ServiceOptions()
    try:
        options.parseOptions(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        print(f"twisted-ws: {error} (see twisted-ws --help)", file=sys.stderr)
        return 2
    try:
        return _run(options)
    except ConfigurationError as error:
        print(f"twisted_ws: {error}", file=sys.__stderr__)
        return 1


def _run(options: ServiceOptions) -> int:
    settings = options.settings()
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner

    from twisted_ws.daemon.workers.starting import daemonFor

    daemon = daemonFor(settings, None, options.settings, options.given)
    daemon.privilegedStartService()
    # As under twistd, what a service prints goes to the log.
    globalLogBeginner.beginLoggingTo([daemon.log.observer(sys.stdout)])
    daemon.startService()
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    reactor.run()
    return daemon.exitCode
