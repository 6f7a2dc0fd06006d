"""The help of the whole: the commands by what they are for, then the options of the server."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from twisted_ws import usage
from twisted_ws.commands.guide.catalogue import commandGroups

_AT = 14


def helpOf(commands: dict[str, str]) -> str:
    """Return the help of ``twisted-ws``."""
    return "\n".join(_lines(commands, usage.width())).rstrip()


def _lines(commands: dict[str, str], columns: int) -> Iterator[str]:
    from twisted_ws.daemon.options import ServiceOptions

    options = ServiceOptions()
    yield "Usage: twisted-ws [options]          start a server"
    yield "       twisted-ws COMMAND --help     what a command does, and its options"
    yield ""
    for title, names in commandGroups(commands):
        yield f"{title}:"
        for name in names:
            yield from usage.entry(f"  {name}", commands[name], columns, _AT)
        yield ""
    yield "The server, which starts without a command:"
    yield from textwrap.wrap(options.longdesc, columns, break_on_hyphens=False)
    yield ""
    yield from usage.shown(usage.grouped(usage.optionsOf(options), options.groups), columns)
