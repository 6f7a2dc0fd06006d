"""``twisted-ws broadcast``: publish one message to all callers, or to a channel, through the broadcast site."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from twisted_ws.commands.options import CommandOptions, number
from twisted_ws.commands.runner import Runner
from twisted_ws.commands.terminal.display import complain
from twisted_ws.commands.terminal.streams import Input, occupy
from twisted_ws.errors import ConfigurationError, WebSocketError
from twisted_ws.logs import printable

if TYPE_CHECKING:
    from twisted_ws.commands.site.post import Answer

# Bytes of a message; servers accept less, by default 1 MiB.
MOST = 64 * 1024 * 1024
# Seconds.
_TIMEOUT = 20


class BroadcastOptions(CommandOptions):
    """The options of ``twisted-ws broadcast``."""

    synopsis = "Usage: twisted-ws broadcast [options] URL [MESSAGE]"
    longdesc = (
        "Sends one message to all callers, or to those of a channel, with one POST to the broadcast site. Without MESSAGE and "
        "--file, the message is read from standard input."
    )
    examples = (
        'twisted-ws broadcast http://localhost:8081/broadcaster/broadcast "Hello!"\n'
        "twisted-ws broadcast --key-file key \\\n      http://localhost:8081/channels/orders.42 < order\n"
    )
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["binary", "b", "send a binary message instead of UTF-8 text"],
        ["json", "j", "send JSON, to a channel, instead of text"],
        ["insecure", None, "accept any certificate of the server: for tests only"],
    ]
    optParameters = [  # noqa: RUF012
        ["file", "f", None, "file with the message"],
        ["key-file", None, None, "file with the API key, perhaps the server's own key file (else $TWISTED_WS_API_KEY)"],
        ["user-file", None, None, "file with user:password for HTTP Basic (else $TWISTED_WS_USER)"],
        ["timeout", None, None, f"seconds for the whole request [{_TIMEOUT}]"],
        ["trust-store", None, None, "file of the certificates to trust instead of the system's: PEM or PKCS #12"],
        ["trust-store-password-file", None, None, "file with its password (else $TWISTED_WS_TRUST_STORE_PASSWORD)"],
        ["client-certificate", None, None, "file with the client's certificate, key and chain: PEM or PKCS #12"],
        ["client-password-file", None, None, "file with its password (else $TWISTED_WS_CLIENT_PASSWORD)"],
    ]

    groups = {  # noqa: RUF012
        "Message": ("file", "binary", "json"),
        "Credentials": ("key-file", "user-file"),
        "Connection and TLS": (
            *("timeout", "trust-store", "trust-store-password-file", "client-certificate", "client-password-file"),
            *("insecure",),
        ),
    }

    def __init__(self) -> None:
        super().__init__()
        self["url"] = ""
        self["message"] = None

    def parseArgs(self, *arguments: str) -> None:
        """Take the URL, and the message."""
        if not 0 < len(arguments) < 3:
            raise UsageError("give one URL, such as http://localhost:8081/broadcaster/broadcast, and one message, in quotes")
        self["url"], self["message"] = arguments[0], (arguments[1:] or (None,))[0]

    def postOptions(self) -> None:
        """Check what can be checked without reading a file."""
        self["timeout"] = number(self, "timeout", 0.001) or _TIMEOUT
        if self["message"] is not None and self["file"] is not None:
            raise UsageError("the message is given twice: as an argument and with --file")
        if self["binary"] and self["json"]:
            raise UsageError("--binary and --json are different kinds of message: use one of them")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = BroadcastOptions()
    options.parseOptions(arguments)
    return run(options)


def run(options: BroadcastOptions) -> int:
    """Send the message, and return the exit code."""
    occupy()
    runner = Runner()
    return runner.run(lambda reactor: _broadcast(reactor, options, runner))


async def _broadcast(reactor: Any, options: BroadcastOptions, runner: Runner) -> int:
    from twisted_ws.client.errors import InvalidURL
    from twisted_ws.commands.exits import Exit, codeOf, explained, inHTTP

    work = Deferred.fromCoroutine(_send(reactor, options))
    interruptedBy: list[int] = []

    def interrupt(code: int) -> None:
        interruptedBy.append(code)
        work.cancel()

    runner.interrupted = interrupt
    try:
        answer = await work
    except CancelledError:
        return interruptedBy[0] if interruptedBy else Exit.FAILED
    except (WebSocketError, ConfigurationError, ValueError, TypeError) as error:
        text = explained(error)
        complain(text if isinstance(error, InvalidURL) else inHTTP(text))
        return codeOf(error)
    return tell(answer)


def tell(answer: Answer) -> int:
    """Print what became of the message, and return the exit code."""
    from twisted_ws.commands.exits import Exit, forStatus

    fields = answer.fields
    if not 200 <= answer.status < 300:
        said = printable(fields["message"]) if "message" in fields else answer.text
        reason = f" ({said.removesuffix('.')})" if said else ""
        complain(f"the site refused the message with {answer.status}{reason}: {_mend(answer, said)}")
        return forStatus(answer.status)
    count = fields.get("recipients")
    text = (
        f"{count} recipient{'' if count == 1 else 's'}, id {printable(fields.get('id', ''))}"
        if isinstance(count, int)
        else answer.text
    )
    try:
        # Not through Python's buffer, which would be flushed again at exit, with a traceback.
        os.write(1, f"{text}\n".encode())
    except OSError:
        return Exit.BROKEN_PIPE
    return Exit.OK


def _mend(answer: Answer, said: str) -> str:
    if answer.status == 401:
        return "give credentials that it accepts (--key-file, --user-file)"
    if answer.status == 400 and ("TLS" in said or "HTTPS" in said):
        return "use https://"
    if answer.status == 403:
        if "scope" in said:
            return "use another key, or give this one the scope in the server's file"
        return "publish on the broadcast port (by default 8081)"
    if answer.status == 421:
        return "check the host in the URL; the server's log names --allowed-host"
    if answer.status == 404:
        return "check the URL: /broadcaster/broadcast or /channels/NAME, on the broadcast port (by default 8081)"
    if answer.status == 413:
        return "send it in parts"
    if answer.status in (405, 426):
        return "this is the port for WebSockets: use the broadcast port (by default 8081)"
    if answer.status in (408, 425, 429) or answer.status >= 500:
        wait = answer.retryAfter
        return f"try again in {wait} second{'' if wait == '1' else 's'}" if wait.isdigit() else "try again later"
    return "redirects are not followed" if answer.status < 400 else "correct it and send it again"


async def _send(reactor: Any, options: BroadcastOptions) -> Answer:
    from twisted_ws.commands.site.post import post

    return await post(reactor, options, await messageOf(reactor, options))


async def messageOf(reactor: Any, options: BroadcastOptions) -> bytes:
    """Return the message.

    Raises:
        ConfigurationError: the message cannot be read, or is empty.
    """
    if options["message"] is not None:
        data = os.fsencode(options["message"])
    elif options["file"] is not None:
        name = printable(options["file"])
        try:
            with open(options["file"], "rb") as file:
                data = file.read(MOST + 1)
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            raise ConfigurationError(f"The file {name} cannot be read ({why}): check the path and its permissions.") from None
    else:
        source, blocks, size = Input(reactor, 0), [], 0
        while size <= MOST and (block := await source.read()):
            blocks.append(block)
            size += len(block)
        data = b"".join(blocks)
    if len(data) > MOST:
        raise ConfigurationError(f"The message has more than {MOST} bytes, which no server accepts: send it in parts.")
    if not data:
        raise ConfigurationError("The message is empty: give it as an argument, with --file, or on standard input.")
    return data
