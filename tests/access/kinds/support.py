"""What the tests of authenticators share: their settings, a host, and how a refusal looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from twisted_ws import Limits
from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.failures import Failures
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.upgrade import UpgradeRequest

NOW = 1_800_000_000.0
SECRET = "planted-secret-0123456789-0123456789"


class Host:
    """What an authenticator may ask of its server: claims are kept in a set, like an engine of one node."""

    def __init__(self, clock: Any = None, **limits: Any) -> None:
        self.clock = clock or Clock()
        self.failures = Failures(Limits(**limits), self.clock.seconds)
        self.claimed: dict[str, float] = {}

    def claim(self, key: str, until: float) -> Any:
        """Return True for the first."""
        isFirst = key not in self.claimed
        self.claimed[key] = until
        return isFirst

    def mayLog(self, kind: str) -> bool:
        """Allow all."""
        return True


def settings(directory: Path, reactor: Any = None, **options: Any) -> AuthenticatorSettings:
    """Return settings of an authenticator called ``mine``; an underscore in the name of an option stands for a dash."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return AuthenticatorSettings("mine", named, str(directory), Limits(), reactor or Clock())


def secretFile(directory: Path, *lines: str, name: str = "secret") -> str:
    """Write secrets, and return the name of the file."""
    path = directory / name
    path.write_text("\n".join(lines or (SECRET,)) + "\n")
    os.chmod(path, 0o600)
    return name


def request(*headers: tuple[str, str], target: str = "/", **options: Any) -> UpgradeRequest:
    """Return a request."""
    return UpgradeRequest(target, headers, **options)


def refused(authenticator: Any, asked: UpgradeRequest) -> AccessRefused:
    """Return the refusal of a request, which has to come at once, and in which no secret may be."""
    with pytest.raises(AccessRefused) as caught:
        authenticator.identify(asked)
    assert SECRET not in f"{caught.value.body} {caught.value.headers} {caught.value.summary} {caught.value!r}"
    return caught.value
