"""What tests reach by a private name of ours, each with the reason."""

from __future__ import annotations

from typing import Any


def connectionOf(caller: Any) -> Any:
    """Return the connection of a caller: a service has no way to break or fill it, and a test must."""
    return caller._connection
