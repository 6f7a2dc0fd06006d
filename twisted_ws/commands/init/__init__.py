"""``twisted-ws init``: a new project that runs: settings, a service with its test, and what is needed to deploy it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain, oneLine

KINDS = ("jwt", "http", "none")


class InitOptions(CommandOptions):
    """The options of ``twisted-ws init``."""

    synopsis = "Usage: twisted-ws init [options] DIRECTORY"
    longdesc = (
        "Makes a project that runs: a configuration file with every setting, a service with its test, a systemd unit, a "
        "Containerfile and a part of nginx's configuration. A file that exists is never overwritten: then nothing is "
        "made, and the exit code is 1."
    )
    examples = "twisted-ws init notes\n  twisted-ws init --auth http notes"
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        [
            "auth",
            None,
            "jwt",
            "who says who a client is: jwt (signed tokens), http (your application), none (nobody is asked)",
        ],
    ]

    choices = {"auth": KINDS}  # noqa: RUF012
    argument = "directory"

    def parseArgs(self, *directories: str) -> None:
        """Take the directory."""
        if len(directories) != 1:
            raise UsageError("give one directory")
        self["directory"] = directories[0]

    def postOptions(self) -> None:
        """Check the kind."""
        if self["auth"] not in KINDS:
            raise UsageError(f"--auth must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {self['auth']!r}")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = InitOptions()
    options.parseOptions(arguments)
    from twisted_ws.commands.init.project import Taken, nameOf, project, steps, write

    directory = options["directory"]
    files = project(nameOf(directory), options["auth"])
    try:
        write(directory, files)
    except Taken as error:
        complain(f"{error} already exists: choose another directory, or move it away; nothing was made")
        return Exit.FAILED
    except OSError as error:
        complain(f"{error.filename or directory} cannot be made: {error.strerror}")
        return Exit.FAILED
    for path in files:
        print(oneLine(os.path.join(directory, path)))
    print()
    print(steps(directory, options["auth"]))
    return Exit.OK
