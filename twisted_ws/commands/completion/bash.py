"""The completion for bash 4.4 and newer; the package bash-completion is not needed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from twisted_ws.commands.guide.catalogue import Command

_HEAD = """\
# Completion of twisted-ws for bash, as written by: twisted-ws completion bash
_twisted_ws_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_twisted_ws_files() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}

_twisted_ws() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=
    COMPREPLY=()
    # bash takes --option=value for three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
"""
_TAIL = """\
}
complete -F _twisted_ws twisted-ws
"""


def script(commands: Sequence[Command], purposes: Mapping[str, str]) -> str:
    """Return the script."""
    return _HEAD + "\n".join(f"    {line}".rstrip() for line in _body(commands, purposes)) + "\n" + _TAIL


def _body(commands: Sequence[Command], purposes: Mapping[str, str]) -> Iterator[str]:
    tasks: dict[str, list[str]] = {}
    for each in commands:
        name, _, task = each.name.partition(" ")
        if task:
            tasks.setdefault(name, []).append(task)
    yield "if ((COMP_CWORD > 1)); then"
    yield "    case ${COMP_WORDS[1]} in"
    yield f"        {'|'.join(name for name in purposes if name not in tasks)}) command=${{COMP_WORDS[1]}} ;;"
    for name, mine in tasks.items():
        yield f"        {name})"
        yield f'            ((COMP_CWORD == 2)) && {{ _twisted_ws_words "{" ".join(mine)}"; return; }}'
        yield f'            command="{name} ${{COMP_WORDS[2]}}"'
        yield "            ;;"
    yield "    esac"
    yield "fi"
    yield 'case "$command $prev" in'
    for command in commands:
        yield from _values(command)
    yield "esac"
    yield 'case "$command" in'
    for command in commands:
        yield f"    {_quoted(command.name)})"
        words = " ".join(f"--{option.name}" for option in command.options)
        yield f'        if [[ $cur == -* ]]; then _twisted_ws_words "{words}"'
        if not command.name:
            yield f'        elif ((COMP_CWORD == 1)); then _twisted_ws_words "{" ".join(purposes)}"'
        elif command.argument in ("file", "directory"):
            yield f"        else _twisted_ws_files {'-f' if command.argument == 'file' else '-d'}"
        elif command.argument:
            yield f'        else _twisted_ws_words "{" ".join(command.argument)}"'
        yield "        fi"
        yield "        ;;"
    yield "esac"


def _values(command: Command) -> Iterator[str]:
    """Yield what completes the values of a command's options; those that nobody can know are left empty."""
    kinds: dict[str, list[str]] = {}
    for option in command.options:
        if not option.value:
            continue
        if option.choices:
            action = f'_twisted_ws_words "{" ".join(option.choices)}"'
        elif option.value == "FILE":
            action = "_twisted_ws_files -f"
        elif option.value == "DIRECTORY":
            action = "_twisted_ws_files -d"
        else:
            action = ":"
        names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
        kinds.setdefault(action, []).extend(_quoted(f"{command.name} {name}") for name in names)
    for action, patterns in kinds.items():
        yield f"    {'|'.join(patterns)}) {action}; return ;;"


def _quoted(text: str) -> str:
    return shlex.quote(text)
