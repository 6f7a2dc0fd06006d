"""Channels without a server, and subscribers that write down what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.memory import SteadyClock
from twisted_ws.channels.channels import Channels
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.channels.visitor import Visitor
from twisted_ws.engines.contract import EngineState, History, Members, Node
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.frames import OutgoingMessage
from twisted_ws.limits import Limits
from twisted_ws.message import Kind, Position, Publication, Published, Start
from twisted_ws.server.callers import OpenCallers
from twisted_ws.server.node import LocalNode
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.websocket.runtime import Runtime


def identity(publication: Publication) -> Publication:
    """A format that leaves a publication as it is."""
    return publication


def other(publication: Publication) -> tuple[Publication]:
    """Another format."""
    return (publication,)


class Ear(Subscriber):
    """Writes down what it is given.

    Attributes:
        heard: each message as text, live or missed.
        starts: the answers to subscriptions.
        ends: (channel, reason) of subscriptions that ended.
        notices: the frames about presence.
        lossesAt: the positions that its subscriptions went on from after a loss.
        degradations: whether the engine was away, each time it was told.
        onHear: called with each message that came live.
    """

    format = staticmethod(identity)

    def __init__(self, user: str | None = None) -> None:
        super().__init__(Visitor(UpgradeRequest("/channels")))
        self.caller.user = user
        self.heard: list[str] = []
        self.ids: list[str] = []
        self.starts: list[Start] = []
        self.ends: list[tuple[str, str]] = []
        self.notices: list[bytes] = []
        self.lossesAt: list[Position | None] = []
        self.degradations: list[bool] = []
        self.onHear: Callable[[str], Any] = lambda text: None

    def begin(self, start: Start, publications: list[Publication], who: dict[str, Any] | None) -> None:
        self.starts.append(start)
        self.who = who
        for each in publications:
            self._hear(each)

    def send(self, message: Any) -> bool:
        publication = message[0] if isinstance(message, tuple) else message
        self._hear(publication)
        self.onHear(self.heard[-1])
        return True

    def ended(self, channel: str, reason: str) -> None:
        self.ends.append((channel, reason))

    def lost(self, start: Start) -> None:
        self.lossesAt.append(start.position)

    def degraded(self, isDegraded: bool) -> None:
        self.degradations.append(isDegraded)

    def tell(self, notices: Sequence[OutgoingMessage]) -> None:
        self.notices += [each.payload for each in notices]

    def _hear(self, publication: Publication) -> None:
        self.heard.append(publication.payload.decode())
        self.ids.append(str(publication.position))


class OtherEar(Ear):
    """The same with another format."""

    format = staticmethod(other)


class World:
    """Channels in memory, and a clock."""

    def __init__(self, engine: Any = None, clock: Clock | None = None, **limits: Any) -> None:
        self.clock = clock or SteadyClock()
        self.clock.advance(1000)
        self.limits = Limits(**limits)
        self.runtime = Runtime(self.clock, self.limits)
        self.wheel, self.fanOuts = self.runtime.wheel, self.runtime.fanOuts
        self.engine: Any = engine or MemoryEngine(self.limits, self.wheel, self.clock.seconds, "e")
        self.channels = Channels(self.engine, self.runtime)
        self.node = LocalNode(OpenCallers(self.fanOuts), self.runtime.turns, "0")
        self.node.attach(self.channels)
        self.engine.start(self.node)

    def publish(self, channel: str, *messages: Any) -> list[Published]:
        return [self.now(self.channels.publish(channel, message)) for message in messages]

    def subscribe(self, ear: Subscriber, channel: str, after: str | None = None, info: Any = None) -> Start:
        return self.now(self.channels.subscribe(ear, channel, after, info))

    def now(self, answer: Deferred[Any]) -> Any:
        """Return what a Deferred has fired with already."""
        results: list[Any] = []
        answer.addCallback(results.append)
        assert results, "it has not fired"
        return results[0]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class LateEngine:
    """Another process: it answers when it is told to, and passes messages on by itself.

    Attributes:
        asked: the Deferreds of its answers, in order.
        questions: what was asked, in the same order.
        watched: the channels it passes on.
        entered: the users on channels, as it was told: (channel, user) by connection.
    """

    state = EngineState.UP

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []
        self.questions: list[tuple[Any, ...]] = []
        self.watched: list[str] = []
        self.entered: dict[tuple[str, str], str] = {}

    def start(self, node: Node) -> None:
        self.node = node

    def receive(self, publication: Publication) -> Any:
        return self.node.received(publication)

    def tell(self, state: EngineState) -> None:
        self.state = state
        self.node.stateChanged(state)

    def message(self, offset: int, text: str = "", channel: str = "a", epoch: str = "e") -> Publication:
        return Publication(channel, epoch, offset, Kind.TEXT, (text or str(offset)).encode(), None, 0.0)

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> Deferred[History]:
        return self._ask("since", channel, after)

    def watch(self, channel: str, by: Any = None) -> Deferred[Position | None]:
        assert channel not in self.watched
        self.watched.append(channel)
        return self._ask("watch", channel)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        self.entered[channel, connection] = user

    def leave(self, channel: str, connection: str) -> None:
        del self.entered[channel, connection]

    def members(self, channel: str, after: str, limit: int, size: int) -> Deferred[Members]:
        return self._ask("members", channel)

    def unwatch(self, channel: str) -> None:
        self.watched = [each for each in self.watched if each != channel]

    def publish(self, *arguments: Any) -> Deferred[Published]:
        return self._ask("publish", *arguments)

    def forget(self, channel: str) -> Deferred[int]:
        return self._ask("forget", channel)

    def _ask(self, *question: Any) -> Deferred[Any]:
        self.questions.append(question)
        self.asked.append(Deferred())
        return self.asked[-1]
