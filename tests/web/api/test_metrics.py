"""The text of /metrics, and how often it is written."""

from __future__ import annotations

import pytest
from prometheus_client.core import GaugeMetricFamily
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_ws import WebSocketServer
from twisted_ws.web.api.metrics import Text


class SlowScrape:
    """Metrics that come when the test lets them: how often they were looked at.

    Attributes:
        looks: a Deferred for each look that has begun.
    """

    def __init__(self):
        self.looks = []

    async def families(self):
        """Yield the number of this look, once the test fires its Deferred."""
        number = len(self.looks) + 1
        self.looks.append(Deferred())
        await self.looks[-1]
        yield GaugeMetricFamily("look", "Which.", value=number)


@pytest.fixture
def scrape():
    return SlowScrape()


@pytest.fixture
def text(scrape):
    return Text(WebSocketServer(reactor=Clock()), scrape)


def values(asked):
    """Return what those have got who have an answer."""
    return [each.result[1].split()[-1] for each in asked if each.called]


def test_manyAtOnce(scrape, text):
    """A thousand who ask while one is written share the next one, which begins after they have asked."""
    first = text.get("")
    others = [text.get("") for _ in range(1000)]
    assert len(scrape.looks) == 1
    scrape.looks[0].callback(None)
    assert values([first, *others]) == [b"1.0"]
    assert len(scrape.looks) == 2
    scrape.looks[1].callback(None)
    assert values(others) == [b"2.0"] * 1000
    assert len(scrape.looks) == 2


def test_formats(scrape, text):
    """Each gets the format that it has asked for."""
    plain, opened = text.get("text/plain"), text.get("application/openmetrics-text")
    for each in scrape.looks:
        each.callback(None)
    assert plain.result[0].startswith("text/plain")
    assert opened.result[0].startswith("application/openmetrics-text")
    assert opened.result[1].endswith(b"# EOF\n")


def test_left(scrape, text):
    """Nothing is written for those who have left; one who leaves takes nothing from the others."""
    leaving, staying = text.get(""), text.get("")
    leaving.addErrback(lambda _: None)
    leaving.cancel()
    scrape.looks[0].callback(None)
    later = text.get("")
    later.addErrback(lambda _: None)
    later.cancel()
    scrape.looks[1].callback(None)
    assert values([staying]) == [b"2.0"]
    assert len(scrape.looks) == 2


def test_failed(scrape, text):
    """An error is told to whoever asked, and the next who ask get an answer."""
    first, second = text.get(""), text.get("")
    scrape.looks[0].errback(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        first.result.raiseException()
    first.addErrback(lambda _: None)
    scrape.looks[1].callback(None)
    assert values([second]) == [b"2.0"]
