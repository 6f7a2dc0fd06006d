"""Every message once and in order, whatever happens to the connections: a machine of random events against a simple model."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.memory import MemoryClient, SteadyClock, clientFrame
from twisted_ws import Limits, WebSocketServer
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.mailbox import CHARGE
from twisted_ws.engines.replay import REPLAY_CHARGE

CHANNELS = ("a", "b.c")
LIMITS = Limits(historyMessages=6, historyAge=20, maxSendBuffer=4000, subscriberLag=15, pingInterval=0)
LARGEST = 3000


class Service(ChannelService):
    """Publishes in the middle of things: a subscription may end while another message is passed on."""

    def __init__(self, machine, policy):
        super().__init__(wildcards=True, policy=policy)
        self.machine = machine

    def onUnsubscribe(self, caller, channel):
        if channel in CHANNELS:
            self.machine.publish(channel, f"{caller.connectionId} left")


class Client:
    """A client that comes back with the positions it has seen.

    Attributes:
        socket: its connection, None without.
        positions: the last id it has seen of each channel that it wants; None for none yet.
        nexts: of those it is subscribed to, the offset that has to come next.
        answers: what the answers to its requests must say: (channel, after, recovered or None for either, count).
    """

    def __init__(self, machine):
        self.machine = machine
        self.socket = None
        self.begun = ""  # of a message that has come in part
        self.positions = {}
        self.nexts = {}
        self.answers = []

    def connect(self):
        self.socket = MemoryClient(self.machine.server.factory(), self.machine.clock)
        self.socket.connect("/channels", Sec_WebSocket_Protocol="twisted-ws.v1")
        for channel in self.positions:
            self.subscribe(channel)

    def subscribe(self, channel, last=None):
        after = self.positions.setdefault(channel, None)
        self.answers.append((channel, after, *self.machine.expected(channel, after, last)))
        asked = {"after": after, "last": last}
        self.say(type="subscribe", channel=channel, **{name: value for name, value in asked.items() if value is not None})

    def unsubscribe(self, channel):
        self.positions.pop(channel)
        self.say(type="unsubscribe", channel=channel)

    def say(self, **frame):
        # Without the turn of the reactor that `send` ends with: a client that is behind stays behind.
        self.socket.transport.protocol.dataReceived(clientFrame(1, json.dumps(frame).encode()))

    def cut(self):
        """Lose the connection, and whatever was unread."""
        if not self.socket.transport.closed:
            self.socket.hangUp()
        self.socket = None
        self.begun = ""
        self.nexts = {}
        self.answers = []

    def read(self):
        """Check what has come, and return whether the connection is still open."""
        for frame in self.socket.frames():
            if frame.opcode in (0, 1):
                self.begun += frame.payload
                if frame.message_finished:
                    whole, self.begun = self.begun, ""
                    self.heard(json.loads(whole))
            elif frame.opcode == 8:
                assert frame.payload[0] == 1013
                self.cut()
                return False
        if self.socket.transport.closed:
            self.cut()
            return False
        return True

    def heard(self, frame):
        kind, channel = frame["type"], frame.get("channel")
        if kind == "subscribed":
            asked, after, recovered, count = self.answers.pop(0)
            assert asked == channel
            assert recovered in (None, frame["recovered"])
            assert count in (None, frame["count"])
            assert after == frame["id"] or not frame["recovered"]
            self.nexts[channel] = int(frame["id"].partition(":")[2]) + 1
            if channel in self.positions:
                self.positions[channel] = frame["id"]
        elif kind == "unsubscribed":
            del self.nexts[channel]
        elif kind == "message":
            offset = int(frame["id"].partition(":")[2])
            assert self.machine.log[channel][offset] == frame["data"]
            if self.machine.policy == "close":
                assert offset == self.nexts[channel]
            else:
                assert offset >= self.nexts[channel]
            self.nexts[channel] = offset + 1
            if channel in self.positions:
                self.positions[channel] = frame["id"]
        else:
            assert kind == "welcome", frame


class Machine(RuleBasedStateMachine):
    policy = "close"

    def __init__(self):
        super().__init__()
        self.clock = SteadyClock()
        self.clock.advance(1000)
        self.number = 0
        self.last = ""  # where the last message was published
        self.clients = [Client(self) for _ in range(3)]
        self.start()
        for one in self.clients:
            one.connect()
            for channel in CHANNELS:
                one.subscribe(channel)

    def start(self):
        self.server = WebSocketServer(limits=LIMITS, reactor=self.clock)
        self.engine = self.server.engine
        self.service = Service(self, self.policy)
        self.server.mount("/channels", self.service)
        self.log = {channel: {} for channel in CHANNELS}
        self.times = {channel: {} for channel in CHANNELS}
        self.deleted = dict.fromkeys(CHANNELS, 0)
        # One that hears everything, and never comes back.
        self.everything = MemoryClient(self.server.factory(), self.clock)
        self.everything.connect("/channels?channel=*", Sec_WebSocket_Protocol="twisted-ws.v1")
        self.heardAll = {channel: [] for channel in CHANNELS}

    # The model: what was published when, and what of it must be kept.

    def publish(self, channel, text):
        self.number += 1
        text = f"{self.number} {text}"

        def published(answer):
            offset = answer.id.partition(":")[2]
            assert int(offset) not in self.log[channel]
            self.log[channel][int(offset)] = text
            self.times[channel][int(offset)] = self.clock.seconds()
            self.last = channel
            return answer

        # The log must have it before anybody reads it: the answer comes before a client's next turn.
        self.server.publish(channel, text).addCallback(published)

    def kept(self, channel):
        fresh = [offset for offset, at in self.times[channel].items() if at > self.clock.seconds() - LIMITS.historyAge]
        return [offset for offset in sorted(fresh)[-LIMITS.historyMessages :] if offset > self.deleted[channel]]

    def expected(self, channel, after, last=None):
        """Return what the answer to a subscription has to say: recovered, count; None where the model does not know."""
        kept, top = self.kept(channel), max(self.log[channel], default=0)
        if after is None:
            return False, min(last or 0, len(kept))
        epoch, _, offset = after.partition(":")
        if channel not in self.engine:
            return (None, 0) if epoch == self.currentEpoch() else (False, 0)
        if epoch != self.currentEpoch():
            return False, len(kept)
        missed = [each for each in self.log[channel] if each > int(offset)]
        if set(missed) <= set(kept):
            # A channel that was forgotten meanwhile does not know whether something was missed before.
            return (True if missed or top else None), len(missed)
        return False, len(kept)

    def currentEpoch(self):
        return self.engine.epoch

    # The events.

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 9), size=st.sampled_from([1, 600, LARGEST]))
    def publishSome(self, channel, count, size):
        for _ in range(count):
            self.publish(channel, "x" * size)
            self.everything.transport.settle()

    @rule(client=st.integers(0, 2), channel=st.sampled_from(CHANNELS), last=st.sampled_from([None, 1, 4, 50]))
    def subscribeOrNot(self, client, channel, last):
        one = self.clients[client]
        if one.socket is None:
            one.connect()
        if one.read() and channel not in one.positions and channel not in one.nexts:
            one.subscribe(channel, last)
        elif one.socket is not None and channel in one.nexts and channel in one.positions:
            one.unsubscribe(channel)

    @rule(
        client=st.integers(0, 2), channel=st.sampled_from(CHANNELS), count=st.integers(0, 9), seconds=st.sampled_from([0, 15, 25])
    )
    def comeBack(self, client, channel, count, seconds):
        one = self.clients[client]
        if one.socket is not None:
            one.cut()
        self.wait(seconds)
        for _ in range(count):
            self.publish(channel, "missed")
            self.everything.transport.settle()
        one.connect()

    @rule(client=st.integers(0, 2), room=st.sampled_from([0, 100, 2000]))
    def slow(self, client, room):
        if self.clients[client].socket is not None:
            self.clients[client].socket.transport.room = room

    @rule(client=st.integers(0, 2))
    def read(self, client):
        one = self.clients[client]
        if one.socket is None:
            return
        one.socket.transport.room = None
        if one.read():
            assert one.answers == []
            for channel, following in one.nexts.items():
                # With another policy the last of a channel may be dropped, but never the last of all, unless the history that it
                # was to come from has been deleted.
                newest = max(self.log[channel], default=0)
                if self.policy == "close" or (channel == self.last and newest > self.deleted[channel]):
                    assert following > newest, "something is missing"

    @rule(seconds=st.sampled_from([0.25, 5, 14, 25, 60]))
    def wait(self, seconds):
        for _ in range(round(seconds)) or (1,):
            self.clock.advance(min(seconds, 1))
            self.everything.transport.settle()

    @rule(channel=st.sampled_from(CHANNELS))
    def delete(self, channel):
        self.server.channels.forget(channel)
        self.deleted[channel] = max(self.log[channel], default=0)

    @rule()
    @precondition(lambda self: self.number > 5)
    def restart(self):
        for one in self.clients:
            if one.socket is not None:
                one.cut()
        self.start()

    # What holds at all times.

    @invariant()
    def bounded(self):
        connected = [each.socket for each in self.clients if each.socket is not None and not each.socket.transport.closed]
        for each in connected:
            assert each.transport.protocol.bufferedAmount() <= LIMITS.maxSendBuffer + LARGEST + 1000
        # All that is held: beside the cap, a message of any size on its way, the newest one, and places in histories.
        most = LIMITS.maxSendBuffer + 2 * (LARGEST + CHARGE) + 2 * REPLAY_CHARGE + 1000
        assert self.server.runtime.backlog.total <= (len(connected) + 1) * most  # one more that hears everything

    @invariant()
    def everythingHeard(self):
        for frame in self.everything.frames():
            said = json.loads(frame.payload)
            if said["type"] == "message":
                self.heardAll[said["channel"]].append(int(said["id"].partition(":")[2]))
        for channel in CHANNELS:
            assert self.heardAll[channel] == sorted(self.log[channel])

    def teardown(self):
        for number, one in enumerate(self.clients):
            self.read(number)
            if one.socket is not None:
                one.cut()
        self.everything.hangUp()
        self.everything = None
        assert not list(self.server.callers)
        assert self.server.runtime.backlog.total == 0
        self.clock.advance(100)
        assert len(self.engine) == 0
        assert self.engine.bytes == 0


class DroppingMachine(Machine):
    policy = "drop-oldest"


class LatestMachine(Machine):
    policy = "latest"


@pytest.mark.exhaustive
@pytest.mark.parametrize(("machine", "examples"), [(Machine, 80), (DroppingMachine, 20), (LatestMachine, 20)])
def test_resume(machine, examples):
    """Nobody gets a message twice, out of order, or with a gap that is not reported; no queue grows beyond its cap."""
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
