"""``twisted-ws completion``: what lets a shell complete commands and options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions

SHELLS = ("bash", "zsh", "fish")


class CompletionOptions(CommandOptions):
    """The options of ``twisted-ws completion``."""

    synopsis = "Usage: twisted-ws completion bash|zsh|fish"
    longdesc = (
        "Writes to standard output what lets a shell complete commands, options and files. An installation has the same below "
        "share/, where shells look for it if it is one for the whole system."
    )
    examples = """
        source <(twisted-ws completion bash)      # in ~/.bashrc
        source <(twisted-ws completion zsh)       # in ~/.zshrc, after compinit
        twisted-ws completion fish | source       # in ~/.config/fish/config.fish
    """
    argument = SHELLS

    def parseArgs(self, *words: str) -> None:
        """Take the shell."""
        if len(words) != 1 or words[0] not in SHELLS:
            raise UsageError(f"give one of {', '.join(SHELLS)}")
        self["shell"] = words[0]


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = CompletionOptions()
    options.parseOptions(arguments)
    sys.stdout.write(script(options["shell"]))
    return Exit.OK


def script(shell: str) -> str:
    """Return the script for a shell."""
    from twisted_ws.commands.guide.catalogue import everyCommand
    from twisted_ws.commands.main import COMMANDS

    text: str = import_module(f"twisted_ws.commands.completion.{shell}").script([*everyCommand(COMMANDS)], COMMANDS)
    return text
