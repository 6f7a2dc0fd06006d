from __future__ import annotations

import re
from pathlib import Path

import pytest
from twisted.python.usage import UsageError

from twisted_ws.commands.broadcast import BroadcastOptions
from twisted_ws.commands.connect import ConnectOptions
from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions


def test_anyOrder() -> None:
    """Options may stand before and behind the arguments, short ones together, and ``--`` ends them."""
    options = ConnectOptions()
    options.parseOptions(["-jb", "ws://localhost", "--header", "A: 1", "--header=B: 2", "-n", "--time", "5"])
    assert (options["url"], options["json"], options["binary"], options["no-stdin"]) == ("ws://localhost", 1, 1, 1)
    assert options["header"] == ["A: 1", "B: 2"]
    assert options["timeout"] == 5
    posted = BroadcastOptions()
    posted.parseOptions(["-f", "", "http://localhost"])
    assert posted["file"] == ""
    posted = BroadcastOptions()
    posted.parseOptions(["http://localhost", "--", "-b"])
    assert (posted["message"], posted["binary"]) == ("-b", 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give one URL"),
        (["a", "b"], "give one URL"),
        (["a", "--timeout"], "requires an argument"),
        (["a", "--timeout", "0"], "--timeout must be a number of seconds, 0.001 or more, not '0'"),
        (["a", "--wait", "nan"], "--wait must be a number of seconds, not 'nan'"),
        (["a", "--wait", "-1"], "--wait must be a number of seconds, not '-1'"),
        (
            ["a", "--max-message-size", "big"],
            "--max-message-size must be a number of bytes such as 65536, 64KiB or 1MiB, not 'big'",
        ),
        (["a", "--max-message-size", "0"], "must be a number of bytes"),
        (["a", "-nw"], "--no-stdin cannot be combined"),
    ],
    ids=str,
)
def test_mistakes(arguments: list[str], text: str) -> None:
    """What cannot be understood is reported in one line."""
    with pytest.raises(UsageError) as raised:
        ConnectOptions().parseOptions(arguments)
    assert text in str(raised.value)


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64KiB", 65536), ("2m", 2 << 20), ("1 GB", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    """Sizes are written as in the server's options."""
    options = ConnectOptions()
    options.parseOptions(["--max-message-size", text, "ws://localhost"])
    assert options["max-message-size"] == size


@pytest.mark.parametrize("kind", [ConnectOptions, BroadcastOptions])
def test_defaults(kind: type[CommandOptions]) -> None:
    """The help of each command shows defaults in the same form as the server's."""
    text = kind().getUsage()
    assert "[20]" in text
    assert "default:" not in text


@pytest.mark.parametrize("kind", [ConnectOptions, BroadcastOptions])
def test_help(kind: type[CommandOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    """The help names the command, has examples, and fits in 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    text = str(kind())
    assert text.startswith("Usage: twisted-ws ")
    assert "\nExamples:\n  twisted-ws " in text
    assert max(map(len, text.splitlines())) <= 80


def test_documented() -> None:
    """The reference has every option of both commands, and every exit code."""
    page = (Path(__file__).parent.parent.parent / "docs" / "reference" / "command-line.md").read_text()
    for options in (ConnectOptions(), BroadcastOptions()):
        for name in options.longOpt:
            assert re.search(rf"`(?:-., `)?--{name.rstrip('=')}[ `]", page), name
    codes = page[page.index("## Exit codes") :]
    for code in Exit:
        assert re.search(rf"^\|[^|]*\b{code.value}\b", codes, re.MULTILINE), code


def test_noExamples() -> None:
    """A command need not have examples."""
    assert "Examples" not in str(CommandOptions())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version of the package."""
    with pytest.raises(SystemExit):
        ConnectOptions().parseOptions(["--version"])
    assert capsys.readouterr().out.startswith("twisted_ws ")
