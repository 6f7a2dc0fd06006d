"""The completion in real shells, and the manual page as man shows it."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, environment

SHARE = Path(__file__).parents[3] / "share"
BASH = SHARE / "bash-completion" / "completions" / "twisted-ws"
ZSH = SHARE / "zsh" / "site-functions" / "_twisted-ws"
FISH = SHARE / "fish" / "vendor_completions.d" / "twisted-ws.fish"

# What is typed, and what it may become.
CASES = [
    ("ch", {"check"}),
    ("check --stri", {"--strict"}),
    ("--config push.toml --tls-mini", {"--tls-minimum"}),
    ("check --tls-minimum ", {"1.2", "1.3"}),
    ("--log-format=", {"text", "json"}),
    ("token m", {"make"}),
    ("token make --key-f", {"--key-file"}),
    ("token check --config push.toml to", {"token file"}),
    ("explain --user ann pub", {"publish"}),
    ("connect --token-file to", {"token file"}),
    ("init --auth ", {"jwt", "http", "none"}),
    ("init di", {"directory"}),
    ("completion z", {"zsh"}),
    ("connect ws://localhost/ --token-f", {"--token-file"}),
    ("connect --timeout ", set()),
    ("reload --proc", {"--process"}),
]
EACH = pytest.mark.parametrize(("typed", "expected"), CASES, ids=[typed for typed, _ in CASES])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a file and a directory whose names can be completed."""
    (tmp_path / "token file").write_text("")
    (tmp_path / "directory").mkdir()
    return tmp_path


def said(place: Path, *words: str) -> str:
    """Return what a program prints; it prints no error."""
    done = subprocess.run(words, cwd=place, env=environment(place), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stderr == ""
    return done.stdout


@EACH
def test_bash(place: Path, typed: str, expected: set[str]) -> None:
    """Bash completes commands, tasks, options, values and files."""
    words = re.findall(r"=|[^\s=]+", typed) + ([""] if typed.endswith(" ") else [])
    script = f"""
        source {shlex.quote(str(BASH))}
        compopt() {{ :; }}
        COMP_WORDS=(twisted-ws {" ".join(shlex.quote(word) for word in words)})
        COMP_CWORD={len(words)}
        _twisted_ws
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = said(place, "bash", "--norc", "-c", script)
    assert {line for line in found.splitlines() if line} == expected


@EACH
def test_fish(place: Path, typed: str, expected: set[str]) -> None:
    """Fish completes the same."""
    if typed == "init di":
        expected = {"directory/"}
    found = said(place, "fish", "--no-config", "-c", f"source {FISH}; complete -C {shlex.quote(f'twisted-ws {typed}')}")
    assert {line.partition("\t")[0].removeprefix("--log-format=") for line in found.splitlines()} == expected


def test_descriptions(place: Path) -> None:
    """Fish shows what each command and each option is for."""
    found = said(
        place, "fish", "--no-config", "-c", f"source {FISH}; complete -C 'twisted-ws '; complete -C 'twisted-ws check --c'"
    )
    assert "check\tsay what a server with these options would be" in found
    assert "--connect\talso ask those that the server would ask" in found


class Shell:
    """A shell on a terminal."""

    def __init__(self, place: Path, *command: str) -> None:
        process, self._master = pty.fork()
        if not process:
            os.chdir(place)
            os.execvpe(command[0], list(command), {**environment(place), "TERM": "xterm", "PS1": "READY> ", "COLUMNS": "200"})
        self._process = process
        self.text = ""

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def expect(self, pattern: str) -> None:
        """Wait until what the shell has written since the last call has something like this."""
        until = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < until, self.text
            if select.select([self._master], [], [], 1)[0]:
                raw = os.read(self._master, 65536).decode(errors="replace")
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[\r\x07]", "", raw)
        self.text = self.text[found.end() :]

    def end(self) -> None:
        """Kill it."""
        os.kill(self._process, 9)
        os.waitpid(self._process, 0)
        os.close(self._master)


def test_bashByHand(place: Path) -> None:
    """In bash on a terminal, the tab key completes a command, then an option, and quotes a file with a blank."""
    shell = Shell(place, "bash", "--norc", "--noprofile", "-i")
    try:
        shell.expect("READY> ")
        shell.type(f"source {shlex.quote(str(BASH))}; bind 'set enable-bracketed-paste off'; echo LOADED\n")
        shell.expect("LOADED\n")
        shell.expect("READY> ")
        shell.type("twisted-ws conn\t")
        shell.expect("twisted-ws connect ")
        shell.type("--token-f\t")
        shell.expect("--token-file ")
        shell.type("tok\t")
        shell.expect(r"token\\ file ")
    finally:
        shell.end()


@pytest.mark.parametrize("how", ["sourced", "found"])
def test_zsh(place: Path, how: str) -> None:
    """Zsh completes the same, from a file that is sourced or from its search path; where there are several, it lists them."""
    # The first shell keeps what it has found in its search path, and the others read that.
    setting = f"autoload -Uz compinit; compinit -u -d {shlex.quote(str(place / 'dump'))}; unsetopt AUTO_MENU"
    if how == "sourced":
        setting = f"{setting}; source {shlex.quote(str(ZSH))}"
    else:
        setting = f"fpath=({shlex.quote(str(ZSH.parent))} $fpath); {setting}"
    for typed, expected in CASES if how == "sourced" else CASES[:2]:
        if not expected:
            continue
        shell = Shell(place, "zsh", "-f", "-i")
        try:
            shell.expect("READY> ")
            shell.type(f"{setting}; print LOA''DED\n")
            shell.expect("LOADED\n")
            shell.expect("READY> ")
            # The first key may only add what all of them begin with.
            shell.type(f"twisted-ws {typed}\t" + ("\t" if len(expected) > 1 else ""))
            if len(expected) == 1:
                whole = next(iter(expected)).replace(" ", r"\ ")
                before = "" if typed.endswith(" ") else typed.split()[-1]
                shell.expect(f"twisted-ws {re.escape(typed)}{re.escape(whole.removeprefix(before))}")
            else:
                shell.expect("(?s)" + "".join(f"(?=.*{re.escape(each)})" for each in expected))
        finally:
            shell.end()


def test_theManualPage(place: Path) -> None:
    """Man shows the page without a warning, and it has each command with its options."""
    page = SHARE / "man" / "man1" / "twisted-ws.1"
    shown = said(place, "man", "--warnings", "-E", "UTF-8", "-l", str(page))
    text = re.sub(r".\x08", "", shown)
    words = " ".join(text.split())
    for said_ in (
        "TWISTED-WS(1)",
        "twisted-ws token make [options] > FILE",
        "--yes-it-is-mine",
        "--key-store-password-file=FILE",
    ):
        assert said_ in words
    # In a terminal it can be copied: no hyphen is a dash, and no quotation mark is curly.
    assert text.isascii()
