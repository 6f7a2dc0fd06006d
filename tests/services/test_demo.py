from __future__ import annotations

from typing import Any

from twisted_ws.services.demo import Demo


def test_callers() -> None:
    """The demo keeps every caller from its open to its close."""
    demo, first, second = Demo(), object(), object()
    caller: Any = first
    demo.onOpen(caller)
    other: Any = second
    demo.onOpen(other)
    assert demo.callers == {first, second}
    demo.onClose(caller, 1000, "")
    demo.onClose(caller, 1000, "")
    assert demo.callers == {second}


def test_echo() -> None:
    """Text comes back with "Echo: " before it, and binary as it came."""
    demo, caller = Demo(), object()
    someone: Any = caller
    assert demo.onTextMessage(someone, "Hällo") == "Echo: Hällo"
    assert demo.onTextMessage(someone, "") == "Echo: "
    assert demo.onBinaryMessage(someone, b"\x00\xff") == b"\x00\xff"


def test_separateDemos() -> None:
    """Two demos do not share their callers."""
    assert Demo().callers is not Demo().callers
