"""``twisted-ws token``: make a signed token, or check one step by step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from twisted.python.usage import UsageError

TASKS = ("make", "check")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    task = arguments[0] if arguments else ""
    if task in TASKS:
        code: int = import_module(f"twisted_ws.commands.token.{task}").main(arguments[1:])
        return code
    if task == "--help":
        print(
            "Usage: twisted-ws token make [options] > FILE\n"
            "       twisted-ws token check [options] FILE\n"
            "Makes a signed JSON Web Token, for development and for machines; or says, step by step, what the server would make\n"
            "of one, and which line of its configuration refuses it. Each has its own --help."
        )
        return 0
    raise UsageError(f"give {' or '.join(TASKS)}, and its options")
