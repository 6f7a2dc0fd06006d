from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest

from twisted_ws.dispatch.envelope import Envelope


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ('{"event": "x", "id": {"n" : 1}, "b": 2}', ("x", b'{"n" : 1}')),
        (b'{"id": 0.12345678901234567890, "event": ""}', ("", b"0.12345678901234567890")),
        ('{"\\u0065vent": "\\u00fc", "id": null}', ("ü", b"null")),
        ('{"event": "x", "id": 1, "id": "ü", "event": "y"}', ("y", b'"\xc3\xbc"')),
        ('{"event": "x"}', ("x", None)),
        ('{"event": 1}', None),
        ('{"event": null}', None),
        ('{"event": ["x"]}', None),
        ('{"event": "\\x"}', None),
        ("{}", None),
        ("[]", None),
        ("1", None),
        ("", None),
        ("{", None),
        (b"\xff", None),
        (b'{"event": "x", "a": "\xff"}', None),
        ("\ud800", None),
        ("[" * 100_000, None),
        ('{"a":' * 100_000, None),
        ('{"event": "x", "id":' + "[" * 100_000, None),
    ],
)
def test_read(message: str | bytes, found: tuple[str, bytes | None] | None) -> None:
    """The event is read as text, and the id as the peer wrote it; without a JSON object that names an event, there is neither."""
    read = Envelope("event", "id").read(message)
    assert (read and (read[0], None if read[1] is None else bytes(read[1]))) == found


def test_oneField() -> None:
    """Without a field for the id, there is none; the field may be that of the event."""
    assert Envelope("event").read('{"event": "x", "id": 1}') == ("x", None)
    assert Envelope("event", "event").read('{"event": "x", "id": 1}') == ("x", msgspec.Raw(b'"x"'))


def test_noObjects() -> None:
    """However many values and fields a message has, no objects are made of those that nobody wants."""
    inside = '{"event": "x", "data": [' + ",".join(["[]"] * 300_000) + "]}"
    beside = '{"event": "x",' + ",".join([f'"{number}":0' for number in range(100_000)]) + "}"
    envelope = Envelope("event", "id")
    for message in (inside, beside):
        gc.collect()
        before = gc.get_stats()[0]["collections"]
        tracemalloc.start()
        try:
            assert envelope.read(message) == ("x", None)
            assert tracemalloc.get_traced_memory()[1] < 2 * len(message)  # at most a copy, in UTF-8
        finally:
            tracemalloc.stop()
        assert gc.get_stats()[0]["collections"] <= before + 1  # each 700 containers would be one
