"""What both publishers are told: where the server is, as whom to call, and how long a call may take."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any

from twisted_ws_publisher.address import Address, parse_address
from twisted_ws_publisher.calls import ATTEMPTS, TIMEOUT, Policy
from twisted_ws_publisher.errors import ConfigurationError
from twisted_ws_publisher.keyfiles import PathLike, read_api_key

# What names the settings in the environment begin with: TWISTED_WS_URL, TWISTED_WS_KEY_FILE ...
PREFIX = "TWISTED_WS_"


class Settings:
    """Checked settings.

    Args:
        url: ``http://host:port``, ``https://host:port/prefix`` or ``unix:/run/push.sock``: the server's broadcast port.
        key_file: holds an API key in its first line, or as the server's own file has it (``name: key scopes``); None where the
            server asks for none. It is read again when the server refuses the key, so that it can be replaced.
        timeout: seconds for a call with all its repetitions.
        attempts: how often a call is tried at most.
        ca_file: holds the certificates that are trusted, in PEM; by default the system's.

    Raises:
        ConfigurationError: one is wrong.
    """

    def __init__(
        self,
        url: str,
        key_file: PathLike | None = None,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        ca_file: PathLike | None = None,
    ) -> None:
        if not timeout > 0 or attempts < 1:
            raise ConfigurationError("timeout must be more than 0 seconds, and attempts at least 1")
        self.address: Address = parse_address(url)
        self.policy = Policy(float(timeout), attempts)
        self.tls = _context(ca_file) if self.address.is_secure else None
        self._key_file = key_file
        self._headers: dict[str, str] = {}
        self._read_key()

    def __repr__(self) -> str:
        return f"<Settings for {self.address.path or self.address.authority}>"

    @property
    def headers(self) -> Mapping[str, str]:
        """The credentials."""
        return self._headers

    def refresh(self) -> bool:
        """Read the key again, and return whether it is another."""
        before = self._headers
        try:
            self._read_key()
        except ConfigurationError:
            return False  # it may be just being replaced: the old one's refusal is what the caller hears
        return self._headers != before

    def _read_key(self) -> None:
        key = read_api_key(self._key_file, "key_file") if self._key_file is not None else None
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the settings in ``TWISTED_WS_URL``, ``_KEY_FILE``, ``_TIMEOUT``, ``_ATTEMPTS`` and ``_CA_FILE``.

    Raises:
        ConfigurationError: there is no URL, or a number is invalid.
    """
    if not environment.get(f"{PREFIX}URL"):
        raise ConfigurationError(f"{PREFIX}URL is not set: the URL of the server's broadcast port, such as http://127.0.0.1:8081")
    settings: dict[str, Any] = {"url": environment[f"{PREFIX}URL"]}
    for name, convert in (("key_file", str), ("timeout", float), ("attempts", int), ("ca_file", str)):
        text = environment.get(PREFIX + name.upper())
        if text:
            try:
                settings[name] = convert(text)
            except ValueError:
                raise ConfigurationError(f"{PREFIX}{name.upper()}: {text!r} is not a number") from None
    return settings


def _context(ca_file: PathLike | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ca_file: {ca_file}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
