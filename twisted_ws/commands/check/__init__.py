"""``twisted-ws check``: what a server with these options would be, and what is wrong with it; nothing is started."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout

from twisted.python.usage import UsageError

from twisted_ws.commands.check.findings import Report, asJSON, asText
from twisted_ws.daemon.options import ServiceOptions
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError

# The exit codes.
RIGHT = 0
WRONG = 1
WARNED = 2


class CheckOptions(ServiceOptions):
    """The options of ``twisted-ws check``: those of the server, and its own."""

    synopsis = "Usage: twisted-ws check [options]"
    longdesc = (
        "Loads all that a server with the same options would: settings, services, keys and certificates. It shows where that "
        "server would listen and who may do what, and warns of what deserves a second look. Nothing is started, no port opened "
        "and no file changed, so it can run beside the server. The exit code is 0 if nothing is wrong, 1 if something is, and "
        "2 for warnings alone with --strict."
    )
    own = {"This command": ("connect", "strict", "json")}  # noqa: RUF012 - as Twisted declares it
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["connect", None, "also ask those that the server would ask: key sets, applications, directories, the engine"],
        ["strict", None, "warnings count: exit code 2"],
        ["json", "j", "one JSON object on standard output"],
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = CheckOptions()
    report = Report()
    isJSON = {"--json", "-j"} & {*arguments}
    settings = _settings(options, arguments, report)
    # What services print when they are loaded belongs to nobody's report.
    with redirect_stdout(sys.stderr):
        if settings is not None:
            from twisted_ws.commands.check.examined import examined

            examined(settings, report)
            if options["connect"] and not report.errors:
                _ask(settings, report)
    if isJSON:
        print(asJSON(report).decode())
    else:
        for line in asText(report):
            print(line)
    code = WRONG if report.errors else WARNED if report.warnings and options["strict"] else RIGHT
    if any(not each.daemon for each in threading.enumerate() if each is not threading.main_thread()):
        # A service has started it, and Python would wait for its end.
        sys.stdout.flush()
        os._exit(code)
    return code


def _settings(options: CheckOptions, arguments: Sequence[str], report: Report) -> Settings | None:
    from twisted_ws.commands.check.restraint import Restraint

    try:
        with Restraint():
            options.parseOptions(list(arguments))
            return options.settings()
    except (UsageError, ConfigurationError) as error:
        report.wrong("configuration", str(error))
        return None


def _ask(settings: Settings, report: Report) -> None:
    from twisted_ws.commands.check.asking import askAll
    from twisted_ws.commands.runner import Runner

    async def ask(reactor: object) -> int:
        await askAll(settings, report, reactor)
        return RIGHT

    runner = Runner()
    runner.note = lambda text: None
    runner.run(ask)
