"""``twisted-ws top``: watch a running server: figures each second, callers and channels; lines of JSON where no terminal is."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.site.options import SiteOptions
from twisted_ws.commands.terminal.display import jsonLine
from twisted_ws.commands.terminal.streams import Input, Output, occupy
from twisted_ws.commands.terminal.tty import Keys, canMove

if TYPE_CHECKING:
    from twisted_ws.commands.site.requests import Site
    from twisted_ws.commands.top.view import View

STATS = "~server.stats"
# Seconds between two looks at callers and channels.
LISTS = 2.0
# Seconds for what is still to be written at the end.
LAST = 2.0
# The other screen, without a cursor; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}


class TopOptions(SiteOptions):
    """The options of ``twisted-ws top``."""

    synopsis = "Usage: twisted-ws top [options] URL"
    longdesc = (
        "Shows what a server does, and all that work with it: figures each second, callers and channels. Keys: q quits, / shows "
        "only some users, the arrows choose a caller, k disconnects it. Where standard output is no terminal, each second is a "
        "line of JSON."
    )
    examples = "twisted-ws top --key-file key http://localhost:8081"
    optFlags = [["json", "j", "write a line of JSON each second, also on a terminal"]]  # noqa: RUF012 - as Twisted declares it

    groups = {"What to write": ("json",), **SiteOptions.groups}  # noqa: RUF012

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL."""
        if self.takeURL(arguments):
            raise UsageError("give one URL")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = TopOptions()
    options.parseOptions(arguments)
    occupy()
    runner = Runner()
    return runner.run(lambda reactor: _top(reactor, options, runner))


async def _top(reactor: Any, options: TopOptions, runner: Runner) -> int:
    from twisted_ws.commands.site.requests import ERRORS, Site, explain

    output = Output(reactor, 1)
    isScreen = os.isatty(1) and os.isatty(0) and canMove(os.environ) and not options["json"]
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        work.cancel()

    runner.interrupted = end
    keys = Keys(0) if isScreen else None
    screen: Screen | None = None
    try:
        site = Site(reactor, options)
        if keys is None:
            work = Deferred.fromCoroutine(_lines(site, output))
        else:
            screen = Screen(reactor, site, options["url"], output, end)
            runner.note = screen.say
            runner.atOnce = keys.giveBack
            keys.take()
            output.write(_ENTER.encode())
            work = Deferred.fromCoroutine(screen.run())
        output.broken.addCallback(lambda error: end(Exit.BROKEN_PIPE))
        code: int = await work
    except CancelledError:
        code = codes[0] if codes else Exit.FAILED
    except ERRORS as error:
        if screen is not None:
            screen.stop()
        if keys is not None:
            output.write(_LEAVE.encode())
            keys.giveBack()
            keys = None
            await output.drained()
        code = explain(error)
    finally:
        if screen is not None:
            screen.stop()
        if keys is not None:
            output.write(_LEAVE.encode())
            keys.giveBack()
    if code != Exit.BROKEN_PIPE:
        drained = output.drained()
        drained.addTimeout(LAST, reactor).addErrback(lambda _: None)
        await drained
    return code


async def _lines(site: Site, output: Output) -> int:
    """Write a line of JSON each second."""

    def take(frame: dict[str, Any]) -> None:
        if frame.get("type") == "message" and not output.isFull:
            output.write(jsonLine(frame["data"]))

    await (await site.watch({STATS: 0}, take))
    return Exit.OK


class Screen:
    """The screen of a terminal.

    Args:
        reactor: the reactor.
        site: the site.
        url: as the user has written it.
        output: the terminal.
        end: called with an exit code when the user wants no more.
    """

    def __init__(self, reactor: Any, site: Site, url: str, output: Output, end: Any) -> None:
        from twisted_ws.commands.top.view import View

        encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
        self.view: View = View(url, encoding == "utf8")
        self._reactor = reactor
        self._site = site
        self._output = output
        self._end = end
        self._call: Any = None
        self._isListing = False
        self._isShown = True

    def say(self, text: str) -> None:
        """Show a notice in the last line."""
        self.view.note = text
        self.draw()

    async def run(self) -> int:
        """Show what comes, until the stream ends."""
        stream = await self._site.watch({STATS: 0}, self._take)
        Deferred.fromCoroutine(self._read()).addErrback(lambda _: None)
        self._list()
        await stream
        return Exit.OK

    def stop(self) -> None:
        """Fetch and show nothing more: a request that fails at the end would be drawn over what the shell shows."""
        self._isShown = False
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _take(self, frame: dict[str, Any]) -> None:
        if frame.get("type") == "message":
            self.view.take(frame["data"])
            self.draw()

    def draw(self) -> None:
        """Show the view."""
        if not self._isShown:
            return
        if self._output.isFull:
            return  # the terminal is slow: the next second is as good
        try:
            width, height = os.get_terminal_size(1)
        except OSError:
            width, height = 80, 24
        lines = self.view.lines(width or 80, height or 24)
        self._output.write(("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J").encode("utf-8", "replace"))

    def _list(self) -> None:
        """Fetch the lists now and then."""
        if self._isListing or not self._isShown:
            return
        self._isListing = True
        Deferred.fromCoroutine(self._fetch()).addBoth(self._listed)

    def _listed(self, result: Any) -> None:
        self._isListing = False
        if self._isShown:
            self._call = self._reactor.callLater(LISTS, self._list)

    async def _fetch(self) -> None:
        from twisted_ws.commands.site.requests import ERRORS, STRANGE, NoSite

        try:
            callers = await self._site.ask("GET", "/api/callers", limit=50, user=self.view.filter)
            channels = await self._site.ask("GET", "/api/channels", limit=10, order="subscribers")
        except ERRORS as error:
            self.say(str(error))
            return
        try:
            self.view.takeLists(callers["callers"], callers["total"], channels["channels"])
            self.draw()
        except STRANGE:
            self.view.takeLists([], 0, [])
            self.say(str(NoSite()))

    async def _read(self) -> None:
        """Take the keys."""
        from twisted_ws.commands.top.view import Act

        read = Input(self._reactor, 0).read
        while data := await read():
            for key in keysIn(data.decode("utf-8", "replace")):
                act = self.view.key(key)
                if act is Act.QUIT:
                    self._end(Exit.OK)
                    return
                if act is Act.FETCH:
                    self._list()
                elif act is Act.DISCONNECT:
                    Deferred.fromCoroutine(self._disconnect()).addErrback(lambda _: None)
            self.draw()

    async def _disconnect(self) -> None:
        from twisted_ws.commands.site.requests import ERRORS

        chosen = self.view.asked
        try:
            answer = await self._site.ask("POST", "/api/disconnect", {"connection": chosen})
        except ERRORS as error:
            self.say(str(error))
            return
        self.say(f"{chosen} was disconnected" if answer.get("disconnected") else f"{chosen} had left already")
        self._list()


def keysIn(text: str) -> list[str]:
    """Return the keys in what a terminal has sent."""
    found, at = [], 0
    while at < len(text):
        arrow = _ARROWS.get(text[at : at + 3])
        if arrow is not None:
            found.append(arrow)
            at += 3
        elif text[at] == "\x1b" and text[at + 1 : at + 2] in ("[", "O"):
            at += 3  # another key of that kind
        else:
            found.append(text[at])
            at += 1
    return found
