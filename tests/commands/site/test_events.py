"""Event streams as a client reads them."""

from __future__ import annotations

import pytest

from twisted_ws.commands.site.events import Chunks, Events


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_anyPieces(size):
    """However the bytes come, the events are the same."""
    stream = b'retry: 5\nid: 1\ndata: {"a":1}\n\n:\n\ndata: x\ndata:y\n\nid: 2\n\ndata: z\n\n'
    chunked = (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (stream[:9], stream[9:30], stream[30:])) + b"0\r\n\r\n"
    )
    chunks, events, found = Chunks(), Events(), []
    for at in range(0, len(chunked), size):
        found += events.feed(chunks.feed(chunked[at : at + size]))
    assert found == [b'{"a":1}', b"x\ny", b"z"]


@pytest.mark.parametrize("data", [b"xyz\r\n", b"-1\r\n", b"fffffffff\r\n"])
def test_notChunks(data):
    """What is not chunked is an error, and no endless wait."""
    with pytest.raises(ValueError, match=r"chunk|invalid literal"):
        Chunks().feed(data)
