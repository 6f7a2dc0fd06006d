"""The settings by subject, with those that are used most first: for the help, the manual page and a new configuration file."""

from __future__ import annotations

from collections.abc import Iterator

from twisted_ws.daemon.settings import KEYS, Key

# Titles, and the names of the settings below them; what is in none of them comes last.
_GROUPS: dict[str, tuple[str, ...]] = {
    "Where it listens": ("port", "tls-port", "listen", "interface", "pages", "metrics-port"),
    "Who may connect": ("authenticate", "allowed-origin", "allowed-host", "trusted-proxy", "client-ca", "interceptor"),
    "Publishing": (
        "broadcast-port",
        "broadcast-tls-port",
        "broadcast-interface",
        "api-key-file",
        "audit-log",
        "admin",
        "outbox",
        "outbox-password-file",
    ),
    "TLS": ("certificate", "private-key", "chain", "key-store", "key-store-password-file", "tls-minimum"),
    "Channels, and several processes or machines": (
        *("workers", "engine", "engine-password-file", "history-file", "state-directory"),
    ),
    "Limits": (
        *("max-connections", "max-connections-per-ip", "max-message-size", "max-send-buffer", "message-rate"),
        *("ping-interval", "ping-timeout", "drain-timeout", "compression"),
    ),
    "Logs and traces": ("log-format", "log-level", "log-users", "tracing"),
}
_OTHERS = "More"


def groups() -> Iterator[tuple[str, list[Key]]]:
    """Yield each title with its settings; every one of `KEYS` is there once."""
    left = {key.name: key for key in KEYS}
    for title, names in _GROUPS.items():
        found = [left.pop(name) for name in names if name in left]
        if found:
            yield title, found
    if left:
        yield _OTHERS, [*left.values()]
