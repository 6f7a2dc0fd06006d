"""The arguments for `twisted_ws.client.connect`, from the options of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted_ws.client import Basic, Bearer, Retry, Store
from twisted_ws.commands.secrets import header, headersIn, secret
from twisted_ws.errors import ConfigurationError

# Headers that are often secret.
_SECRET = ("authorization", "proxy-authorization", "cookie")


def headers(texts: list[str], note: Callable[[str], None]) -> list[tuple[str, str]]:
    """Return the headers, from ``Name: value`` or from ``@FILE`` with one on each line.

    Args:
        texts: the options' values.
        note: called with a warning about a secret that everybody can read.

    Raises:
        ConfigurationError: a header cannot be used.
    """
    found: list[tuple[str, str]] = []
    for text in texts:
        if text.startswith("@"):
            found += headersIn(text[1:])
            continue
        name, value = header(text)
        if name.lower() in _SECRET:
            note(f"every user of this machine can read the {name} on the command line: put it into a file for --header @FILE")
        found.append((name, value))
    return found


def credentials(
    options: Mapping[str, Any], tokenOption: str, readToken: Callable[[str | None], str | None]
) -> Basic | Bearer | None:
    """Return the user's credentials: from a file if one is given, otherwise from the environment; None without any.

    Args:
        options: those of the command.
        tokenOption: the option for the file with the token.
        readToken: returns the token in a file, or without one the environment's.

    Raises:
        ConfigurationError: two are given, or a file cannot be used.
    """
    user, token = options["user-file"], options[tokenOption]
    if user is not None and token is not None:
        raise ConfigurationError(f"--user-file and --{tokenOption} both give credentials: use one of them.")
    if user is None and (found := readToken(token)) is not None:
        return Bearer(found)
    found = secret(user, "TWISTED_WS_USER", "user file")
    if found is None:
        return None
    name, colon, password = found.partition(":")
    if not colon:
        raise ConfigurationError("--user-file (or TWISTED_WS_USER) has no colon: write user:password.")
    return Basic(name, password)


def store(options: Mapping[str, Any], name: str, passwordName: str) -> Store | None:
    """Return the certificate file that an option names, with its password; None without the option.

    Args:
        options: those of the command.
        name: the option.
        passwordName: the first part of the name of the option for its password.

    Raises:
        ConfigurationError: a password is given without a file, or cannot be read.
    """
    path, password = options[name], options[f"{passwordName}-password-file"]
    if path is None:
        if password is not None:
            raise ConfigurationError(f"--{passwordName}-password-file is the password of a file: give --{name} too.")
        return None
    variable = f"TWISTED_WS_{passwordName.replace('-', '_').upper()}_PASSWORD"
    return Store(path, secret(password, variable, f"{name} password file"))


def connectArguments(options: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """Return the arguments.

    Args:
        options: those of ``twisted-ws connect``.
        note: called with what the user should know.

    Raises:
        ConfigurationError: a file or an option cannot be used.
        ValueError: credentials cannot be used.
    """
    given = headers(options["header"], note)
    arguments: dict[str, Any] = {
        "subProtocols": options["subprotocol"],
        "headers": given,
        "credentials": None,
        "compression": bool(options["compression"]),
        "retry": Retry() if options["retry"] else None,
        "trustStore": store(options, "trust-store", "trust-store"),
        "clientCertificate": store(options, "client-certificate", "client"),
        "verify": not options["insecure"],
        # More than the longest line, and the lines that come with it.
        "writeBuffer": 128 * 1024 * 1024,
    }
    isNamed = options["user-file"] is not None or options["token-file"] is not None
    if isNamed or not any(name.lower() == "authorization" for name, _ in given):  # a header overrules the environment
        arguments["credentials"] = credentials(options, "token-file", lambda path: secret(path, "TWISTED_WS_TOKEN", "token file"))
    if options["timeout"] is not None:
        arguments["handshakeTimeout"] = options["timeout"]
    if options["max-message-size"] is not None:
        arguments["maxMessageSize"] = options["max-message-size"]
    if options["ping"] == 0:
        arguments["pingInterval"] = 0
    return arguments
