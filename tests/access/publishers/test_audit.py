"""The audit log: a line of JSON for each call, written soon, and never in the way."""

from __future__ import annotations

import json
import os
import stat

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from twisted_ws.access.publishers.audit import FLUSH, MOST, AuditLog, Entry
from twisted_ws.errors import ConfigurationError


def entry(number=0, **fields):
    return Entry(1000.5, "shop", "publish", 200, "192.0.2.1", **{"channel": f"orders.{number}", **fields})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def lines(path):
    """Return the calls in it: what follows the line that it begins with."""
    first, *rest = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert {**first, "time": 0} == {"time": 0, "key": "", "operation": "open", "status": 0, "address": ""}
    return rest


def test_lines(clock, path):
    """Entries are written within a second, in order, without empty fields; nobody else may read the file."""
    log = AuditLog(str(path), clock)
    log.note(entry(1, bytes=5, id="e:1"))
    log.note(entry(2))
    assert lines(path) == []
    clock.advance(FLUSH)
    base = {"time": 1000.5, "key": "shop", "operation": "publish", "status": 200, "address": "192.0.2.1"}
    assert lines(path) == [{**base, "bytes": 5, "channel": "orders.1", "id": "e:1"}, {**base, "channel": "orders.2"}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.note(entry(3))
    log.close()
    assert [line["channel"] for line in lines(path)] == ["orders.1", "orders.2", "orders.3"]
    assert clock.getDelayedCalls() == []


def test_oneLineEach(clock, path):
    """Nothing that is named in an entry can begin a line of its own."""
    log = AuditLog(str(path), clock)
    log.note(entry(channel='a\n{"key":"admin"}', user="\u2028x\x00"))
    log.close()
    assert path.read_bytes().count(b"\n") == 2
    assert lines(path)[0]["channel"] == 'a\n{"key":"admin"}'


def test_many(clock, path):
    """Very many are written in pieces, before the second is over."""
    log = AuditLog(str(path), clock)
    for number in range(1000):
        log.note(entry(number))
    assert 500 < len(path.read_text().splitlines()) < 1000
    log.close()
    assert [line["channel"] for line in lines(path)] == [f"orders.{number}" for number in range(1000)]


def test_rotated(clock, path):
    """After `reopen`, lines go to a new file of the old name; if there cannot be one, the old file goes on."""
    log = AuditLog(str(path), clock)
    log.note(entry(1))
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.note(entry(2))
    log.flush()
    assert [len(lines(each)) for each in (path.with_suffix(".1"), path)] == [1, 1]
    path.unlink()
    path.mkdir()
    with capturedLogs() as events:
        log.reopen()
    assert "The old file stays in use" in events[0]["log_format"]
    assert log.lost == 0
    log.note(entry(3))
    log.close()


def test_fullFromTheStart(clock):
    """That a disk is full already is said at the start, before there is anything to write."""
    with capturedLogs() as events:
        log = AuditLog("/dev/full", clock)
    assert [(event["event"], event["log_level"].name) for event in events] == [("audit.lost", "error")]
    assert "No space left on device" in events[0]["reason"]
    log.note(entry())
    with capturedLogs() as events:
        log.close()  # with which it is certain
    assert [(event["event"], event["count"]) for event in events] == [("audit.lost", 2)]
    assert log.lost == 2


def test_fullDisk(clock, path, monkeypatch):
    """A full disk is said once; lines are kept for a while, then counted; the rest follows when there is room."""
    log = AuditLog(str(path), clock)
    write, isFull = os.write, True

    def filling(file, data):
        if isFull:
            raise OSError(28, "No space left on device")
        return write(file, data[:100])

    monkeypatch.setattr("twisted_ws.access.publishers.audit.os.write", filling)
    size = 0
    with capturedLogs() as events:
        number = 0
        while log.lost < 10:
            log.note(entry(number))
            number += 1
            size += 100
            if number % 1000 == 0:
                clock.advance(FLUSH)
    assert [event["log_level"].name for event in events] == ["error"]
    assert size > MOST / 2
    isFull = False
    monkeypatch.setattr("twisted_ws.access.publishers.audit.os.write", lambda file, data: write(file, data[:300_000]))
    with capturedLogs() as events:
        for _ in range(10):
            clock.advance(FLUSH)
    assert [event["count"] for event in events] == [10]
    assert [line["channel"] for line in lines(path)] == [f"orders.{each}" for each in range(number - 10)]
    log.close()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)])
def test_noFile(clock, path, make):
    """What cannot be opened as a file is said at the start; a pipe that nobody reads holds nothing up."""
    make(path)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        AuditLog(str(path), clock)
