from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from twisted.logger import Logger, LogLevel, formatEvent, formatEventAsClassicLogText
from twisted.python.failure import Failure

from twisted_ws.daemon.workers.pipe import LONGEST, Certificates, PipeObserver, PipeReader
from twisted_ws.telemetry.records import Record


class Pipe:
    """A worker's log on its way to the supervisor's."""

    def __init__(self) -> None:
        self.end, self.begin = os.pipe()
        os.set_blocking(self.end, False)
        self.observer = PipeObserver(self.begin)
        self.log = Logger(namespace="rooms", observer=self.observer)
        self.events: list[Any] = []
        self.reader = PipeReader(2, self.events.append)

    def read(self, most: int = 1 << 24) -> list[Any]:
        """Pass on what is in the pipe, and return all events so far."""
        while most > 0:
            try:
                data = os.read(self.end, min(most, 65536))
            except BlockingIOError:
                break
            most -= len(data)
            self.reader.dataReceived(data)
        return self.events


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for each in (made.end, made.begin):
        os.close(each)


def test_whole(pipe: Pipe) -> None:
    """An event arrives with its level, namespace and time, and its text with the number of the worker."""
    pipe.log.emit(LogLevel.warn, "{who} is late\nand more", who="Łódź")
    (event,) = pipe.read()
    assert formatEvent(event) == "worker 2: Łódź is late\nand more"
    assert (event["log_level"], event["log_namespace"], event["worker"]) == (LogLevel.warn, "rooms", 2)
    assert event["log_time"] > 0


def test_tracebacks(pipe: Pipe) -> None:
    """A traceback stands below the text, where it is shown as any other."""
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        pipe.log.failure("it failed", Failure())
    (event,) = pipe.read()
    text = formatEventAsClassicLogText(event) or ""
    assert "worker 2: it failed\n" in text
    assert "RuntimeError: broken" in text
    assert "RuntimeError: broken" in event["traceback"]


def test_inPieces(pipe: Pipe) -> None:
    """Lines are whole whatever pieces they come in."""
    for n in range(50):
        pipe.log.info("line {n}", n=n)
    while len(pipe.read(7)) < 50:
        pass
    assert [formatEvent(event) for event in pipe.events] == [f"worker 2: line {n}" for n in range(50)]


def test_aReaderThatStandsStill(pipe: Pipe) -> None:
    """While nobody reads, the worker does not wait: it keeps a megabyte, counts the rest, and says later how many were lost."""
    for n in range(3000):
        pipe.log.info("{n} {text}", n=n, text="x" * 1000)
    before = len(pipe.read())
    pipe.observer.flush()
    while len(pipe.read()) > before:
        before = len(pipe.events)
        pipe.observer.flush()
    pipe.log.info("the last one")
    texts = [formatEvent(event) for event in pipe.read()]
    assert texts[-1] == "worker 2: the last one"
    assert [text.split(" ")[2] for text in texts[:-2]] == [str(n) for n in range(len(texts) - 2)]
    assert texts[-2] == f"worker 2: LOST {3000 - (len(texts) - 2)} lines of the log"
    assert 900 < len(texts) < 1200
    assert pipe.observer.lost == 3000 - (len(texts) - 2)


def test_nobodyReads() -> None:
    """When the supervisor is gone, the log goes nowhere, and nothing fails."""
    end, begin = os.pipe()
    observer = PipeObserver(begin)
    os.close(end)
    Logger(observer=observer).info("to nobody")
    os.close(begin)


def test_longOnes(pipe: Pipe) -> None:
    """A text is cut, so a line has an end."""
    pipe.log.info("{text}", text="x" * (LONGEST + 500))
    pipe.observer.flush()
    while not pipe.read():
        pipe.observer.flush()
    assert len(pipe.events[0]["text"]) < LONGEST + 100


def test_whatIsNoEvent() -> None:
    """Anything else that comes through is shown as it is; an endless line is cut up."""
    events: list[Any] = []
    reader = PipeReader(1, events.append)
    reader.dataReceived(b'half a line\n{"level": "none"}\n[]\n')
    assert [formatEvent(event) for event in events] == ["worker 1: half a line", 'worker 1: {"level": "none"}', "worker 1: []"]
    reader.dataReceived(b"x" * 2_000_000)
    assert len(events) == 4
    assert len(events[-1]["text"]) <= LONGEST


def test_certificateOnce() -> None:
    """A worker that takes the place of another does not say again which certificate is in use; one with another does."""
    events: list[Any] = []
    known = Certificates()

    def starts(name: str) -> None:
        reader = PipeReader(1, events.append, known)
        for level, text in (("info", f"certificate {name}"), ("warn", f"{name} expires"), ("info", "another")):
            namespace = "rooms" if text == "another" else "twisted_ws.wire.tls.server"
            record = Record("2026-11-20T09:30:00.000+00:00", level, namespace, "tls.ready", text)
            reader.dataReceived(msgspec.json.encode(record) + b"\n")

    for name in ("a", "a", "b", "a"):
        starts(name)
    said = [event["text"] for event in events if event["text"] != "another"]
    assert said == ["certificate a", "a expires", "certificate b", "b expires", "certificate a", "a expires"]
    assert len(events) == len(said) + 4
