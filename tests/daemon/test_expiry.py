from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.daemon.expiry import DAY, ExpiryWatch


class _TLS:
    days = 20.5

    def daysLeft(self) -> float:
        return self.days


@pytest.mark.parametrize(
    ("days", "word"), [(14.5, None), (13.9, "expires in 13 days:"), (1.2, "expires in 1 day:"), (-0.1, "HAS EXPIRED")]
)
def test_eachDay(days: float, word: str | None) -> None:
    """Each day after the start there is a warning while the certificate has less than 14 days left, until the stop."""
    clock, tls = Clock(), _TLS()
    watch = ExpiryWatch(tls, clock)  # type: ignore[arg-type]
    tls.days = days
    with capturedLogs() as events:
        watch.startService()
        assert not events
        clock.advance(DAY)
        clock.advance(DAY)
        watch.stopService()
        clock.advance(DAY)
        watch.stopService()
    assert len(events) == (0 if word is None else 2)
    assert all(event["log_level"].name == "warn" and str(word) in formatEvent(event) for event in events)
    assert not clock.getDelayedCalls()
