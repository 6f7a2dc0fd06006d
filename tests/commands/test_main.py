from __future__ import annotations

import sys
from importlib import import_module

import pytest

from twisted_ws.commands import connect
from twisted_ws.commands.main import COMMANDS, main
from twisted_ws.daemon import main as daemon


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first word is the command, which gets the rest, and whose exit code it is."""
    module = import_module(f"twisted_ws.commands.{command}")
    monkeypatch.setattr(module, "main", lambda arguments: len(arguments))
    assert main([command, "--json", "x"]) == 2
    monkeypatch.setattr(sys, "argv", ["twisted-ws", command])
    assert main() == 0
    monkeypatch.undo()
    if command == "check":  # whose report has it
        return
    assert main([command, "--no-such-option"]) == 2
    assert capsys.readouterr().err.endswith(f"(see twisted-ws {command} --help)\n")


def test_interruptedEarly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a command still loads shows no traceback."""

    def interrupt(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(connect, "main", interrupt)
    assert main(["connect"]) == 130


@pytest.mark.parametrize("arguments", [[], ["--port", "5"], ["--config", "connect"]])
def test_server(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is the server's."""
    served: list[list[str]] = []
    monkeypatch.setattr(daemon, "main", lambda arguments: served.append(arguments) or 0)
    assert main(arguments) == 0
    assert served == [arguments]


@pytest.mark.parametrize(
    ("word", "mend"),
    [
        ("conect", "did you mean connect?"),
        ("serve", f"the commands are {', '.join([*COMMANDS][:-1])} and {[*COMMANDS][-1]}; without one, the server starts"),
    ],
)
def test_unknown(word: str, mend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error tells an unknown command from a wrong option."""
    assert main([word, "ws://localhost/ws"]) == 2
    assert capsys.readouterr().err == f"twisted-ws: there is no command '{word}': {mend} (see twisted-ws --help)\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help has the server's options, and the commands."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--broadcast-port" in text
    words = " ".join(text.split())
    for command, purpose in COMMANDS.items():
        assert f" {command} {purpose}" in words
    assert max(map(len, text.splitlines())) <= 80
