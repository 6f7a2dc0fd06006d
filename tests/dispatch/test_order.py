"""Each caller gets what is sent to all, published to its channels and written to it alone in the order of the calls."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests.dispatch.support import Turns
from tests.memory import MemoryClient, clientFrame
from twisted_ws import Caller, Limits, WebSocketServer

CHANNELS = ("a", "a.b", "a.*", "*")
CLIENTS = 6

numbers = st.integers(0, CLIENTS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("squeeze"), st.integers(0, 12)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("broadcast"), st.just(0)),
        st.tuples(st.just("publish"), st.sampled_from(["a", "a.b"])),
        st.tuples(st.just("write"), numbers),
        st.tuples(st.just("reply"), numbers),
        st.tuples(st.just("broadcastAndReply"), numbers),
        st.tuples(st.just("subscribe"), st.tuples(numbers, st.sampled_from(CHANNELS), st.booleans())),
        st.tuples(st.just("unsubscribe"), st.tuples(numbers, st.sampled_from(CHANNELS))),
        st.tuples(st.just("connect"), numbers),
        st.tuples(st.just("close"), numbers),
        st.tuples(st.just("hangUp"), numbers),
        st.tuples(st.just("stall"), st.tuples(numbers, st.sampled_from([0, 30, None]))),
        st.tuples(st.just("flood"), numbers),
    ),
    max_size=40,
)


class Client:
    """One connection, and what it has to get.

    Attributes:
        expected: the messages, in the order of the calls.
        got: those that came.
    """

    def __init__(self, server: WebSocketServer, clock: Turns) -> None:
        self.socket = MemoryClient(server.factory(), clock)
        self.socket.connect("/room")
        self.caller: Caller = list(server.callers)[-1]
        self.expected: list[str] = []
        self.got: list[str] = []
        self.closes = False  # by the server, after what it has been sent

    def read(self) -> None:
        """Take what came, and compare it."""
        self.got += self.socket.messages()
        assert self.got == self.expected[: len(self.got)]


class Story:
    """A server whose turns are as short as the steps want, and some clients."""

    def __init__(self) -> None:
        self.clock = Turns()
        self.clock.advance(1000)
        self.server = WebSocketServer(reactor=self.clock, limits=Limits(pingInterval=0, maxSendBuffer=3000))
        self.server.mount("/room", self)
        self.count = 0
        self.answers: list[Deferred[Any]] = []
        self.history: dict[str, list[str]] = {"a": [], "a.b": []}
        self.clients: list[Client] = []
        for _ in range(CLIENTS):
            self.clients.append(Client(self.server, self.clock))
        self.everybody = list(self.clients)

    def text(self) -> str:
        self.count += 1
        return str(self.count)

    # The service.

    def onTextMessage(self, caller: Caller, what: str) -> str:
        if what == "broadcastAndReply":
            self.broadcast(0)
        reply = self.text()
        self.of(caller).expected.append(reply)
        return reply

    def onError(self, caller: Caller, error: Exception) -> None:
        """Send in the middle of whatever is being sent."""
        self.broadcast(0)
        self.publish("a")
        for client in self.clients[:2]:
            if client.caller is not caller:
                self.tell(client)

    def of(self, caller: Caller) -> Client:
        return next(each for each in self.everybody if each.caller is caller)

    # What happens.

    def broadcast(self, _: int) -> None:
        text = self.text()
        for client in self.clients:
            if client.caller.isOpen():
                client.expected.append(text)
        self.answers.append(self.server.broadcast(text))

    def publish(self, channel: str) -> None:
        text = self.text()
        self.history[channel].append(text)
        heard = {"a": {"a", "*"}, "a.b": {"a.b", "a.*", "*"}}[channel]
        for client in self.clients:
            if heard & set(client.caller.channels):
                client.expected.append(text)
        self.answers.append(self.server.publish(channel, text))

    def tell(self, client: Client) -> None:
        if client.caller.isOpen():
            text = self.text()
            client.expected.append(text)
            client.caller.writeTextMessage(text)

    def write(self, number: int) -> None:
        self.tell(self.clients[number])

    def reply(self, number: int, what: str = "reply") -> None:
        client = self.clients[number]
        if client.caller.isOpen() and client.socket.transport.reading:
            client.socket.send(clientFrame(1, what.encode()))

    def broadcastAndReply(self, number: int) -> None:
        self.reply(number, "broadcastAndReply")

    def subscribe(self, what: tuple[int, str, bool]) -> None:
        number, channel, resumes = what
        client = self.clients[number]
        if client.caller.isOpen() and channel not in client.caller.channels:
            if resumes and channel in self.history:
                client.expected += self.history[channel]
            client.caller.subscribe(channel, "0" if resumes else None)
            if resumes:
                self.turn(2)  # what was missed follows at its own pace, when a turn has time for it

    def unsubscribe(self, what: tuple[int, str]) -> None:
        number, channel = what
        self.clients[number].caller.unsubscribe(channel)

    def connect(self, number: int) -> None:
        if not self.clients[number].caller.isOpen():
            self.clients[number] = Client(self.server, self.clock)
            self.everybody.append(self.clients[number])

    def close(self, number: int) -> None:
        client = self.clients[number]
        if client.caller.isOpen():
            client.closes = True
            client.caller.close()

    def hangUp(self, number: int) -> None:
        client = self.clients[number]
        client.read()
        client.closes = False
        client.socket.hangUp()

    def stall(self, what: tuple[int, int | None]) -> None:
        number, room = what
        self.clients[number].socket.transport.room = room

    def flood(self, number: int) -> None:
        """Be too slow for what comes."""
        client = self.clients[number]
        client.socket.transport.room = 0
        for _ in range(30):
            self.tell(client)

    def squeeze(self, left: int) -> None:
        """Have the turn be taken by other work, but for some steps."""
        turns = self.server.runtime.turns
        turns.spend(max(turns.left - left, 0))

    def turn(self, count: int) -> None:
        for _ in range(count):
            self.clock.turn()

    def step(self, what: str, how: Any) -> None:
        getattr(self, what)(how)
        for client in self.everybody:
            client.read()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(steps)
@example([("squeeze", 0), ("publish", "a"), ("subscribe", (0, "a", True))])
@example([("squeeze", 0), ("publish", "a"), ("broadcast", 0), ("subscribe", (0, "a", True)), ("broadcast", 0)])
def test_inOrder(happens: list[tuple[str, Any]]) -> None:
    """However few fit into a turn, and whoever comes, leaves, stalls or sends meanwhile, everybody gets each message once."""
    story = Story()
    for step in happens:
        story.step(*step)
    for client in story.everybody:
        client.socket.transport.room = None
    while story.clock.getDelayedCalls() and any(not each.called for each in story.answers):
        story.clock.turn()
    for client in story.everybody:
        client.read()
        if client.caller.isOpen() or client.closes:
            assert client.got == client.expected
    assert all(isinstance(each.result, int) or each.result.recipients >= 0 for each in story.answers)
    assert not story.server.runtime.fanOuts.pending


def test_countsAndOrderOfMany() -> None:
    """Several messages to a thousand callers take turns of bounded length, and the answers give the number of recipients."""
    story = Story()
    for _ in range(1000 - CLIENTS):
        story.clients.append(Client(story.server, story.clock))
        story.clock.turn()
    story.everybody = story.clients
    for client in story.clients[:600]:
        client.caller.subscribe("a")
    story.clock.turn()
    for _ in range(5):
        story.broadcast(0)
        story.publish("a")
    story.write(998)
    story.write(1)
    for client in story.clients:
        client.read()
    turns, before = 0, sum(len(client.got) for client in story.clients)
    assert before < 3000
    while not all(each.called for each in story.answers):
        story.clock.turn()
        for client in story.clients:
            client.read()
        now = sum(len(client.got) for client in story.clients)
        assert now - before <= 2048
        before, turns = now, turns + 1
    assert turns > 5
    assert all(client.got == client.expected for client in story.clients)
    assert [getattr(each.result, "recipients", each.result) for each in story.answers] == [1000, 600] * 5
