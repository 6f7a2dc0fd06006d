from __future__ import annotations

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from twisted_ws.telemetry.records import RECENT, RECENT_TEXT, RecentRecords, recordOf


def test_fields() -> None:
    """A record has what is known of its event, from the closed list of fields."""
    record = recordOf({"log_format": "{path} {odd}", "path": "/x", "odd": 1, "duration": 0.5, "status": 200})
    assert (record.message, record.path, record.duration, record.status) == ("/x 1", "/x", 0.5, 200)
    assert record.event == "other"
    assert not hasattr(record, "odd")


def test_fieldsAreShort() -> None:
    """A field is bounded, whatever a caller of the log puts into it."""
    record = recordOf({"channel": "x" * 100_000, "origin": "\u202e"})
    assert len(str(record.channel)) < 600
    assert record.origin == r"\u202e"


def test_recent() -> None:
    """The last warnings and errors are kept, in order and with their fields; the older ones are only counted."""
    recent = RecentRecords()
    log = Logger("a.place", observer=recent)
    log.info("not this")
    for n in range(RECENT + 3):
        log.emit(LogLevel.warn, "{n}", n=n, event="it.happened", peer="192.0.2.7")
    log.emit(LogLevel.critical, "the last")
    records = recent.records()
    assert len(records) == RECENT
    assert recent.total == RECENT + 4
    assert [record.message for record in records[:2]] == ["4", "5"]
    assert (records[0].event, records[0].peer, records[0].level, records[0].namespace) == (
        "it.happened",
        "192.0.2.7",
        "warn",
        "a.place",
    )
    assert records[-1].message == "the last"


def test_recentAreShort() -> None:
    """What is kept is bounded in memory: long messages and tracebacks are shortened."""
    recent = RecentRecords()
    Logger(observer=recent).failure("x" * 100_000, Failure(ValueError("y" * 100_000)))
    (record,) = recent.records()
    assert len(record.message) < RECENT_TEXT + 100
    assert len(str(record.traceback)) < RECENT_TEXT + 100
    assert str(record.traceback).rstrip().endswith("yyy")


def test_recentUsers() -> None:
    """Who somebody is, is kept only if the log says it too."""
    for users in (False, True):
        recent = RecentRecords(users)
        Logger(observer=recent).error("it", user="Ada")
        assert recent.records()[0].user == ("Ada" if users else None)
