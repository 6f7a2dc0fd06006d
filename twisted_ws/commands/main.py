"""The program ``twisted-ws``: runs the command that is named, or else the server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

# Each is a module of this package with `main(arguments)`, loaded when it is called.
COMMANDS = {
    "connect": "talk to a WebSocket: lines go out, messages come in",
    "broadcast": "send a message to all callers, or to a channel",
    "publish": "publish a message to a channel",
    "tail": "follow a channel, a caller or a user of a running server",
    "top": "watch a running server: figures, callers, channels",
    "disconnect": "end a connection of a running server, or all of a user's",
    "init": "make a new project that runs: settings, a service, its test, and what is needed to deploy it",
    "check": "say what a server with these options would be, and what is wrong with it",
    "bench": "measure how fast a server opens connections, answers, and sends one message to many",
    "completion": "let a shell complete commands and options",
    "asyncapi": "write the AsyncAPI document of the services",
    "reload": "let a running server with workers read certificates again, or replace its services",
    "upgrade": "replace a running server with workers by a new version, and close no connection",
    "explain": "say whether a user may subscribe to a channel or publish there, and why",
    "token": "make a signed token, or check one step by step",
    "password": "hash a user's password for the authenticator basic",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, or the server.

    Args:
        arguments: those after ``twisted-ws``; None: the command line's.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in COMMANDS:
        return _command(given[0], given[1:])
    if "--help" in given:
        return _printed(_help)
    if given and not given[0].startswith("-"):
        return _unknown(given[0])
    try:
        from twisted_ws.daemon.main import main as serve

        return serve(given)
    except KeyboardInterrupt:  # before the reactor runs
        return 130


def _command(name: str, arguments: list[str]) -> int:
    from twisted.python.usage import UsageError

    from twisted_ws.commands.terminal.display import complain

    try:
        return _printed(lambda: int(import_module(f"twisted_ws.commands.{name}").main(arguments)))
    except UsageError as error:
        complain(f"{error} (see twisted-ws {name} --help)")
        return 2
    except KeyboardInterrupt:  # before the reactor runs
        return 130


def _unknown(name: str) -> int:
    from twisted_ws.commands.terminal.display import complain

    near = get_close_matches(name, COMMANDS, n=1)
    mend = f"did you mean {near[0]}?" if near else f"the commands are {_listed(list(COMMANDS))}; without one, the server starts"
    complain(f"there is no command {name!r}: {mend} (see twisted-ws --help)")
    return 2


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _help() -> int:
    from twisted_ws.commands.guide.helping import helpOf

    print(helpOf(COMMANDS))
    return 0


def _printed(work: Callable[[], int]) -> int:
    """Return the exit code of what writes to standard output, whose reader may go at any time."""
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # What Python still has would be written again at its end, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    return code
