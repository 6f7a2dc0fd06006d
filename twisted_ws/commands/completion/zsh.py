"""The completion for zsh: a function for the server and for each command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from twisted_ws.commands.guide.catalogue import Command
from twisted_ws.usage import Option

# Completes words, not values, with nothing: with a message in its place, options would be listed instead of completed.
_NOTHING = "{:}"


def script(commands: Sequence[Command], purposes: Mapping[str, str]) -> str:
    """Return the script, which may be sourced, or be the file ``_twisted-ws`` in the search path of functions."""
    return "\n".join(_lines(commands, purposes)) + "\n"


def _lines(commands: Sequence[Command], purposes: Mapping[str, str]) -> Iterator[str]:
    yield "#compdef twisted-ws"
    yield "# Completion of twisted-ws for zsh, as written by: twisted-ws completion zsh"
    for command in commands:
        yield ""
        yield f"{_function(command.name)}() {{"
        yield "    _arguments -s -S \\"
        yield " \\\n".join(f"        {each}" for each in [*map(_option, command.options), *_arguments(command)])
        yield "}"
    tasks = [each.name.split() for each in commands if " " in each.name]
    for name in dict.fromkeys(name for name, _ in tasks):
        yield ""
        yield f"{_function(name)}() {{"
        yield "    if (( CURRENT == 2 )); then"
        yield f"        compadd {' '.join(task for each, task in tasks if each == name)}"
        yield "    else"
        yield '        local task="_twisted_ws_${words[1]}_${words[2]}"'
        yield "        (( CURRENT-- ))"
        yield "        shift words"
        yield "        (( $+functions[$task] )) && $task"
        yield "    fi"
        yield "}"
    yield ""
    yield "_twisted_ws_commands() {"
    yield "    local -a commands=("
    for name, purpose in purposes.items():
        yield f"        {_quoted(f'{name}:{purpose}')}"
    yield "    )"
    yield "    _describe -t commands command commands"
    yield "}"
    yield ""
    yield "_twisted-ws() {"
    yield '    local command="_twisted_ws_${words[2]}"'
    yield "    if (( CURRENT > 2 )) && [[ $words[2] == [a-z]* ]] && (( $+functions[$command] )); then"
    yield "        (( CURRENT-- ))"
    yield "        shift words"
    yield "        $command"
    yield "    else"
    yield "        _twisted_ws_server"
    yield "    fi"
    yield "}"
    yield ""
    yield "# In the search path, this file is the function; sourced, it is not."
    yield 'if [[ ${funcstack[1]-} == _twisted-ws ]]; then _twisted-ws "$@"; else compdef _twisted-ws twisted-ws; fi'


def _function(name: str) -> str:
    return f"_twisted_ws_{name.replace(' ', '_') or 'server'}"


def _option(option: Option) -> str:
    said = f"[{_escaped(option.help)}]"
    value = f":{option.value}:{_action(option)}" if option.value else ""
    long = f"--{option.name}{'=' if option.value else ''}"
    if option.repeats:
        return _quoted(f"*{long}{said}{value}")
    if not option.short:
        return _quoted(f"{long}{said}{value}")
    # Either of the two, once.
    both = f"(-{option.short} --{option.name})"
    names = f"{{-{option.short}{'+' if option.value else ''},{long}}}"
    return f"{_quoted(both)}{names}{_quoted(said + value)}"


def _action(option: Option) -> str:
    if option.choices:
        return f"({' '.join(option.choices)})"
    return {"FILE": "_files", "DIRECTORY": "_files -/"}.get(option.value, "")


def _arguments(command: Command) -> list[str]:
    """Return what completes the words that are no options; nothing where nobody can know."""
    if not command.name:
        return ["'1: :_twisted_ws_commands'"]
    if command.argument in ("file", "directory"):
        return [f"'*: :_files{' -/' if command.argument == 'directory' else ''}'"]
    first = [f"'1: :({' '.join(command.argument)})'"] if command.argument else []
    return [*first, f"'*: :{_NOTHING}'"]


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
