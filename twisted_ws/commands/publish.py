"""``twisted-ws publish``: publish one message to a channel, through the broadcast site."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from twisted.python.usage import UsageError

from twisted_ws.commands.broadcast import BroadcastOptions, run


class PublishOptions(BroadcastOptions):
    """The options of ``twisted-ws publish``."""

    synopsis = "Usage: twisted-ws publish [options] URL CHANNEL [MESSAGE]"
    longdesc = (
        "Publishes one message to a channel, at the broadcast site at URL. Without MESSAGE and --file, the message is read from "
        "standard input."
    )
    examples = (
        "twisted-ws publish --key-file key http://localhost:8081 orders.42 paid\n"
        '  twisted-ws publish --key-file key --json http://localhost:8081 orders.42 \'{"state": "paid"}\''
    )
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["key", None, None, "of several messages with the same key, slow subscribers may get only the newest"],
    ]

    groups = {**BroadcastOptions.groups, "Message": ("file", "binary", "json", "key")}  # noqa: RUF012

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL, the channel, and the message."""
        if not 1 < len(arguments) < 4:
            raise UsageError("give the URL of the broadcast site (http://localhost:8081), a channel, and one message, in quotes")
        base, slashes, rest = arguments[0].partition("://")
        query = "" if self["key"] is None else "?" + urlencode({"key": self["key"]})
        host = rest.partition("/")[0]
        self["url"] = f"{base}{slashes}{host}/channels/{quote(arguments[1], safe='')}{query}"
        self["message"] = (arguments[2:] or (None,))[0]


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = PublishOptions()
    options.parseOptions(arguments)
    return run(options)
