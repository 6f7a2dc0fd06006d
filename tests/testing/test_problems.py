from __future__ import annotations

from types import SimpleNamespace

import pytest
from twisted.internet.defer import fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase

from twisted_ws.testing.problems import Complaint, Problems, Unflushed


@pytest.fixture
def problems():
    problems = Problems()
    problems.start()
    yield problems
    problems.stop()


def test_collected(problems):
    """Exceptions count wherever they come from, warnings and errors only where they are the server's own."""
    theirs, ours = Logger("chat"), Logger("twisted_ws.somewhere")
    theirs.failure("it raised", Failure(ValueError("boom")))
    theirs.error("of its own accord")
    theirs.warn("also")
    ours.info("nothing")
    ours.warn("take {what}", what="care")
    ours.error("worse")
    fail(KeyError("nobody looked"))
    assert [(type(error), str(error)) for _, error in problems.found()] == [
        (ValueError, "boom"),
        (Complaint, "take care"),
        (Complaint, "worse"),
        (KeyError, "'nobody looked'"),
    ]
    assert str(Unflushed(problems.found())).splitlines()[1:] == [
        "  it raised: ValueError: boom",
        "  take care",
        "  worse",
        "  unhandled error in a Deferred: KeyError: 'nobody looked'",
        "if expected, take it with server.flushErrors(ValueError, Complaint, KeyError)",
    ]


def test_once(problems):
    """An exception that is logged twice is one."""
    failure = Failure(ValueError("boom"))
    for where in ("here", "there"):
        Logger("chat").failure(where, failure)
    assert [where for where, _ in problems.found()] == ["here"]


def test_stopped(problems):
    """What is logged before and after does not count."""
    other = Problems()
    Logger("chat").failure("x", Failure(ValueError("before")))
    other.start()
    other.stop()
    Logger("chat").failure("x", Failure(ValueError("after")))
    assert (other.found(), len(problems.found())) == ([], 2)


def test_flush(problems):
    """What is flushed is forgotten: of some classes, or all."""
    for error in (ValueError("a"), KeyError("b"), OSError("c")):
        Logger("chat").failure("x", Failure(error))
    assert [str(error) for error in problems.flush((ValueError, OSError))] == ["a", "c"]
    assert "KeyError: 'b'" in problems.text()
    assert len(problems.flush(())) == 1
    assert problems.found() == []


def test_trial(problems):
    """A test of trial fails for the errors that were not flushed, and only for those."""

    class Test(SynchronousTestCase):
        def test(self):
            for error in (ValueError("a"), KeyError("b")):
                Logger("chat").failure("x", Failure(error))
            problems.flush((ValueError,))

    result = TestResult()
    Test("test").run(result)
    assert [failure.type for _, failure in result.errors] == [KeyError]


def test_withoutTrial(problems, monkeypatch):
    """Without trial, or with one that keeps its errors elsewhere, nothing is done there."""
    monkeypatch.setitem(__import__("sys").modules, "twisted.trial._synctest", SimpleNamespace())
    Logger("chat").failure("x", Failure(ValueError("a")))
    assert len(problems.flush(())) == 1
