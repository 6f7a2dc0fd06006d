"""``twisted-ws connect``: a WebSocket on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import TimeoutError as TimedOut
from twisted.python.usage import CompleteFiles, Completions, UsageError

from twisted_ws.commands.options import HandshakeOptions, number, size
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.terminal.display import complain
from twisted_ws.commands.terminal.streams import occupy

if TYPE_CHECKING:
    from twisted_ws.client import Connecting

# Seconds after a signal for the reader of our output to take the rest of it.
HURRY = 0.5


class ConnectOptions(HandshakeOptions):
    """The options of ``twisted-ws connect``."""

    synopsis = "Usage: twisted-ws connect [options] URL"
    longdesc = (
        "Sends each line of standard input as a text message, and writes each message that comes as a line. At the end of the "
        "input, it waits for what is still on its way, then closes the connection with 1000. The exit code says how it ended: "
        "0 for 1000 and 1001; for the others see the documentation (reference, command line)."
    )
    examples = (
        "twisted-ws connect ws://localhost:8080/ws\n"
        "echo hello | twisted-ws connect ws://localhost:8080/ws\n"
        "twisted-ws connect -n --json wss://example.org/feed | jq .data\n"
    )
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["binary", "b", "send blocks of standard input as binary messages as they come, and write messages unchanged"],
        ["whole", "w", "send all of standard input as one message"],
        ["json", "j", "write each event as a JSON object on its own line"],
        ["no-stdin", "n", "only receive, until the server closes; do not read standard input"],
        ["keep-open", "k", "stay connected after the end of standard input, until the server closes"],
        ["one", "1", "exit after the first message that arrives"],
        ["retry", "r", "connect again when the connection is lost or could not be made"],
        ["insecure", None, "accept any certificate of the server: for tests only"],
        ["compression", None, "offer permessage-deflate"],
    ]
    optParameters = [  # noqa: RUF012
        ["wait", None, None, "seconds without a message after the end of standard input, before the connection is closed [0]"],
        ["ping", None, None, "seconds between pings, whose round trip is shown; 0: no pings at all [25, not shown]"],
        ["timeout", None, None, "seconds for the connection to open [20]"],
        ["max-message-size", None, None, "the largest message to accept, such as 64KiB [1MiB]"],
        ["trust-store", None, None, "file of the certificates to trust instead of the system's: PEM or PKCS #12"],
        [
            "trust-store-password-file",
            None,
            None,
            "file with the password of --trust-store (else $TWISTED_WS_TRUST_STORE_PASSWORD)",
        ],
        ["client-certificate", None, None, "file with the client's certificate, key and chain: PEM or PKCS #12"],
        ["client-password-file", None, None, "file with the password of --client-certificate (else $TWISTED_WS_CLIENT_PASSWORD)"],
        ["user-file", None, None, "file with user:password for HTTP Basic (else $TWISTED_WS_USER)"],
        ["token-file", None, None, "file with a bearer token (else $TWISTED_WS_TOKEN)"],
    ]
    groups = {  # noqa: RUF012
        "Messages": ("binary", "whole", "json", "no-stdin", "keep-open", "one", "wait"),
        "Connection": ("retry", "ping", "timeout", "max-message-size", "subprotocol", "header", "compression"),
        "Credentials": ("token-file", "user-file"),
        "TLS": (
            *("trust-store", "trust-store-password-file", "client-certificate", "client-password-file"),
            *("insecure",),
        ),
    }
    compData = Completions(
        optActions={
            name: CompleteFiles()
            for name in (
                "trust-store",
                "trust-store-password-file",
                "client-certificate",
                "client-password-file",
                "user-file",
                "token-file",
            )
        }
    )

    def postOptions(self) -> None:
        """Check what can be checked without reading a file."""
        for name in ("wait", "ping"):
            self[name] = number(self, name)
        self["timeout"] = number(self, "timeout", 0.001)
        self["max-message-size"] = size(self, "max-message-size")
        if self["no-stdin"] and (self["whole"] or self["keep-open"]):
            raise UsageError("--no-stdin cannot be combined with --whole or --keep-open: there is no input")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = ConnectOptions()
    options.parseOptions(arguments)
    occupy()
    runner = Runner()
    return runner.run(lambda reactor: _talk(reactor, options, runner))


async def _talk(reactor: Any, options: ConnectOptions, runner: Runner) -> int:
    from twisted_ws.client import connect
    from twisted_ws.commands.arguments import connectArguments
    from twisted_ws.commands.connect.talk import Manner, Talk
    from twisted_ws.commands.terminal.screen import Screen

    screen = Screen(reactor, options)
    runner.note = screen.display.note
    runner.atOnce = screen.giveBack
    manner = Manner(
        keepOpen=bool(options["keep-open"]), one=bool(options["one"]), wait=options["wait"] or 0, ping=options["ping"] or 0
    )
    talk = Talk(reactor, options["url"].partition("?")[0], manner, screen.display, screen.source, screen.output)
    runner.interrupted = talk.interrupt

    def dial() -> Connecting:
        arguments = connectArguments(options, screen.display.note)
        handlers: Any = {"onPing": talk.onPing, "onPong": talk.onPong, "onReconnect": talk.onReconnect}
        return connect(options["url"], reactor=reactor, **handlers, **arguments)

    screen.open()
    try:
        code = await talk.run(dial)
    finally:
        screen.close()
    drained = screen.output.drained()
    if code > 128:
        # The reader of our output may take as long as it likes, but not after a signal.
        drained.addTimeout(HURRY, reactor).addErrback(lambda failure: failure.trap(TimedOut))
    await drained
    if talk.trouble:
        complain(talk.trouble)
    return talk.codeOr(code)
