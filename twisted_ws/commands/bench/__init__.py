"""``twisted-ws bench``: how fast a server opens connections, answers, and sends one message to many."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from collections.abc import Sequence as Words
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from twisted_ws.commands.bench.places import isHere
from twisted_ws.commands.options import HandshakeOptions, number, size
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.terminal.display import complain, oneLine
from twisted_ws.commands.terminal.tty import canMove, columns

if TYPE_CHECKING:
    from twisted_ws.commands.bench.load import Load

MOST_CONNECTIONS = 100_000
# Descriptors that are not for connections: the reactor, the streams, those of publications.
_RESERVE = 32
# Seconds between two lines of progress.
_PROGRESS = 0.25


class BenchOptions(HandshakeOptions):
    """The options of ``twisted-ws bench``."""

    synopsis = "Usage: twisted-ws bench [options] URL"
    longdesc = (
        "Opens connections to a server and measures handshakes; then sends messages and waits for each answer, if the path "
        "answers; then, with --publish, sends one message to all connections, again and again. It measures the two together, "
        "this client and the server, which share a machine. A server on another one needs --yes-it-is-mine."
    )
    examples = (
        "twisted-ws bench ws://localhost:8080/ws\n"
        "twisted-ws bench --connections 1000 \\\n      --publish http://localhost:8081/channels/bench ws://localhost:8080/channels/bench\n"
    )
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["json", "j", "one JSON object on standard output"],
        ["no-echo", None, "send no messages over the connections"],
        ["yes-it-is-mine", None, "the server is not on this machine, and may be put under load"],
        ["insecure", None, "accept any certificate of the server: for tests only"],
        ["compression", None, "offer permessage-deflate"],
    ]
    optParameters = [  # noqa: RUF012
        ["connections", "c", None, "how many connections [100]"],
        ["seconds", "s", None, "how long messages are sent, and published [5]"],
        ["size", None, None, "bytes of a message, such as 64 or 4KiB [64]"],
        ["message", "m", None, "what is sent over the connections, for a path that answers only what it knows [dots]"],
        [
            "publish",
            None,
            None,
            "URL of the broadcast site that sends a message to all connections: /broadcaster/broadcast or /channels/NAME",
        ],
        ["key-file", None, None, "file with the API key for --publish (else $TWISTED_WS_API_KEY)"],
        ["token-file", None, None, "file with a bearer token for the connections (else $TWISTED_WS_TOKEN)"],
        ["user-file", None, None, "file with user:password for HTTP Basic (else $TWISTED_WS_USER)"],
        ["timeout", None, None, "seconds for a connection to open, or a message to be published [20]"],
        ["trust-store", None, None, "file of the certificates to trust instead of the system's: PEM or PKCS #12"],
        ["trust-store-password-file", None, None, "file with its password (else $TWISTED_WS_TRUST_STORE_PASSWORD)"],
        ["client-certificate", None, None, "file with the client's certificate, key and chain: PEM or PKCS #12"],
        ["client-password-file", None, None, "file with its password (else $TWISTED_WS_CLIENT_PASSWORD)"],
    ]

    groups = {  # noqa: RUF012
        "Load": ("connections", "seconds", "size", "message", "publish", "no-echo", "json", "yes-it-is-mine"),
        "Credentials": ("key-file", "token-file", "user-file"),
        "Connection and TLS": (
            *("timeout", "subprotocol", "header", "compression"),
            *("trust-store", "trust-store-password-file", "client-certificate", "client-password-file", "insecure"),
        ),
    }
    takes = {**HandshakeOptions.takes, "publish": "URL"}  # noqa: RUF012

    def postOptions(self) -> None:
        """Check what can be checked without reading a file."""
        text = self["connections"] or "100"
        if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST_CONNECTIONS):
            raise UsageError(f"--connections must be a whole number from 1 to {MOST_CONNECTIONS}, not {text!r}")
        self["connections"] = int(text)
        self["seconds"] = number(self, "seconds", 0.001) or 5
        self["size"] = size(self, "size") or 64
        self["timeout"] = number(self, "timeout", 0.001) or 20
        for url in filter(None, (self["url"], self["publish"])):
            if not self["yes-it-is-mine"] and not isHere(url):
                raise UsageError(
                    "this would put a server on another machine under load: give --yes-it-is-mine if it is yours, or a URL with "
                    "localhost"
                )


def main(arguments: Words[str]) -> int:
    """Run the command, and return its exit code."""
    options = BenchOptions()
    options.parseOptions(arguments)
    _allowDescriptors(options["connections"] + _RESERVE)
    runner = Runner()
    return runner.run(lambda reactor: _bench(reactor, options, runner))


def _allowDescriptors(wanted: int) -> None:
    """Let this process have so many descriptors.

    Raises:
        UsageError: it may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UsageError(
            f"--connections must be at most {hard - _RESERVE} here: this user may have {hard} descriptors (ulimit -Hn)"
        )
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _bench(reactor: Any, options: BenchOptions, runner: Runner) -> int:
    from twisted_ws.commands.exits import Exit, codeOf, explained, inHTTP
    from twisted_ws.errors import ConfigurationError, WebSocketError

    show, hide = _progress(reactor.seconds)
    runner.note = lambda text: None  # a thousand connections that break say a thousand times the same
    work = Deferred.fromCoroutine(_measure(reactor, options, show))
    interruptedBy: list[int] = []

    def interrupt(code: int) -> None:
        interruptedBy.append(code)
        work.cancel()

    runner.interrupted = interrupt
    try:
        code, found = await work
    except CancelledError:
        hide()
        return interruptedBy[0] if interruptedBy else Exit.FAILED
    except (WebSocketError, ConfigurationError, ValueError, TypeError) as error:
        hide()
        complain(inHTTP(explained(error)))
        return codeOf(error)
    hide()
    if options["json"]:
        print(json.dumps(found))
    else:
        for line in _lines(found):
            print(oneLine(line))
    return code


async def _measure(reactor: Any, options: BenchOptions, show: Callable[[str], None]) -> tuple[int, dict[str, Any]]:
    from twisted_ws.client import connect
    from twisted_ws.commands.arguments import connectArguments
    from twisted_ws.commands.bench.load import Load
    from twisted_ws.wire.speedups import compiled

    arguments = connectArguments({**options, "retry": False, "max-message-size": None, "ping": None}, complain)
    # A server here is reached without a proxy, whatever the environment says.
    arguments["proxy"] = not isHere(options["url"])
    load = Load(reactor, lambda: connect(options["url"], reactor=reactor, **arguments), show)
    by = f"twisted_ws.client ({'compiled' if compiled else 'pure Python'}), one process"
    found: dict[str, Any] = {"url": options["url"].partition("?")[0], "by": by}
    isWhole = True
    try:
        await load.open(options["connections"])
        found["connections"] = _connections(load, options["connections"])
        if not load.clients:
            for text in load.failures:
                complain(text)
            return load.code, found
        message = options["message"] or "." * options["size"]
        if not options["no-echo"]:
            found["echo"] = await _echo(load, message, options["seconds"])
        if options["publish"]:
            found["fanOut"], isWhole = await _fanOut(reactor, load, options)
    finally:
        await load.close()
    if load.failures:
        for text, count in load.failures.items():
            complain(f"{count} connection{'' if count == 1 else 's'}: {text}")
        isWhole = False
    return 0 if isWhole else 1, found


def _connections(load: Load, wanted: int) -> dict[str, Any]:
    count = len(load.clients)
    return {
        "wanted": wanted,
        "open": count,
        "failures": dict(load.failures),
        **_rate(count, load.seconds),
        "handshake": load.handshakes.summary(),
    }


async def _echo(load: Load, message: str, seconds: float) -> dict[str, Any] | None:
    if not await load.echoes(message):
        return None
    found, took = await load.echo(message, seconds)
    return {"messages": found.count, **_rate(found.count, took), "roundTrip": found.summary()}


async def _fanOut(reactor: Any, load: Load, options: BenchOptions) -> tuple[dict[str, Any], bool]:
    from twisted_ws.commands.broadcast import tell
    from twisted_ws.commands.site.post import post
    from twisted_ws.errors import ConfigurationError

    asked = {**options, "url": options["publish"], "binary": False, "json": False}

    async def publish(text: str) -> None:
        answer = await post(reactor, asked, text.encode())
        if not 200 <= answer.status < 300:
            tell(answer)
            raise ConfigurationError("nothing can be published with --publish")

    made = await load.fanOut(publish, options["size"], options["seconds"])
    return {
        "published": made.published,
        "deliveries": made.delays.count,
        "lost": made.lost,
        **_rate(made.delays.count, made.seconds),
        "delay": made.delays.summary(),
    }, not made.lost


def _rate(count: int, seconds: float) -> dict[str, float]:
    return {"seconds": round(seconds, 3), "perSecond": round(count / seconds) if seconds else 0}


def _lines(found: dict[str, Any]) -> Any:
    yield f"measured by {found['by']}, together with the server"
    opened = found["connections"]
    count, rate = f"{opened['open']:,} of {opened['wanted']:,}", f"{opened['perSecond']:,}/s"
    yield f"connections: {count}, {rate}; handshake {_times(opened['handshake'])}"
    if "echo" in found:
        echo = found["echo"]
        if echo is None:
            yield "echo: this path does not answer such a message; --message sends another"
        else:
            yield f"echo: {echo['messages']:,} messages, {echo['perSecond']:,}/s; round trip {_times(echo['roundTrip'])}"
    if "fanOut" in found:
        fan = found["fanOut"]
        lost = f"; {fan['lost']:,} LOST" if fan["lost"] else ""
        yield (
            f"fan-out: {fan['published']:,} published, {fan['deliveries']:,} delivered, {fan['perSecond']:,}/s; delay "
            f"{_times(fan['delay'])}{lost}"
        )


def _times(summary: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g} ms" for name, value in summary.items())


def _progress(clock: Callable[[], float]) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Return what shows a line of progress on a terminal, and what takes it away."""
    if sys.stderr is None or not sys.stderr.isatty() or not canMove(os.environ):
        return (lambda text: None), (lambda: None)
    shown = -_PROGRESS

    def show(text: str) -> None:
        nonlocal shown
        if clock() - shown >= _PROGRESS:
            shown = clock()
            sys.stderr.write(f"\r\x1b[K{text[: columns(2) - 1]}")
            sys.stderr.flush()

    def hide() -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    return show, hide
