"""``twisted-ws password``: hash a password for the file of the authenticator ``basic``."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ConfigurationError

# Bytes: a longer line was piped in by mistake.
_MOST = 4096
_SALT = 16


class PasswordOptions(CommandOptions):
    """The options of ``twisted-ws password``."""

    synopsis = "Usage: twisted-ws password [options] USER >> FILE"
    longdesc = (
        "Asks for a user's password on the terminal, or reads it as one line from standard input, and writes the line for the "
        "file of the authenticator basic to standard output, with the password hashed by scrypt. No password is taken from the "
        "command line, which other users of the machine can read."
    )
    examples = "(umask 077; twisted-ws password ann >> users)\npass show push/ann | twisted-ws password ann --scope chat >> users"
    argument = ""

    def __init__(self) -> None:
        super().__init__()
        self["scope"] = []

    def opt_scope(self, scope: str) -> None:
        """a scope of the user; repeatable"""  # noqa: D403, D415 - this is the help text
        self["scope"].append(scope)

    def parseArgs(self, *users: str) -> None:
        """Take the user."""
        if len(users) != 1:  # what else stands here may be a password
            raise UsageError("give one user; the password is asked for, or read from standard input")
        self["user"] = users[0]


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = PasswordOptions()
    options.parseOptions(arguments)
    from twisted_ws.access.kinds.passwords import hashed, lineOf

    try:
        line = lineOf(options["user"], "", options["scope"])  # before anybody types a password in vain
        line = lineOf(options["user"], hashed(_password(), os.urandom(_SALT)), options["scope"])
    except ConfigurationError as error:
        complain(str(error))
        return Exit.USAGE
    except (EOFError, KeyboardInterrupt):
        complain("no password was given")
        return Exit.USAGE
    print(line)
    return Exit.OK


def _password() -> bytes:
    """Return the password, from the terminal or standard input.

    Raises:
        ConfigurationError: there is none, or it was not typed in the same way twice.
    """
    if sys.stdin.isatty():
        found = getpass.getpass("Password: ", stream=sys.stderr)
        if found and getpass.getpass("The same again: ", stream=sys.stderr) != found:
            raise ConfigurationError("The two passwords are different: nothing was written.")
        data = found.encode("utf-8", "surrogateescape")
    else:
        data = sys.stdin.buffer.read(_MOST + 1)
        if len(data) > _MOST:
            raise ConfigurationError(f"A password has at most {_MOST} bytes.")
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" in data:
            raise ConfigurationError("Standard input must have one line: the password.")
    if not data:
        raise ConfigurationError("The password is empty: an empty one is always refused.")
    return data
