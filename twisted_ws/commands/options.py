"""How the commands parse their command lines."""

from __future__ import annotations

import getopt
import inspect
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python.usage import Options, UsageError

from twisted_ws import usage
from twisted_ws.limits import parseSize
from twisted_ws.spelling import explainOption


class CommandOptions(Options):
    """Options that may also follow the arguments, as people write them; ``--`` ends them."""

    # Shown below the options, unchanged.
    examples = ""
    # The names of options by the title of their group, those that are used most first; without any, there is one group.
    groups: Mapping[str, Sequence[str]] = {}
    # What an option takes, by its name, where the name does not say it.
    takes: Mapping[str, str] = {}
    # The values that an option has, by its name.
    choices: Mapping[str, Sequence[str]] = {}
    # What follows the options: what it is in the help of shells, "file", "directory", or the words that there are.
    argument: str | Sequence[str] = ""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse what follows the command's name.

        Raises:
            UsageError: the text says what is wrong.
        """
        given = list(options or ())
        try:
            pairs, arguments = getopt.gnu_getopt(given, self.shortOpt, self.longOpt)
        except getopt.error as error:
            raise UsageError(explainOption(error, self.longOpt)) from None
        flags: list[str] = []
        for flag, value in pairs:
            flags += [flag, value] if self._takesValue(flag) else [flag]
        super().parseOptions([*flags, "--", *arguments])  # type: ignore[no-untyped-call]

    def _takesValue(self, flag: str) -> bool:
        return f"{flag[2:]}=" in self.longOpt if flag.startswith("--") else f"{flag[1]}:" in self.shortOpt

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: purpose, options by group, and examples."""
        columns = width or usage.width()
        purpose = textwrap.wrap(str(getattr(self, "longdesc", "")), columns, break_on_hyphens=False)
        groups = usage.grouped(usage.optionsOf(self), self.groups)
        lines = ["", *purpose, "", *usage.shown(groups, columns)]
        if self.examples:
            lines += ["Examples:", textwrap.indent(inspect.cleandoc(self.examples), "  ")]
        return "\n".join(lines).rstrip() + "\n"

    def opt_version(self) -> None:
        """Show the version, and exit."""
        from twisted_ws import __version__
        from twisted_ws.wire.speedups import which

        print(f"twisted_ws {__version__} ({which()})")
        raise SystemExit(0)


class HandshakeOptions(CommandOptions):
    """The options of a command that opens WebSockets at one URL."""

    takes = {"subprotocol": "NAME", "header": "HEADER"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self["url"] = ""
        self["header"] = []
        self["subprotocol"] = []

    def opt_header(self, text: str) -> None:
        """'Name: value' for the handshake, or @FILE with one header on each line (for secrets); repeatable"""  # noqa: D415
        self["header"].append(text)

    def opt_subprotocol(self, name: str) -> None:
        """a subprotocol to offer, in order of preference; repeatable"""  # noqa: D403, D415 - this is the help text
        self["subprotocol"].append(name)

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL."""
        if len(arguments) != 1:
            raise UsageError("give one URL, such as ws://localhost:8080/ws")
        self["url"] = arguments[0]


def number(options: Options, name: str, least: float = 0) -> float | None:
    """Return the seconds in an option; None if it was not given.

    Raises:
        UsageError: the value is not a number, or out of range.
    """
    text: Any = options[name]
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < 1e9:
        raise UsageError(f"--{name} must be a number of seconds{f', {least:g} or more' if least else ''}, not {text!r}")
    return value


def size(options: Options, name: str) -> int | None:
    """Return the bytes in an option; None if it was not given.

    Raises:
        UsageError: the value is not a size.
    """
    text: Any = options[name]
    if text is None:
        return None
    try:
        value = parseSize(text)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 40:
        raise UsageError(f"--{name} must be a number of bytes such as 65536, 64KiB or 1MiB, not {text!r}")
    return value
