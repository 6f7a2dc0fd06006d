"""``twisted-ws disconnect``: end a connection of a running server, or all of a user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.site.options import SiteOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.commands.terminal.streams import occupy


class DisconnectOptions(SiteOptions):
    """The options of ``twisted-ws disconnect``."""

    synopsis = "Usage: twisted-ws disconnect [options] URL [CONNECTION]"
    longdesc = (
        "Ends one connection, or all of a user's, at every server that works with the one at URL. twisted-ws top and the admin "
        "page show the ids of connections. Clients do not reconnect after the default code. The exit code is 1 if nobody was "
        "connected."
    )
    examples = (
        "twisted-ws disconnect --key-file key http://localhost:8081 k3x9ab.17\n"
        '  twisted-ws disconnect --key-file key --user ann --reason "logged out" http://localhost:8081'
    )
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["user", None, None, "end all connections of this user"],
        ["code", None, None, "the close code: 1000, 1008, or 3000 to 4999 [4403]"],
        ["reason", None, "", "the reason, which clients are told"],
    ]

    groups = {"What to end": ("user", "code", "reason"), **SiteOptions.groups}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self["connection"] = None

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL, and perhaps the connection."""
        rest = self.takeURL(arguments)
        if len(rest) > 1:
            raise UsageError("give one connection")
        self["connection"] = rest[0] if rest else None

    def postOptions(self) -> None:
        """Check what can be checked without the server."""
        super().postOptions()
        if (self["connection"] is None) == (self["user"] is None):
            raise UsageError("give either a connection or --user")
        if self["code"] is not None and not (self["code"].isascii() and self["code"].isdigit()):
            raise UsageError("--code must be a number")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = DisconnectOptions()
    options.parseOptions(arguments)
    occupy()
    runner = Runner()
    return runner.run(lambda reactor: _disconnect(reactor, options))


async def _disconnect(reactor: Any, options: DisconnectOptions) -> int:
    from twisted_ws.commands.site.requests import ERRORS, Site, explain, understood

    body: dict[str, Any] = {name: options[name] for name in ("connection", "user", "reason") if options[name]}
    if options["code"] is not None:
        body["code"] = int(options["code"])
    try:
        answer = await Site(reactor, options).ask("POST", "/api/disconnect", body)
        count = understood(answer.get("disconnected"), int)
    except ERRORS as error:
        return explain(error)
    if not count:
        complain("nobody was connected")
        return Exit.FAILED
    print(f"{count} connection{'' if count == 1 else 's'} ended")
    return Exit.OK
