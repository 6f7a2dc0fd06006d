"""The settings in force, and where each is from."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Setting(Struct):
    """One setting.

    Attributes:
        name: as in the configuration file.
        value: as it would be written there; "set" for what may hold a secret; "" for none.
        source: where it is from.
        line: where in the file; None if it is not from there.
    """

    name: str
    value: str
    source: Literal["default", "file", "flag"]
    line: int | None = None


class Certificate(Struct):
    """A certificate in use.

    Attributes:
        names: for which it was issued.
        expires: Unix time.
    """

    names: list[str]
    expires: float


class Settings(Struct):
    """What is in force.

    Attributes:
        file: the configuration file; None without one.
        settings: in the order of the reference.
        certificates: in use.
    """

    file: str | None
    settings: list[Setting]
    certificates: list[Certificate]
