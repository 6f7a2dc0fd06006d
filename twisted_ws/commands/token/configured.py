"""The authenticators for tokens of a configuration file, as the commands need them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.tokens.presets import completed
from twisted_ws.daemon.lines import lineOf
from twisted_ws.daemon.loading.authenticators import makeAuthenticators
from twisted_ws.daemon.settings import load, merge
from twisted_ws.errors import ConfigurationError

# Where keys are; an authenticator has one of these.
KEYS = ("secret-file", "key-file", "jwks")


class Configured:
    """The authenticators of the type ``jwt`` that a configuration file has.

    Args:
        path: the file.

    Raises:
        ConfigurationError: it cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._settings = merge(load(os.path.abspath(path)), {})
        self._text = Path(path).read_text(encoding="utf-8")
        self._tables: dict[str, Mapping[str, Any]] = {
            name: completed(table, f"authenticators.{name}")
            for name, table in self._settings.authenticators.items()
            if table["type"] == "jwt"
        }

    @property
    def areRemote(self) -> bool:
        """Whether there are keys that have to be fetched, for which a reactor has to run."""
        flags = any(each.startswith("jwt:") and "jwks=" in each for each in self._settings.authenticate)
        return flags or any("jwks" in table for table in self._tables.values())

    @property
    def first(self) -> str:
        """The name of the first authenticator in the file.

        Raises:
            ConfigurationError: there is none.
        """
        if not self._tables:
            raise ConfigurationError(f"{self._path} has no authenticator of the type jwt.")
        return next(iter(self._tables))

    def make(self, name: str | None) -> dict[str, JWTAuthenticator]:
        """Return the authenticators by name, in their order; only the one that is named, if one is.

        Raises:
            ConfigurationError: there is none, or its options are wrong.
        """
        reactor: Any = None
        if self.areRemote:
            from twisted.internet import reactor
        made: Any = makeAuthenticators(self._settings, reactor, ("jwt",))[1]
        if not made:
            raise ConfigurationError(f"{self._path} has no authenticator of the type jwt.")
        if name is not None and name not in made:
            raise ConfigurationError(f"{self._path} has no authenticator {name} of the type jwt: it has {', '.join(made)}.")
        return made if name is None else {name: made[name]}

    def option(self, name: str, option: str) -> Any:
        """Return what the table of an authenticator, with its preset, says about an option; None for nothing."""
        return self._tables.get(name, {}).get(option)

    def file(self, name: str, option: str) -> str | None:
        """Return the path of a file that the table names."""
        path = self.option(name, option)
        return None if path is None else os.path.join(self._settings.directory, os.path.expanduser(path))

    def keyOption(self, name: str) -> str:
        """Return the option that says where the keys of an authenticator are."""
        return next((each for each in KEYS if self.option(name, each) is not None), KEYS[0])

    def place(self, name: str, option: str) -> str:
        """Return the line that an option is on, or the preset or table that implies it, as ``[push.toml:9]``."""
        table = ("authenticators", name)
        first, _, rest = option.partition(".")
        keys: tuple[str, ...]
        if name not in self._tables:
            keys, how = ("authenticate",), ""  # as a flag has it
        elif _has(self._settings.authenticators[name], first, rest):
            keys, how = ((*table, first, rest) if rest else (*table, first)), ""
        elif _has(self._tables[name], first, rest):
            keys, how = (*table, "preset"), ", by this preset"
        else:
            keys, how = table, ", by default"
        line = lineOf(self._text, *keys)
        return f"[{self._path}{'' if line is None else f':{line}'}{how}]"


def _has(table: Mapping[str, Any], first: str, rest: str) -> bool:
    return first in table and (not rest or rest in table[first])
