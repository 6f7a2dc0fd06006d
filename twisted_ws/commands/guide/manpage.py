"""The manual page twisted-ws(1), in the macros of man(7)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from twisted_ws import __version__
from twisted_ws.commands.guide.catalogue import Command
from twisted_ws.usage import Option

# What each exit code means; the reference says more.
EXITS = {
    "0": "success; for connect, a close with 1000, 1001 or without a code",
    "1": "something is wrong with what was given or found: settings, input, a refused token",
    "2": "an option, a URL or a file cannot be used; with check --strict, there are warnings",
    "3": "the server cannot be reached",
    "4": "TLS: the certificate is not trusted, or the server does not speak TLS",
    "5": "refused, and again the next time",
    "6": "refused for now",
    "7": "no answer in time",
    "8": "the server does not speak WebSocket or HTTP",
    "12-24": "closed with 1002 to 1014: the close code minus 990",
    "30, 40": "closed with a code of 3000 to 3999, of 4000 to 4999",
    "129, 130, 141, 143": "ended by a signal",
}
_ENVIRONMENT = {
    "TWISTED_WS_API_KEY": "the API key, if there is no --key-file",
    "TWISTED_WS_TOKEN": "the bearer token, if there is no --token-file",
    "TWISTED_WS_USER": "user:password, if there is no --user-file",
    "TWISTED_WS_TRUST_STORE_PASSWORD, TWISTED_WS_CLIENT_PASSWORD": "passwords of --trust-store and --client-certificate",
    "TWISTED_WS_KEY_STORE_PASSWORD": "that of --key-store",
    "TWISTED_WS_SPEEDUPS": "0 leaves the compiled part out",
    "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY": "the proxy of the commands that talk to a server",
    "NO_COLOR": "no colours",
    "XDG_STATE_HOME": "where the self-signed certificate, the control socket and the lines that were typed are kept",
}


def manPage(commands: Iterable[Command]) -> str:
    """Return the page.

    Args:
        commands: the server first, then all commands (see `everyCommand`).
    """
    return "\n".join(_lines(*commands)) + "\n"


def _lines(server: Command, *commands: Command) -> Iterator[str]:
    yield f'.TH TWISTED-WS 1 "" "twisted_ws {__version__}" "User commands"'
    yield ".nh"
    yield ".SH NAME"
    yield r"twisted-ws \- a WebSocket service server, and commands around it"
    yield ".SH SYNOPSIS"
    yield from _synopsis(server)
    for command in commands:
        yield ".br"
        yield from _synopsis(command)
    yield ".SH DESCRIPTION"
    yield _text(server.about)
    yield ".SH COMMANDS"
    for command in commands:
        yield f'.SS "{_text(command.name)}"'
        yield _text(command.about)
        for option in command.options:
            yield from _option(option)
        if command.examples:
            yield ".PP"
            yield "Examples:"
            yield from _examples(command.examples)
    yield '.SH "OPTIONS OF THE SERVER"'
    for title, options in server.groups:
        yield f'.SS "{_text(title)}"'
        for option in options:
            yield from _option(option)
    yield '.SH "EXIT STATUS"'
    yield from _table(EXITS)
    yield ".SH ENVIRONMENT"
    yield from _table(_ENVIRONMENT)
    yield '.SH "SEE ALSO"'
    yield ".BR twistd (1)"


def _synopsis(command: Command) -> Iterator[str]:
    words = ["twisted-ws", *command.name.split()]
    rest = command.synopsis.removeprefix(" ".join(words)).strip()
    yield rf".B {_text(' '.join(words))}"
    yield _text(rest)


def _option(option: Option) -> Iterator[str]:
    yield ".TP"
    names = [f"-{option.short}"] if option.short else []
    spelt = ", ".join(rf"\fB{_text(name)}\fR" for name in (*names, f"--{option.name}"))
    yield spelt + (rf"=\fI{_text(option.value)}\fR" if option.value else "")
    yield _text(option.help)


def _examples(text: str) -> Iterator[str]:
    yield ".PP"
    yield ".nf"
    yield ".RS"
    for line in inspect.cleandoc(text).splitlines():
        yield _text(line)
    yield ".RE"
    yield ".fi"


def _table(rows: dict[str, str]) -> Iterator[str]:
    for name, meaning in rows.items():
        yield ".TP"
        yield rf"\fB{_text(name)}\fR"
        yield _text(meaning)


def _text(text: str) -> str:
    """Return a text in which nothing is a request or an escape, and every hyphen is one that can be copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga").replace("~", r"\(ti")
    escaped = escaped.replace("^", r"\(ha")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
