from __future__ import annotations

import errno
import io
import json
import stat
import string
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure

from twisted_ws import logs as package
from twisted_ws.daemon import logs
from twisted_ws.daemon.logs import DaemonLog, LossCounter, jsonObserver, openLogFile, textObserver
from twisted_ws.errors import ConfigurationError


def _logger(observer: Any) -> Logger:
    return Logger("some.place", observer=observer)


def test_json() -> None:
    """An event is one line of JSON with time in UTC, level, namespace, event and message, whatever they contain."""
    file = io.StringIO()
    _logger(jsonObserver(file)).warn("{what}", what='two\nlines \x1b[31m "quoted" \udcff')
    line = file.getvalue()
    assert line.count("\n") == 1
    assert line.removesuffix("\n").isprintable()
    event = json.loads(line)
    assert event["message"] == 'two\nlines \\x1b[31m "quoted" \\udcff'
    assert (event["level"], event["namespace"]) == ("warn", "some.place")
    assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0)
    assert list(event) == ["time", "level", "namespace", "event", "message"]
    assert event["event"] == "other"


def test_jsonFields() -> None:
    """Fields of the closed list are fields of the line, numbers as numbers and text escaped; others are in the message alone."""
    file = io.StringIO()
    _logger(jsonObserver(file)).info("{what}", event="it.happened", what="this", path="/a\x9b", status=404, peer="", count=None)
    assert json.loads(file.getvalue()) == {
        "time": ANY,
        "level": "info",
        "namespace": "some.place",
        "event": "it.happened",
        "message": "this",
        "path": "/a\\x9b",
        "status": 404,
    }


@pytest.mark.parametrize("users", [True, False])
def test_users(users: bool) -> None:
    """Who somebody is stands in a line only if the operator has asked for it."""
    file = io.StringIO()
    _logger(DaemonLog("json", users=users).observer(file)).info("it", user="Ada")
    assert ("Ada" in file.getvalue()) is users


def test_jsonOfAFailure() -> None:
    """A failure has its traceback in the same line."""
    file = io.StringIO()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        _logger(jsonObserver(file)).failure("it failed")
    event = json.loads(file.getvalue())
    assert (event["level"], event["message"]) == ("critical", "it failed")
    assert "ValueError: two\nlines" in event["traceback"]


def test_jsonOfLittle() -> None:
    """A minimal event of another library is a line as well."""
    file = io.StringIO()
    jsonObserver(file)({"log_failure": Failure(ValueError("x"))})
    event = json.loads(file.getvalue())
    assert (event["level"], event["namespace"], event["message"]) == ("info", "", "")
    assert event["time"].startswith("1970-01-01T00:00:00.000+00:00")


HOSTILE = "two\nlines \x1b[31m\r2026-01-01 [forged#info] \x9b \u202e \udcff " + "A" * 100_000 + "the end"


def test_textOfAFailure() -> None:
    """What a peer sent, and an exception repeats, is logged escaped and shortened."""
    file = io.StringIO()
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        _logger(textObserver(file)).failure("it failed")
    text = file.getvalue()
    assert "it failed\n\tTraceback" in text
    assert "two\n\tlines \\x1b[31m\\r2026-01-01 [forged#info] \\x9b \\u202e \\udcff AAA" in text
    assert "characters) …" in text
    assert text.rstrip().endswith("the end")
    assert len(text) < 40_000
    assert not set(text) - {"\n", "\t", "…"} - set(string.printable[:95])


def test_textOfNothing() -> None:
    """An event without text leaves no line."""
    file = io.StringIO()
    textObserver(file)({})
    assert file.getvalue() == ""


def test_jsonIsShort() -> None:
    """A traceback in JSON is bounded as well."""
    file = io.StringIO()
    jsonObserver(file)({"log_failure": Failure(ValueError(HOSTILE))})
    assert len(json.loads(file.getvalue())["traceback"]) < 40_000


def test_losses() -> None:
    """A log that cannot be written stops nothing: losses are counted, and reported when they begin and when they end."""
    full = False
    written: list[LogEvent] = []
    told: list[str] = []

    def write(event: LogEvent) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(event)

    counter = LossCounter(write, told.append)
    log = _logger(counter)
    log.info("1")
    full = True
    log.info("2")
    log.info("3")
    assert (counter.lost, len(told)) == (2, 1)
    assert "No space left on device" in told[0]
    full = False
    log.info("4")
    log.info("5")
    assert told[1:] == ["twisted_ws: the log can be written again; LOST 2 lines so far"]
    assert [event["log_format"] for event in written] == ["1", "4", "5"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
@pytest.mark.parametrize("make", [textObserver, jsonObserver])
def test_isUTF8(make: Any, encoding: str) -> None:
    """A log is UTF-8 whatever the encoding of its file is."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding)
    _logger(make(file)).info("from Łódź\udcff")
    assert r"from Łódź\udcff" in raw.getvalue().decode("utf-8").replace("\\\\", "\\")


def test_textOfTheSuppressed() -> None:
    """A line says how many were left out before it."""
    file = io.StringIO()
    _logger(textObserver(file)).info("refused", suppressed=3)
    assert file.getvalue().endswith("refused (3 more like this were left out before)\n")


def test_levels() -> None:
    """Levels hold by namespace, and for what is below it; they can be changed at any time."""
    file = io.StringIO()
    log = DaemonLog(levels=(("", "warn"), ("a.b", "debug")))
    observer = log.observer(file)

    def written() -> list[str]:
        file.truncate(0)
        for namespace in ("a", "a.b", "a.b.c", "a.bc"):
            Logger(namespace, observer=observer).debug("debug")
            Logger(namespace, observer=observer).warn("warn")
        return [line.split("[")[1].split("]")[0] for line in file.getvalue().splitlines()]

    assert package.details
    assert written() == ["a#warn", "a.b#debug", "a.b#warn", "a.b.c#debug", "a.b.c#warn", "a.bc#warn"]
    log.setLevels((("", "error"),))
    assert not package.details
    assert written() == []


@pytest.mark.parametrize("logFormat", ["text", "json"])
def test_formats(logFormat: str) -> None:
    """Both formats log events from level info on, one line each."""
    file = io.StringIO()
    log = _logger(DaemonLog(logFormat).observer(file))
    log.debug("not this")
    log.info("but this")
    log.emit(LogLevel.critical, "and this")
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert "but this" in lines[0]
    assert "and this" in lines[1]
    assert lines[0].startswith("{") is (logFormat == "json")


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_aFullDisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, one line on standard error reports the loss; if that is gone as well, nothing happens."""
    stderr = io.StringIO()
    monkeypatch.setattr(logs.sys, "__stderr__", stderr)
    kept = DaemonLog()
    log = _logger(kept.observer(_FullDisk()))
    log.info("1")
    log.info("2")
    assert kept.lost == 2
    assert stderr.getvalue() == ("twisted_ws: the log cannot be written (No space left on device); lines are lost from now on\n")
    closed = io.StringIO()
    closed.close()
    for gone in (None, _FullDisk(), closed):
        monkeypatch.setattr(logs.sys, "__stderr__", gone)
        _logger(DaemonLog().observer(_FullDisk())).info("3")


def test_logFile(tmp_path: Path) -> None:
    """The log file is for user and group only, is appended to, and at most ten old ones are kept."""
    path = tmp_path / "it.log"
    path.write_text("before\n")
    file = openLogFile(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (file.rotateLength, file.maxRotatedFiles) == (10_000_000, 10)
    _logger(DaemonLog("json").observer(file)).info("after")
    for _ in range(12):
        file.rotate()
    file.close()
    assert len(list(tmp_path.iterdir())) == 11
    assert '"after"' not in path.read_text()


def test_noLogFile(tmp_path: Path) -> None:
    """A log file that cannot be opened is reported in one line with its path."""
    with pytest.raises(ConfigurationError) as caught:
        openLogFile(str(tmp_path))
    assert str(caught.value) == f"The log file {tmp_path} cannot be written: Is a directory."
