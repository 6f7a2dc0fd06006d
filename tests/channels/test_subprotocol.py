from __future__ import annotations

import gc
import sys

import msgspec
import pytest

from twisted_ws import ChannelService, Limits
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.channels.subscribers.subprotocol import PublishRequest, notice, readRequest, refOf
from twisted_ws.errors import ChannelError
from twisted_ws.message import Kind, Message
from twisted_ws.testing import serve


class Hooked(ChannelService):
    def onPublish(self, caller, channel, message):
        self.shown = message


class Passes:
    """Counts the calls that read or write JSON."""

    def __enter__(self):
        self.reads = self.writes = 0
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _profile(self, frame, event, called):
        if event == "c_call" and "msgspec" in (called.__module__ or type(called.__self__).__module__):
            self.reads += called.__name__.endswith("decode")
            self.writes += called.__name__.endswith("encode")


@pytest.mark.parametrize(
    ("data", "reads", "writes"),
    [
        # Of the data nothing is read but the request that it came in; what is written is the answer, and a text as JSON.
        ('{"a":[1,"é"]}', 1, 1),
        ('"plain"', 1, 2),
        ('"es\\ncaped"', 2, 2),
    ],
)
@pytest.mark.parametrize("key", ["", ',"idempotencyKey":"once"'])
def test_passes(data, reads, writes, key):
    """A message is decoded once and encoded once on its way from one client to the others; only a hook gets it as objects."""
    for service, more in (ChannelService(publish=True), 0), (Hooked(), data.startswith("{")):
        memory = serve({"/channels/{channel}": service}, limits=Limits(pingInterval=0))
        publisher, subscriber = (memory.connect("/channels/a", subProtocols=[SUBPROTOCOL]) for _ in range(2))
        publisher.readMessages(), subscriber.readMessages()
        with Passes() as passes:
            publisher.writeTextMessage('{"type":"publish","ref":1,"channel":"a","data":' + data + key + "}")
        assert (passes.reads, passes.writes) == (reads + more, writes)
        assert msgspec.json.decode(subscriber.readMessages()[0])["data"] == msgspec.json.decode(data)
        if more:
            assert service.shown == msgspec.json.decode(data)


@pytest.mark.parametrize("data", ["{", '"\\ud800"', '["\\ud800"]', "[" * 100_000, "1 2", "", "01", '"\x01"', '["\x01"]'])
def test_wrongData(data):
    """A request whose data is not JSON is refused, however deeply it is nested."""
    with pytest.raises(ChannelError) as caught:
        readRequest('{"type":"publish","channel":"a","data":' + data + "}")
    assert caught.value.code == "bad-request"


@pytest.mark.parametrize(("data", "base64"), [("1", "AA=="), (None, None), (None, "AA")])
def test_eitherDataOrBase64(data, base64):
    """A message has data or base64, and base64 is strict."""
    given = msgspec.UNSET if data is None else msgspec.Raw(data.encode())
    with pytest.raises(ChannelError, match="base64"):
        PublishRequest(channel="a", data=given, base64=base64).message()
    assert PublishRequest(channel="a", base64="AP8=").message() == Message(Kind.BINARY, b"\0\xff")


def test_refs():
    """An answer carries the ref of its request, even if the rest is invalid, unless the ref is too long."""
    assert readRequest('{"type":"ping","ref":"x"}').ref == refOf('{"type":"pong","ref":"x"}') == "x"
    assert notice("pong", "x") == b'{"type":"pong","ref":"x"}'
    assert notice("pong") == b'{"type":"pong"}'
    long = '{"type":"ping","ref":"' + "x" * 65 + '"}'
    assert refOf(long) is refOf("{") is None
    with pytest.raises(ChannelError, match="64 characters"):
        readRequest(long)


def test_noObjects():
    """A megabyte of JSON is accepted without being turned into half a million objects."""
    collections = []

    def collected(phase, info):
        collections.append(info["generation"])

    data = "[" + ",".join(["{}"] * 300_000) + "]"
    gc.callbacks.append(collected)  # each seven hundred lists or dicts are one
    try:
        request = readRequest('{"type":"publish","channel":"a","data":' + data + "}")
        assert request.message() == Message(Kind.JSON, data.encode())
    finally:
        gc.callbacks.remove(collected)
    assert len(collections) < 5
