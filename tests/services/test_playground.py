from __future__ import annotations

import pytest

from twisted_ws.services.playground import Playground
from twisted_ws.upgrade import Reject


@pytest.mark.parametrize("channel", ["playground", "playground.chess", "playground.a.b"])
def test_forPlaying(channel: str) -> None:
    """Anybody publishes to the playground, and to what begins with it."""
    assert Playground().onPublish(None, channel, "hello") is None


@pytest.mark.parametrize("channel", ["orders.42", "playgrounds", "play", "my.playground"])
def test_notForPlaying(channel: str) -> None:
    """Every other channel is for the back end."""
    with pytest.raises(Reject) as caught:
        Playground().onPublish(None, channel, "hello")
    assert caught.value.status == 403


def test_others() -> None:
    """How many are there is shown; patterns stay closed."""
    service = Playground()
    assert service.presence
    assert not service.wildcards
