"""What the operator says of channels by their names."""

from __future__ import annotations

import json

import pytest

from twisted_ws import Limits
from twisted_ws.access.namespaces import Namespaces
from twisted_ws.channels.options import ChannelOptions
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.mailbox import Policy
from twisted_ws.engines.contract import HistoryLimits
from twisted_ws.testing import serve

LIMITS = Limits(historyMessages=10, historyAge=60, historyBytes=1000)
TABLES = {
    "news.*": {"history-messages": 3},
    "news.big.*": {"history-age": 86400.0, "policy": "latest"},
    "rooms.*": {"presence-delay": 1},
}


@pytest.mark.parametrize(
    ("channel", "history", "policy", "delay"),
    [
        ("other", None, None, None),
        ("news.a", (3, 60, 1000), None, None),
        ("news.big.a", (3, 86400.0, 1000), Policy.LATEST, None),
        ("rooms.a", None, None, 1),
    ],
)
def test_options(channel, history, policy, delay):
    """What no table says is left to the limits and the service, each option by itself."""
    options = ChannelOptions(Namespaces(TABLES), LIMITS)
    assert (options.history(channel), options.policy(channel), options.presenceDelay(channel)) == (history, policy, delay)


def test_oneObject():
    """Channels of which the same is kept share one object: engines compare it with each message."""
    options = ChannelOptions(Namespaces(TABLES), LIMITS)
    assert options.history("news.a") is options.history("news.b")
    assert options.history("news.a") == HistoryLimits(3, 60, 1000)


def test_history():
    """As much of a channel is kept as its table says, whoever publishes, unless the publisher says otherwise."""
    with serve({"/c/{channel}": ChannelService(publish=True)}, channelRules={"news.*": {"history-messages": 2}}) as memory:
        client = memory.connect("/c/news.a")
        for number in range(2):
            client.writeTextMessage(str(number))
        for number in range(2, 4):
            memory.publish("news.a", str(number))
            memory.publish("other", str(number))
            memory.publish("other", str(number))
        assert len(kept(memory, "news.a")) == 2
        assert len(kept(memory, "other")) == 4
        memory.server.channels.publish("news.a", "x", limits=HistoryLimits(5, 60, 1 << 20))
        assert len(kept(memory, "news.a")) == 3


def kept(memory, channel):
    found = []
    memory.server.channels.history(channel, "0").addCallback(lambda history: found.extend(history.publications))
    return found


def test_presenceDelay():
    """A leave is told after the time that the channel's table says, for other channels after that of the limits."""

    class Service(ChannelService):
        def onUpgrade(self, request):
            request.user = request.query["user"][0]
            return self

    rules = {"rooms.*": {"presence-delay": 1}}
    with serve({"/c": Service(presence=True)}, channelRules=rules, limits=Limits(presenceDelay=5)) as memory:
        watcher = memory.connect("/c?user=ann", subProtocols=["twisted-ws.v1"])
        for channel in "rooms.a", "b":
            watcher.writeMessage({"type": "subscribe", "channel": channel, "presence": True})
        memory.connect("/c?user=bob&channel=rooms.a&channel=b").close()
        watcher.readMessages()
        memory.advance(1.5)
        assert [json.loads(each)["channel"] for each in watcher.readMessages()] == ["rooms.a"]
        memory.advance(4)
        assert [json.loads(each)["channel"] for each in watcher.readMessages()] == ["b"]
