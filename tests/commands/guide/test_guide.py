from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import pytest

from tests.commands.support import COMMAND, command
from tests.live.nursery import run
from tests.live.support import PATIENCE, environment
from twisted_ws.commands.completion import SHELLS, script
from twisted_ws.commands.exits import Exit
from twisted_ws.commands.guide.catalogue import Command, commandGroups, everyCommand
from twisted_ws.commands.guide.manpage import EXITS, manPage
from twisted_ws.commands.main import COMMANDS
from twisted_ws.daemon.groups import groups
from twisted_ws.daemon.settings import KEYS
from twisted_ws.usage import Option, entry, grouped

ROOT = Path(__file__).parents[3]
HOSTILE = 'it\'s `x` "$(y)" \\z [a]:b %s 100% {c} .d -- ~e ^f | g; #h'


def test_whatIsShippedIsCurrent() -> None:
    """The manual page and the completion below share/ are what the commands would make now; if not, run tools/guide."""
    made = runpy.run_path(str(ROOT / "tools" / "guide"), {"__name__": "not main"}, "checked")
    shipped = {name: (ROOT / "share" / name).read_text() for name in made["texts"]}
    assert shipped == made["texts"]
    assert {str(each.relative_to(ROOT / "share")) for each in (ROOT / "share").rglob("*") if each.is_file()} == {*shipped}


def test_eachCommandIsThereOnce() -> None:
    """Each command is in one group, and its options are those that it takes."""
    listed = [name for _, names in commandGroups(COMMANDS) for name in names]
    assert sorted(listed) == sorted(COMMANDS)
    commands = [*everyCommand(COMMANDS)]
    assert commands[0].name == ""
    assert {each.name.partition(" ")[0] for each in commands[1:]} == {*COMMANDS}
    for each in commands:
        names = [option.name for option in each.options]
        assert sorted({*names}) == sorted(names), each.name
        assert {"help", "version"} <= {*names}
        assert each.about
        if each.name:
            assert each.synopsis.startswith(f"twisted-ws {each.name}")


def test_eachSettingIsInOneGroup() -> None:
    """The settings of the server are all grouped, each once."""
    found = [key.name for _, keys in groups() for key in keys]
    assert sorted(found) == sorted(key.name for key in KEYS)
    assert "More" not in [title for title, _ in groups()]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(tmp_path: Path, shell: str) -> None:
    """The command prints what is shipped, and refuses a shell that it does not know."""
    done = command(tmp_path, "completion", shell)
    assert (done.code, done.err, done.out.decode()) == (0, "", script(shell))
    done = command(tmp_path, "completion", "tcsh")
    assert (done.code, done.out) == (2, b"")


@pytest.mark.parametrize("name", ["", *(each.name for each in everyCommand(COMMANDS) if each.name)])
def test_helpFitsATerminal(tmp_path: Path, name: str) -> None:
    """The help of each command has all its options by group, says what it is, and fits in 80 columns but for examples."""
    done = command(tmp_path, *name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    found = next(each for each in everyCommand(COMMANDS) if each.name == name)
    for option in found.options:
        assert f"--{option.name}" in text
    assert text.startswith("Usage: twisted-ws")
    assert max(map(len, text.partition("\nExamples:")[0].splitlines())) <= 80


def test_theReaderGoes(tmp_path: Path) -> None:
    """If the reader of what a command prints goes, that is exit code 141, without a traceback."""
    read, write = os.pipe()
    os.close(read)
    try:
        for words in (["--help"], ["check"], ["completion", "bash"]):
            done = run([*COMMAND, *words], PATIENCE, cwd=tmp_path, env=environment(tmp_path), stdout=write)
            assert (done.returncode, done.stderr) == (141, b""), words
    finally:
        os.close(write)


def test_exitCodes() -> None:
    """The manual page has every exit code of the commands."""
    text = ", ".join(EXITS)
    for code in Exit:
        assert re.search(rf"\b{code.value}\b", text), code


def test_groups() -> None:
    """Options that are in no group come last, before the help and the version."""
    options = [Option(name, "", "", "") for name in ("help", "a", "b", "version", "c")]
    assert [
        (title, [each.name for each in found]) for title, found in grouped(options, {"One": ("b", "none"), "Empty": ("x",)})
    ] == [
        ("One", ["b"]),
        ("More", ["a", "c", "help", "version"]),
    ]
    assert [title for title, _ in grouped(options, {})] == ["Options"]


def test_columns() -> None:
    """What does not fit beside an option goes below it, and nothing is wider than the terminal."""
    assert [*entry("  --a", "one two three", 20, 10)] == ["  --a     one two", "          three"]
    assert [*entry("  --a-long-one", "one two", 20, 10)] == ["  --a-long-one", "          one two"]
    assert [*entry("  --a", "", 20, 10)] == ["  --a"]


def test_anyText() -> None:
    """A text with the signs of all shells and of roff is a text in each of them."""
    option = Option("name", "n", "FILE", HOSTILE)
    odd = Command("odd", HOSTILE, "twisted-ws odd", HOSTILE, [("Options", [option])], "file", HOSTILE)
    server = odd._replace(name="")
    page = manPage([server, odd])
    assert not [line for line in page.splitlines() if line.startswith("'")]
    assert "\\(aq" in page
