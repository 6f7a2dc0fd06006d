"""The options of an authenticator, read one by one from its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from twisted_ws.errors import ConfigurationError
from twisted_ws.spelling import didYouMean

_ABSENT: Any = object()


class Options:
    """Reads options by name; `done` refuses those that nobody has read.

    Args:
        where: the table, for messages: ``authenticators.site``.
        values: the table.
        directory: where relative paths begin.

    Raises:
        ConfigurationError: by each method: an option is missing or invalid; the text names it and what is expected.
    """

    def __init__(self, where: str, values: Mapping[str, Any], directory: str = "") -> None:
        self._where = where
        self._values = values
        self._directory = directory
        self._known: list[str] = []

    def wrong(self, name: str, expected: str) -> ConfigurationError:
        """Return the error for an option that is not as `expected`; the value, which may be a secret, is not repeated."""
        return ConfigurationError(f"{self._where}.{name} must be {expected}.")

    def has(self, name: str) -> bool:
        """Return whether an option is given."""
        self._known.append(name)
        return name in self._values

    def _get(self, name: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        if not self.has(name):
            if default is _ABSENT:
                raise ConfigurationError(f"{self._where} needs {name}: {expected}.")
            return default
        value = self._values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.wrong(name, expected)
        return value

    def text(self, name: str, default: Any = _ABSENT, expected: str = "a string") -> Any:
        """Return a string; `default` (or an error without one) if it is not given."""
        value = self._get(name, default, (str,), expected)
        if value == "" and default != "":
            raise self.wrong(name, "a string that is not empty")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: Any = _ABSENT) -> str:
        """Return one of several words."""
        value: str = self._get(name, default, (str,), " or ".join(choices))
        if value not in choices:
            raise self.wrong(name, " or ".join(choices))
        return value

    def number(self, name: str, default: Any = _ABSENT, least: float = 0, most: float = 10**9, unit: str = "") -> Any:
        """Return a number within bounds."""
        expected = f"{least:g} to {most:g} {unit}".rstrip()
        value = self._get(name, default, (int, float, str), expected)
        if isinstance(value, str):  # as a flag has it
            try:
                value = float(value)
            except ValueError:
                raise self.wrong(name, expected) from None
        if value is not default and not least <= value <= most:
            raise self.wrong(name, expected)
        return value

    def switch(self, name: str, default: bool) -> bool:
        """Return a truth value; as a flag may write it, also ``on`` or ``off``."""
        value = self._get(name, default, (bool, str), "true or false")
        if isinstance(value, str):
            if value not in ("on", "off", "true", "false"):
                raise self.wrong(name, "true or false")
            return value in ("on", "true")
        return bool(value)

    def texts(self, name: str, default: Any = _ABSENT, expected: str = "a list of strings") -> Any:
        """Return a tuple of strings; one string counts as a list of it."""
        value = self._get(name, default, (list, tuple, str), expected)
        if isinstance(value, str):
            return (value,)
        if value is not default and not all(isinstance(each, str) and each for each in value):
            raise self.wrong(name, expected)
        return value if value is default else tuple(value)

    def table(self, name: str, default: Any = _ABSENT, expected: str = "a table") -> Any:
        """Return a table."""
        return self._get(name, default, (dict,), expected)

    def path(self, name: str, default: Any = _ABSENT) -> Any:
        """Return the absolute path of a file."""
        value = self.text(name, default, "the path of a file")
        return value if value is default else os.path.abspath(os.path.join(self._directory, os.path.expanduser(value)))

    def done(self) -> None:
        """Refuse what has not been read: a misspelt option must not be ignored."""
        for name in self._values:
            if name not in self._known:
                raise ConfigurationError(f"{self._where}.{name} is not an option{didYouMean(name, self._known)}")
