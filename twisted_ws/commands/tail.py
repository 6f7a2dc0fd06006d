"""``twisted-ws tail``: follow a channel, a caller or a user of a running server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.site.options import SiteOptions
from twisted_ws.commands.terminal.display import complain, jsonLine, oneLine
from twisted_ws.commands.terminal.streams import Output, occupy

# Seconds for what is still to be written at the end.
LAST = 2.0


class TailOptions(SiteOptions):
    """The options of ``twisted-ws tail``."""

    synopsis = "Usage: twisted-ws tail [options] URL [CHANNEL]"
    longdesc = (
        "Shows what is published to a channel or pattern, or what one caller, or all of a user's, sends and is sent, at every "
        "server that works with the one at URL; at most 200 lines a second, more are counted. Clients do not notice. "
        "Ctrl-C ends it."
    )
    examples = (
        "twisted-ws tail --key-file key http://localhost:8081 'orders.*'\n"
        "  twisted-ws tail --key-file key --user ann --json http://localhost:8081 | jq .data"
    )
    optFlags = [["json", "j", "write lines of JSON"]]  # noqa: RUF012 - as Twisted declares it
    optParameters = [  # noqa: RUF012
        ["connection", None, None, "follow the caller with this id"],
        ["user", None, None, "follow all callers of this user"],
    ]

    groups = {"What to follow": ("connection", "user", "json"), **SiteOptions.groups}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self["channel"] = None

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL, and perhaps the channel."""
        rest = self.takeURL(arguments)
        if len(rest) > 1:
            raise UsageError("give one channel: quote a pattern, so that the shell leaves it alone")
        self["channel"] = rest[0] if rest else None

    def postOptions(self) -> None:
        """Check that there is one thing to follow."""
        super().postOptions()
        if sum(self[name] is not None for name in ("channel", "connection", "user")) != 1:
            raise UsageError("give a channel, --connection or --user")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = TailOptions()
    options.parseOptions(arguments)
    occupy()
    runner = Runner()
    return runner.run(lambda reactor: _tail(reactor, options, runner))


async def _tail(reactor: Any, options: TailOptions, runner: Runner) -> int:
    from twisted_ws.commands.site.requests import ERRORS, Site, explain

    output = Output(reactor, 1)
    work = Deferred.fromCoroutine(_follow(reactor, Site(reactor, options), options, output))
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        work.cancel()

    runner.interrupted = end
    output.broken.addCallback(lambda error: end(Exit.BROKEN_PIPE))
    try:
        code = await work
    except CancelledError:
        code = codes[0] if codes else Exit.FAILED
    except ERRORS as error:
        code = explain(error)
    if code != Exit.BROKEN_PIPE:
        drained = output.drained()
        drained.addTimeout(LAST, reactor).addErrback(lambda _: None)
        await drained
    return code


async def _follow(reactor: Any, site: Any, options: TailOptions, output: Output) -> int:
    from twisted_ws.commands.site.requests import understood

    wanted = {name: options[name] for name in ("channel", "connection", "user") if options[name] is not None}
    tail = await site.ask("POST", "/api/tails", wanted)
    ended: list[str] = []
    stream: Deferred[None]

    def take(frame: dict[str, Any]) -> None:
        if frame.get("type") != "message":
            return
        data = frame.get("data", {})
        lines = data.get("lines", [])
        for line in lines:
            output.write(jsonLine(line) if options["json"] else shown(line).encode() + b"\n")
        if data.get("skipped"):
            complain(f"{data['skipped']} more lines were left out")
        if data.get("ended"):
            ended.append(str(data["ended"]))
            reactor.callLater(0, lambda: stream.cancel())

    stream = await site.watch({understood(tail.get("channel"), str): 0}, take)
    try:
        await stream
    except CancelledError:
        if not ended:
            raise
    complain(f"the tail has ended: {oneLine(ended[0])}")
    return Exit.FAILED


def shown(line: dict[str, Any]) -> str:
    """Return one line of a tail for a person; the server has escaped what clients sent, and this does so again."""
    time = datetime.fromtimestamp(line["time"])
    said = [f"{time:%H:%M:%S}.{time.microsecond // 1000:03}", str(line["what"]).ljust(9)]
    said += [str(line[name]) for name in ("connection", "user", "channel", "id") if line.get(name)]
    if "data" in line:
        kind = "" if line.get("kind") == "text" else f" {line.get('kind')}"
        said += [f"({line.get('bytes')} bytes{kind})", str(line["data"])]
    if line.get("note"):
        said.append(str(line["note"]))
    return oneLine(" ".join(said))
