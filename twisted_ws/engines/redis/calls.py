"""What is asked of all nodes, by pub/sub: one asks, each answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.engines.contract import MaybeDeferred
from twisted_ws.limits import KIB
from twisted_ws.wire.loop.wheel import Wheel

# Seconds for the answers of all nodes.
ANSWER = 1.0
# Calls that are remembered: one that was sent again is answered again, and not done again.
REMEMBERED = 1024
# Bytes of an answer that is kept for that: a larger one only shows something, and whoever has not got it asks anew.
KEPT = 4 * KIB

_log = Logger()


class _Call(msgspec.Struct, array_like=True):
    """What is said to all: who asks, a number of its own, what kind, and about what."""

    node: str
    number: int
    kind: str
    payload: bytes


class _Answer(msgspec.Struct, array_like=True):
    """What one node answers."""

    node: str
    number: int
    payload: bytes


_encode = msgspec.msgpack.Encoder().encode
_decodeCall = msgspec.msgpack.Decoder(_Call).decode
_decodeAnswer = msgspec.msgpack.Decoder(_Answer).decode


class _Asked:
    """A call of ours that waits for answers.

    Attributes:
        later: fires with the answers.
    """

    __slots__ = ("_end", "_expected", "answers", "later", "number", "wheelSlot")

    def __init__(self, number: int, end: Callable[[_Asked], None]) -> None:
        self.number = number
        self.answers: dict[str, bytes] = {}
        self.later: Deferred[list[bytes]] = Deferred(lambda _: end(self))
        self._expected: frozenset[str] | None = None
        self._end = end
        self.wheelSlot: int | None = None

    def expect(self, nodes: frozenset[str]) -> None:
        """Learn who is alive."""
        self._expected = nodes
        self.look()

    def look(self) -> None:
        """Answer if everybody has."""
        if self._expected is not None and self._expected <= self.answers.keys():
            self._end(self)
            self.later.callback([*self.answers.values()])

    def fail(self, failure: Any) -> None:
        """Refuse: it could not be said."""
        self._end(self)
        if not self.later.called:
            self.later.errback(failure)

    def deadlineReached(self, now: float) -> None:
        """Answer with what is known; called by the wheel."""
        self._end(self)
        if not self.later.called:
            self.later.callback([*self.answers.values()])


class Calls:
    """The calls of all nodes.

    Args:
        node: the id of this one.
        wheel: for deadlines.
        handle: does what a call says; takes its kind and payload, and what is the call's alone: a node and a number.
        send: sends an answer to a node.
    """

    def __init__(
        self,
        node: str,
        wheel: Wheel,
        handle: Callable[[str, bytes, tuple[str, int]], MaybeDeferred[bytes]],
        send: Callable[[str, bytes], None],
    ) -> None:
        self._node = node
        self._wheel = wheel
        self._handle = handle
        self._send = send
        self._numbers = 0
        self._asked: dict[int, _Asked] = {}
        self._answered: OrderedDict[tuple[str, int], bytes | None] = OrderedDict()

    def ask(self, kind: str, payload: bytes, say: Callable[[bytes], Deferred[frozenset[str]]]) -> Deferred[list[bytes]]:
        """Ask all nodes.

        Args:
            kind: what.
            payload: about what.
            say: says it, and returns a Deferred of the nodes that are alive.

        Returns:
            A Deferred of the answers of all that are alive, or after a second of those that have come.
        """
        self._numbers += 1
        asked = self._asked[self._numbers] = _Asked(self._numbers, self._forget)

        def said(nodes: frozenset[str]) -> None:
            if asked.number in self._asked:
                self._wheel.after(asked, ANSWER)
                asked.expect(nodes)

        say(b"call " + _encode(_Call(self._node, self._numbers, kind, payload))).addCallbacks(said, asked.fail)
        return asked.later

    def called(self, data: bytes) -> None:
        """Do what a node has said, once, and answer."""
        try:
            call = _decodeCall(data)
        except ValueError:
            _log.warn("Another node has sent something that this version does not understand.", event="engine.foreign")
            return
        which = call.node, call.number
        if which in self._answered:
            known = self._answered[which]
            if known is not None:
                self._reply(call, known)
            return
        self._answered[which] = None
        if len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)
        result = self._handle(call.kind, call.payload, which)
        if isinstance(result, Deferred):
            result.addCallback(lambda done: self._done(call, done)).addErrback(
                lambda failure: _log.failure("a call of another node failed", failure, event="engine.failed")
            )
        else:
            self._done(call, result)

    def answered(self, data: bytes) -> None:
        """Take an answer to a call of ours."""
        try:
            answer = _decodeAnswer(data)
        except ValueError:
            _log.warn("Another node has given an answer that this version does not understand.", event="engine.foreign")
            return
        asked = self._asked.get(answer.number)
        if asked is not None:
            asked.answers[answer.node] = answer.payload
            asked.look()

    def _done(self, call: _Call, result: bytes) -> None:
        if (call.node, call.number) in self._answered:
            self._answered[call.node, call.number] = result if len(result) <= KEPT else None
        self._reply(call, result)

    def _reply(self, call: _Call, result: bytes) -> None:
        answer = _encode(_Answer(self._node, call.number, result))
        if call.node == self._node:
            self.answered(answer)
        else:
            self._send(call.node, b"answer " + answer)

    def _forget(self, asked: _Asked) -> None:
        self._wheel.drop(asked)
        self._asked.pop(asked.number, None)
