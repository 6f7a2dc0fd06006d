"""What is repeated, when, and what is said in the end."""

from __future__ import annotations

import json
import pickle

import pytest
from twisted_ws_publisher import BatchError, PublishError, Receipt
from twisted_ws_publisher.calls import Calls, Lost, Pause, Policy
from twisted_ws_publisher.http import Response
from twisted_ws_publisher.messages import make_message, split

PUBLISHED = Response(200, {}, b'{"channel":"a","id":"e:1","recipients":2}', True)


def refused(status: int, code: str = "unavailable", retry: str | None = None) -> Response:
    """Return an error as the server says it."""
    headers = {} if retry is None else {"retry-after": retry}
    return Response(status, headers, json.dumps({"error": code, "message": "Because."}).encode(), True)


class World:
    """A server that answers as it is told, and a clock.

    Attributes:
        sent: the requests.
        pauses: the seconds between.
    """

    def __init__(self, *answers, timeout=5.0, attempts=4):
        self.now = 100.0
        self.answers = list(answers)
        self.sent = []
        self.pauses = []
        self.calls = Calls(Policy(timeout, attempts), lambda: self.now)

    def run(self, call):
        """Do what a call says."""
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                    step = next(call)
                    continue
                self.sent.append(step.request)
                answer = self.answers.pop(0)
                step = call.throw(answer) if isinstance(answer, Exception) else call.send(answer)
        except StopIteration as end:
            return end.value

    def publish(self):
        """Publish one message."""
        return self.run(self.calls.publish(make_message("a", "x")))


@pytest.mark.parametrize(
    "trouble",
    [Lost("refused", False), Lost("reset", True), *(refused(status) for status in (408, 425, 429, 502, 503, 504))],
    ids=str,
)
def test_repeated(trouble):
    """A message is sent again, with the same idempotency key, while that may help."""
    world = World(trouble, trouble, PUBLISHED)
    assert world.publish() == Receipt("a", "e:1", 2)
    assert len(world.sent) == 3
    assert len({request.body for request in world.sent}) == 1
    assert "idempotencyKey" in json.loads(world.sent[0].body)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 500])
def test_refused(status):
    """What was refused is not sent again."""
    world = World(refused(status, "forbidden"))
    with pytest.raises(PublishError) as caught:
        world.publish()
    assert (caught.value.status, caught.value.code, str(caught.value)) == (status, "forbidden", f"Because. ({status} forbidden)")
    assert caught.value.final == (status < 500)
    assert not caught.value.may_be_done


def test_attempts():
    """After the last attempt the last error is the caller's."""
    world = World(*[refused(503)] * 4)
    with pytest.raises(PublishError) as caught:
        world.publish()
    assert (len(world.sent), caught.value.final, caught.value.may_be_done) == (4, False, False)


def test_time():
    """No pause ends after the time of the call."""
    world = World(*[refused(503, retry="3")] * 9, attempts=9)
    with pytest.raises(PublishError):
        world.publish()
    assert world.pauses == [3.0]
    world = World(refused(503, retry="6"))
    with pytest.raises(PublishError):
        world.publish()
    assert world.pauses == []


def test_late():
    """A call whose time is up is not repeated, and may be done."""
    world = World(Lost("the time is up", True, True))
    with pytest.raises(PublishError) as caught:
        world.publish()
    assert (caught.value.code, caught.value.may_be_done, caught.value.status) == ("no-answer", True, None)


def test_may_be_done():
    """What was sent once may be done, even if a later attempt was refused."""
    world = World(Lost("reset", True), *[refused(503)] * 3)
    with pytest.raises(PublishError) as caught:
        world.publish()
    assert caught.value.may_be_done


@pytest.mark.parametrize(
    ("trouble", "times"),
    [
        (Lost("refused", False), 2),
        (Lost("reset", True), 1),
        (refused(503), 2),
        (refused(429), 2),
        (refused(502), 1),
        (refused(504), 1),
    ],
    ids=str,
)
def test_broadcast(trouble, times):
    """A broadcast, which has no key, is sent again only when it was not sent before."""
    world = World(trouble, Response(200, {}, b"OK", True))
    if times == 2:
        world.run(world.calls.broadcast("x"))
    else:
        with pytest.raises(PublishError):
            world.run(world.calls.broadcast("x"))
    assert len(world.sent) == times


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"channel":"a"}', b"\xff", b"[" * 100_000])
def test_others(body):
    """What answers in the place of the server is told apart from it."""
    with pytest.raises(PublishError):
        World(Response(200, {}, body, True)).publish()
    with pytest.raises(PublishError) as caught:
        World(Response(404, {}, body, True)).publish()
    assert (caught.value.code, caught.value.status) == ("http", 404)


def test_batch():
    """Some messages of a batch may be refused; the others have their receipts."""
    results = {"results": [{"channel": "a", "id": "e:1", "recipients": 0}, {"error": "bad-channel", "message": "No."}]}
    world = World(Response(200, {}, json.dumps(results).encode(), True))
    with pytest.raises(BatchError) as caught:
        world.run(world.calls.batch([make_message("a", 1), make_message("?", 2)]))
    assert caught.value.results[0] == Receipt("a", "e:1", 0)
    assert (caught.value.errors[0].code, caught.value.errors[0].final) == ("bad-channel", True)
    assert str(caught.value) == "1 of 2 messages are not published; the first: No. (400 bad-channel)"


def test_batch_stops():
    """After a part of a batch that got no answer, no later part is sent: it would overtake."""
    messages = [make_message("a", number) for number in range(2500)]
    done = [{"channel": "a", "id": f"e:{number}", "recipients": 0} for number in range(1, 1001)]
    world = World(Response(200, {}, json.dumps({"results": done}).encode(), True), refused(403, "forbidden"))
    with pytest.raises(BatchError) as caught:
        world.run(world.calls.batch(messages))
    assert [len(json.loads(request.body)["messages"]) for request in world.sent] == [1000, 1000]
    assert (len(caught.value.results), len(caught.value.errors)) == (2500, 1500)


def test_split():
    """No request is larger than the server takes, and all messages are in one."""
    messages = [make_message("a", "x" * 400_000) for _ in range(5)] + [make_message("a", number) for number in range(1500)]
    groups = split(messages)
    assert [message for group in groups for message in group] == messages
    assert all(len(group) <= 1000 and sum(len(each.body) for each in group) < 900_000 for group in groups)


def test_pickled():
    """Errors come through a process boundary, as in a task queue."""
    error = PublishError("No.", "forbidden", 403, True)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.status, again.may_be_done) == (str(error), "forbidden", 403, True)
    batch = pickle.loads(pickle.dumps(BatchError([Receipt("a", "e:1", 0), error])))
    assert (str(batch), len(batch.errors)) == ("1 of 2 messages are not published; the first: No. (403 forbidden)", 1)


@pytest.mark.parametrize("data", [float("nan"), object(), {"a": {1, 2}}])
def test_no_json(data):
    """What JSON does not have is refused before anything is sent."""
    with pytest.raises((TypeError, ValueError)):
        make_message("a", data)
