"""All commands with their options, as their classes declare them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from twisted.python.usage import Options

from twisted_ws.usage import Option, grouped, optionsOf

# The commands by what they are for, those that are used most first; what is in none of the groups comes last.
_GROUPS = {
    "Begin": ("init", "check", "connect"),
    "Publish and watch": ("broadcast", "publish", "tail", "top", "disconnect"),
    "Say who may do what": ("token", "explain", "password"),
    "Run": ("reload", "upgrade", "bench"),
    "Describe": ("asyncapi", "completion"),
}
_OTHERS = "More"


class Command(NamedTuple):
    """One command, or one task of a command.

    Attributes:
        name: as it is written, such as ``token make``; "" for the server.
        purpose: what it does, in a few words.
        synopsis: the command line, without ``Usage:``.
        about: what it does, in full.
        groups: its options by the title of their group.
        argument: what follows the options: "file", "directory", the words that there are, or "" for what cannot be completed.
        examples: command lines.
    """

    name: str
    purpose: str
    synopsis: str
    about: str
    groups: Sequence[tuple[str, list[Option]]]
    argument: str | Sequence[str]
    examples: str

    @property
    def options(self) -> list[Option]:
        """All its options."""
        return [each for _, options in self.groups for each in options]


def commandGroups(commands: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of commands by what they are for."""
    left = dict(commands)
    for title, names in _GROUPS.items():
        found = [name for name in names if left.pop(name, None) is not None]
        if found:
            yield title, found
    if left:
        yield _OTHERS, [*left]


def everyCommand(commands: dict[str, str]) -> Iterator[Command]:
    """Yield the server and all commands; one that has tasks is yielded once for each of them.

    Args:
        commands: their purposes by name (`twisted_ws.commands.main.COMMANDS`).
    """
    from twisted_ws.daemon.options import ServiceOptions

    yield _described("", "start the server", ServiceOptions)
    for _, names in commandGroups(commands):
        for name in names:
            module = import_module(f"twisted_ws.commands.{name}")
            tasks: Sequence[str] = getattr(module, "TASKS", ())
            for task in tasks:
                found = import_module(f"{module.__name__}.{task}")
                yield _described(f"{name} {task}", commands[name], _optionsIn(found))
            if not tasks:
                yield _described(name, commands[name], _optionsIn(module))


def _optionsIn(module: ModuleType) -> type[Options]:
    """Return the class of the options of a command: the only one that its module makes."""
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Options) and each.__module__ == module.__name__
    )
    return found


def _described(name: str, purpose: str, kind: type[Options]) -> Command:
    options = kind()
    synopsis = str(getattr(options, "synopsis", "")).removeprefix("Usage: ")
    return Command(
        name,
        purpose,
        synopsis if name else "twisted-ws [options]",
        str(getattr(options, "longdesc", "")),
        [*grouped(optionsOf(options), getattr(options, "groups", {}))],
        getattr(options, "argument", ""),
        str(getattr(options, "examples", "")),
    )
