"""The setting ``TWISTED_WS``."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from twisted_ws_publisher.errors import ConfigurationError
from twisted_ws_publisher.settings import from_environment

# The key in TWISTED_WS, and the argument of `Publisher`.
_OPTIONS = {"URL": "url", "KEY_FILE": "key_file", "TIMEOUT": "timeout", "ATTEMPTS": "attempts", "CA_FILE": "ca_file"}
_OTHERS = ("TICKET_FILE",)


def publisher_options() -> dict[str, Any]:
    """Return the arguments of `Publisher`: those of ``TWISTED_WS``, or of the environment without one.

    Raises:
        ConfigurationError: a key is unknown, or there is no URL.
    """
    chosen = _chosen()
    unknown = sorted(set(chosen) - set(_OPTIONS) - set(_OTHERS))
    if unknown:
        raise ConfigurationError(f"TWISTED_WS: unknown key {unknown[0]!r}; the keys are {', '.join((*_OPTIONS, *_OTHERS))}")
    options = {argument: chosen[key] for key, argument in _OPTIONS.items() if key in chosen}
    return options if "url" in options else {**from_environment(), **options}


def ticket_file() -> Any:
    """Return the path of the secret for tickets; None without one."""
    return _chosen().get("TICKET_FILE")


def _chosen() -> dict[str, Any]:
    chosen = getattr(settings, "TWISTED_WS", {})
    if not isinstance(chosen, dict):
        raise ConfigurationError("TWISTED_WS must be a dict")
    return chosen
