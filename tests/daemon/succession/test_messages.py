"""What a supervisor tells the next one at its start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from twisted_ws.daemon.succession.messages import HUB, KEPT, VERSION, Instructions, decode, encode


def instructions(**versions: int) -> Instructions:
    """Return some."""
    these = {"version": VERSION, "hub": HUB, "kept": KEPT, **versions}
    some: dict[str, Any] = {"str": "", "int": 0, "bool": False, "list": [], "dict": {}}
    rest = {name: some[str(of).partition("[")[0]] for name, of in Instructions.__annotations__.items() if name not in these}
    return Instructions(**these, **rest)


def test_theSame() -> None:
    """What it is told arrives as it was said."""
    assert decode(encode(instructions())) == instructions()


@pytest.mark.parametrize("name", ["version", "hub", "kept"])
def test_anotherVersion(name: str) -> None:
    """If anything that goes over is of another version there, the new supervisor says so at once, and nothing is held for it."""
    with pytest.raises(ValueError, match="The new version cannot take over from the old one: restart the server"):
        decode(encode(instructions(**{name: 99})))


def test_evenIfNothingElseIsUnderstood() -> None:
    """It says so, too, if that is all that it understands."""
    with pytest.raises(ValueError, match="cannot take over"):
        decode(msgspec.msgpack.encode([VERSION + 1, SimpleNamespace.__name__]))
