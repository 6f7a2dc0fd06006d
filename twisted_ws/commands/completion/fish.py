"""The completion for fish 3 and newer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from twisted_ws.commands.guide.catalogue import Command
from twisted_ws.usage import Option

_HEAD = """\
# Completion of twisted-ws for fish, as written by: twisted-ws completion fish
function __twisted_ws_is
    # Whether the command that is typed is this one; without an argument, whether there is none yet.
    set -l words (commandline -opc)
    set -e words[1]
    if test (count $argv) -eq 0
        not string match -q -r '^[a-z]' -- $words[1]
    else if test (count $words) -lt (count $argv)
        false
    else
        test "$words[1..$(count $argv)]" = "$argv"
    end
end

complete -c twisted-ws -f
"""


def script(commands: Sequence[Command], purposes: Mapping[str, str]) -> str:
    """Return the script."""
    return _HEAD + "\n".join(_lines(commands, purposes)) + "\n"


def _lines(commands: Sequence[Command], purposes: Mapping[str, str]) -> Iterator[str]:
    for name, purpose in purposes.items():
        yield f"complete -c twisted-ws -n __twisted_ws_is -a {name} -d {_quoted(purpose)}"
    tasks = [each.name.split() for each in commands if " " in each.name]
    for name in dict.fromkeys(name for name, _ in tasks):
        mine = " ".join(task for each, task in tasks if each == name)
        others = "; and ".join(f"not __twisted_ws_is {name} {task}" for each, task in tasks if each == name)
        yield f"complete -c twisted-ws -n {_quoted(f'__twisted_ws_is {name}; and {others}')} -a {_quoted(mine)}"
    for command in commands:
        condition = _quoted(f"__twisted_ws_is {command.name}".rstrip())
        for option in command.options:
            yield f"complete -c twisted-ws -n {condition} {_option(option)}"
        if command.argument in ("file", "directory"):
            files = "-F" if command.argument == "file" else "-a '(__fish_complete_directories)'"
            yield f"complete -c twisted-ws -n {condition} {files}"
        elif command.argument:
            yield f"complete -c twisted-ws -n {condition} -a {_quoted(' '.join(command.argument))}"


def _option(option: Option) -> str:
    words = [f"-l {option.name}"]
    if option.short:
        words.append(f"-s {option.short}")
    if option.choices:
        words.append(f"-x -a {_quoted(' '.join(option.choices))}")
    elif option.value == "FILE":
        words.append("-r -F")
    elif option.value == "DIRECTORY":
        words.append("-x -a '(__fish_complete_directories)'")
    elif option.value:
        words.append("-x")
    return f"{' '.join(words)} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
