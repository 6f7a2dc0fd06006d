"""Subscribers that resume after each fault: a process that counts the messages that it got, and those reported as lost.

It reads commands from standard input, and answers each with a line of JSON on standard output:

- ``begin``: connect all, and answer when all are subscribed;
- ``cut``, ``leave``, ``vanish``: end all connections, with a reset, without one, or silently; a subscriber that has vanished
  reconnects when it has heard nothing for a while;
- ``away``, ``back``: the same as ``cut``, but do not reconnect; reconnect;
- ``pause``, ``read``: stop reading; read again;
- ``rest NUMBERS``: wait for the messages up to these numbers, one for each channel, and return the counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from hostile.peer import blackhole, frames, unverified, upgrade

__all__ = ["KINDS", "Reader", "main"]

# Seconds between two tries; of silence before a client considers its connection dead; for everything to arrive at the end; after
# which a message is late.
RETRY, SILENCE, PATIENCE, LATE = 0.1, 3.0, 60.0, 1.0
_V1 = "Sec-WebSocket-Protocol: twisted-ws.v1"


@dataclass
class Reader:
    """What one subscriber has got from one channel.

    Attributes:
        dropping: whether the policy may drop messages, which the client notices when offsets jump.
        belated: whether a report of a loss is about everything before it, not only about what follows the last message.
        position: the id of the last message, or that of the subscription.
        seen: all numbers seen.
        told: the numbers that were reported as lost.
        doubled: the number of messages that came twice.
        disordered: the number of messages that came after a later one.
        pardon: whether a loss before the next message was reported.
        last: the greatest number seen.
        alarms: how often a loss was reported, whether or not there was one.
        jumps: ids that do not follow on the one before, although no loss was reported.
    """

    dropping: bool = False
    belated: bool = False
    position: str = ""
    seen: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    doubled: int = 0
    disordered: int = 0
    pardon: bool = False
    last: int = -1
    alarms: int = 0
    jumps: int = 0

    def begins(self, position: str, recovered: bool, asked: bool) -> None:
        """Handle the answer to a subscription."""
        if asked and not recovered:
            self.missed()
        self.position = position

    def missed(self) -> None:
        """Learn that messages were lost."""
        self.alarms += 1
        self.pardon = True

    def took(self, number: int, position: str = "") -> None:
        """Take a message; without its id if the transport shows none."""
        jumped = bool(position) and self._jumped(position)
        if (position and self._went(position) < 1) or (jumped and not self.dropping and not self.pardon):
            self.jumps += 1
        self.position = position or self.position
        if number in self.seen:
            self.doubled += 1
            return
        self.seen.add(number)
        if number < self.last:
            self.disordered += 1
            return
        if self.pardon or (self.dropping and jumped):
            self.told.update(set(range(0 if self.belated else self.last + 1, number)) - self.seen)
        self.pardon = False
        self.last = number

    def _jumped(self, position: str) -> bool:
        return self._went(position) > 1

    def _went(self, position: str) -> int:
        """Return how far the offset went on; 1 if the id is of another epoch, because offsets may begin anew then."""
        (before, _, offset), (now, _, next_) = self.position.partition(":"), position.partition(":")
        return int(next_) - int(offset) if before == now and offset else 1

    def silent(self, published: int, unsure: set[int]) -> list[int]:
        """Return the numbers that never came, without a word."""
        due = set(range(published)) - unsure
        return sorted(due - self.seen - self.told) if not self.pardon else []

    def account(self, published: int, unsure: set[int]) -> dict[str, int]:
        """Return the counts of the messages below `published`, except the unsure ones."""
        due = set(range(published)) - unsure
        if self.pardon:
            self.told |= due - self.seen
        return {
            "delivered": len(self.seen),
            "silent": len(due - self.seen - self.told),
            "told": len((self.told & due) - self.seen),
            "doubled": self.doubled,
            "disordered": self.disordered,
            "alarms": self.alarms,
            "jumps": self.jumps,
        }


class Subscribers:
    """All subscribers."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.places: list[dict[str, int]] = words["places"]
        self.silence: float = words.get("silence", SILENCE)
        self.mount: str = words["mount"]
        self.channels: list[str] = words["channels"]
        self.dropping = self.mount in ("/drop", "/latest")
        self.belated: bool = words.get("belated", False)
        self.tls = unverified()
        self.home = asyncio.Event()
        self.home.set()
        self.paused = False
        kinds = [KINDS[name] for name in words["kinds"]]
        self.ids: dict[str, dict[int, str]] = {name: {} for name in self.channels}
        self.late = 0.0
        secure = (False, True) if words["secure"] else (False,)
        count = words["count"]
        self.all = [kind(self, tls, number) for kind in kinds for tls in secure for number in range(count)]
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> dict[str, Any]:
        """Connect all."""
        self._tasks = [asyncio.create_task(each.run()) for each in self.all]
        await asyncio.wait_for(asyncio.gather(*(each.ready.wait() for each in self.all)), PATIENCE)
        return {"subscribers": len(self.all)}

    async def cut(self) -> dict[str, Any]:
        """Reset all connections."""
        for each in self.all:
            each.cut()
        return {}

    async def leave(self) -> dict[str, Any]:
        """Close all connections."""
        for each in self.all:
            each.leave()
        return {}

    async def vanish(self) -> dict[str, Any]:
        """Keep all connections open, but discard everything that arrives on them."""
        for each in self.all:
            each.vanish()
        return {}

    async def away(self) -> dict[str, Any]:
        """Reset all connections, and do not reconnect."""
        self.home.clear()
        return await self.cut()

    async def back(self) -> dict[str, Any]:
        """Reconnect."""
        self.home.set()
        return {}

    async def pause(self) -> dict[str, Any]:
        """Stop reading."""
        self.paused = True
        for each in self.all:
            each.pause()
        return {}

    async def read(self) -> dict[str, Any]:
        """Read again."""
        self.paused = False
        for each in self.all:
            each.resume()
        return {}

    async def rest(self, numbers: str, unsure: str) -> dict[str, Any]:
        """Wait until all subscribers have the last message of each channel, and return the counts by kind."""
        published: dict[str, int] = json.loads(numbers)
        unknown = {name: set(found) for name, found in json.loads(unsure).items()}
        end = time.monotonic() + PATIENCE
        # What nobody can know of need not come.
        wanted = {name: max(set(range(count)) - unknown[name], default=-1) for name, count in published.items()}
        while time.monotonic() < end and not all(each.has(wanted) for each in self.all):
            await asyncio.sleep(0.05)
        found: dict[str, dict[str, int]] = {}
        missing: list[str] = []
        for each in self.all:
            kind = found.setdefault(each.kind + (", TLS" if each.secure else ""), {})
            for name, reader in each.readers.items():
                for number in reader.silent(published[name], unknown[name]):
                    missing.append(f"{number} of {name} to {each.kind}")
                for what, count in reader.account(published[name], unknown[name]).items():
                    kind[what] = kind.get(what, 0) + count
        connects = sum(each.connects for each in self.all)
        return {
            "kinds": found,
            "subscribers": len(self.all),
            "connects": connects,
            "late": self.late,
            "missing": missing[:5],
            "strange": self.strange(),
        }

    def strange(self) -> list[str]:
        """Return the unexpected responses."""
        return [each.strange for each in self.all if each.strange][:5]


class Subscriber(asyncio.Protocol):
    """A subscriber that reconnects whenever its connection ends."""

    kind = ""

    def __init__(self, owner: Subscribers, secure: bool, number: int) -> None:
        self.owner = owner
        self.secure = secure
        self.place = number % len(owner.places)
        names = owner.channels
        self.readers = {name: Reader(owner.dropping, owner.belated) for name in self.choose(names, number)}
        self.ready = asyncio.Event()
        self.connects = 0
        self.strange = ""
        self.transport: Any = None
        self.heard = 0.0
        self.data = bytearray()
        self.gone = asyncio.Event()

    def choose(self, names: list[str], number: int) -> list[str]:
        """Return the channels of this subscriber."""
        return [names[number % len(names)]]

    def has(self, wanted: dict[str, int]) -> bool:
        """Return whether the last message of each channel has come."""
        return all(reader.last >= wanted[name] for name, reader in self.readers.items())

    async def run(self) -> None:
        """Connect again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await self.owner.home.wait()
            self.gone, self.data = asyncio.Event(), bytearray()
            tls = self.owner.tls if self.secure else None
            where = ("127.0.0.1", self.owner.places[self.place]["tls" if self.secure else "ws"])
            try:
                await loop.create_connection(lambda: self, *where, ssl=tls, server_hostname="localhost" if tls else None)
                await self._watch()
            except OSError:
                pass
            # As if a balancer stood before the servers.
            self.place = random.randrange(len(self.owner.places))
            await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

    async def _watch(self) -> None:
        """Wait for the end; give up a connection that is silent for too long, and make another one."""
        while not self.gone.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), 0.2)
            if time.monotonic() - self.heard > self.owner.silence and not self.owner.paused:
                self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Request what follows the last message."""
        self.transport, self.heard = transport, time.monotonic()
        self.connects += 1
        if self.owner.paused:
            transport.pause_reading()
        self.ask()

    def data_received(self, data: bytes) -> None:
        """Read what can be read."""
        self.heard = time.monotonic()
        self.data += data
        self.take()

    def connection_lost(self, error: Exception | None) -> None:
        """Reconnect."""
        self.gone.set()

    def ask(self) -> None:
        """Ask."""
        raise NotImplementedError

    def take(self) -> None:
        """Read."""
        raise NotImplementedError

    def took(self, channel: str, data: str, position: str) -> None:
        """Handle a message: a number, the time at which it was sent first, and padding."""
        number, sent, _ = data.split(" ", 2)
        now = time.monotonic()
        if now - float(sent) > LATE:
            self.owner.late = now
        if position:
            self.owner.ids[channel][int(number)] = position
        self.readers[channel].took(int(number), position)

    def begins(self, channel: str, position: str, recovered: bool) -> None:
        """Handle an answer to a subscription."""
        reader = self.readers[channel]
        reader.begins(position, recovered, asked=bool(reader.position))
        if all(each.position for each in self.readers.values()):
            self.ready.set()

    def target(self, **query: str) -> str:
        """Return the path and query for these channels."""
        first, *more = self.readers
        words = [f"channel={name}" for name in more] + [f"{name}={value}" for name, value in query.items() if value]
        return f"{self.owner.mount}/{first}" + ("?" + "&".join(words) if words else "")

    # What happens to a connection.

    def cut(self) -> None:
        """Reset the connection."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # it is already gone
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
        self.transport.abort()

    def leave(self) -> None:
        """Close the connection normally."""
        self.transport.close()

    def vanish(self) -> None:
        """Discard everything that arrives, and acknowledge nothing."""
        with contextlib.suppress(OSError, AttributeError):
            blackhole(self.transport.get_extra_info("socket"))

    def pause(self) -> None:
        """Stop reading."""
        with contextlib.suppress(RuntimeError):
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        with contextlib.suppress(RuntimeError):
            self.transport.resume_reading()


class Json(Subscriber):
    """JSON frames of two channels over a WebSocket."""

    kind = "WebSocket"

    def choose(self, names: list[str], number: int) -> list[str]:
        """Return two channels."""
        return [names[number % len(names)], names[(number + 1) % len(names)]]

    def ask(self) -> None:
        """Begin the handshake."""
        self._upgraded = False
        first = next(iter(self.readers))
        after = self.readers[first].position
        self.transport.write(upgrade(f"{self.owner.mount}/{first}" + (f"?after={after}" if after else ""), _V1))

    def take(self) -> None:
        """Read frames."""
        if not self._upgraded:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.close()  # the server is stopping, or the proxy's server is
                return
            self._upgraded, self.data = True, bytearray(rest)
            for name, reader in list(self.readers.items())[1:]:
                words = {"type": "subscribe", "channel": name, **({"after": reader.position} if reader.position else {})}
                self._send(1, json.dumps(words).encode())
        for opcode, payload in frames(self.data):
            if opcode == 1:
                self._frame(json.loads(payload))
            elif opcode == 9:
                self._send(10, payload)
            elif opcode == 8:
                self.transport.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
        self.transport.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def _frame(self, found: dict[str, Any]) -> None:
        match found["type"]:
            case "message":
                self.took(found["channel"], found["data"], found["id"])
            case "subscribed":
                self.begins(found["channel"], found["id"], found["recovered"])
            case "error":
                self.strange = json.dumps(found)
                self.transport.close()


class Raw(Json):
    """Messages as they were published, of one channel over a WebSocket.

    They have no ids. So that it can resume, it asks a subscriber that sees them for the id of its last message.
    """

    kind = "WebSocket, raw"
    _NOT_RECOVERED = 4410
    _anew = False
    _waits = 0

    def choose(self, names: list[str], number: int) -> list[str]:
        """Return one channel."""
        return [names[number % len(names)]]

    def ask(self) -> None:
        """Begin the handshake; later, if nobody has seen the last message yet."""
        ((name, reader),) = self.readers.items()
        after = "0" if reader.last < 0 else self.owner.ids[name].get(reader.last, "")
        self._waits = 0 if after else self._waits + 1
        if self._waits > 10:
            self._anew = True
        if self._anew:
            self._anew, self._waits, after = False, 0, ""
            reader.missed()
        elif not after:
            self.transport.close()
            return
        self._upgraded = False
        self.transport.write(upgrade(f"{self.owner.mount}/{name}" + (f"?after={after}" if after else "")))

    def take(self) -> None:
        """Read frames."""
        (name,) = self.readers
        if not self._upgraded:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.close()
                return
            self._upgraded, self.data = True, bytearray(rest)
            self.ready.set()
        for opcode, payload in frames(self.data):
            if opcode == 1:
                self.took(name, payload.decode(), "")
            elif opcode == 9:
                self._send(10, payload)
            elif opcode == 8:
                self._anew = payload[:2] == struct.pack("!H", self._NOT_RECOVERED)
                self.transport.close()


class Http(Subscriber):
    """The common part of HTTP subscribers."""

    def get(self, target: str, *lines: str) -> None:
        """Send a request."""
        more = "".join(f"{line}\r\n" for line in lines)
        self.transport.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())

    def head(self) -> str:
        """Return the head of a response in lower case; "" if it is incomplete. A status other than 200 ends the connection."""
        head, end, rest = self.data.partition(b"\r\n\r\n")
        if not end:
            return ""
        self.data = bytearray(rest)
        text = head.decode("latin-1").lower()
        status = text[9:12]
        if status != "200":
            if status not in ("503", "502", "504"):
                self.strange = text[:80]
            self.transport.close()
            return ""
        return text


class Events(Http):
    """A raw event stream of one channel."""

    kind = "event stream"

    def ask(self) -> None:
        """Send the position as EventSource does."""
        self._head, self._text = "", bytearray()
        self._event = self._data = self._id = ""
        last = self.last()
        self.get(self.target(), "Accept: text/event-stream", *([f"Last-Event-ID: {last}"] if last else []))

    def last(self) -> str:
        """Return the id to resume from."""
        return next(iter(self.readers.values())).position

    def take(self) -> None:
        """Read lines, chunked or not."""
        if not self._head:
            self._head = self.head()
            if not self._head:
                return
        if "transfer-encoding: chunked" in self._head:
            while (end := self.data.find(b"\r\n")) >= 0:
                size = int(self.data[:end].partition(b";")[0], 16)
                if len(self.data) < end + 2 + size + 2:
                    break
                self._text += self.data[end + 2 : end + 2 + size]
                del self.data[: end + 2 + size + 2]
                if not size:
                    self.transport.close()
        else:
            self._text += self.data
            self.data.clear()
        *lines, rest = self._text.split(b"\n")
        self._text = bytearray(rest)
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data = value
        elif name == "id":
            self._id = value
        elif not line:
            if self._data:
                self.event(self._event, self._data, self._id)
            self._event = self._data = ""

    def event(self, event: str, data: str, position: str) -> None:
        """Take an event."""
        (channel,) = self.readers
        if event == "subscribed":
            self.begins(channel, position, json.loads(data)["recovered"])
        elif not event:
            self.took(channel, data, position)


class ManyEvents(Events):
    """A JSON event stream of three channels, which resumes from a cursor."""

    kind = "event stream of three"
    _cursor = ""

    def choose(self, names: list[str], number: int) -> list[str]:
        """Return three channels."""
        return [names[(number + each) % len(names)] for each in range(3)]

    def last(self) -> str:
        """Return the cursor."""
        return self._cursor

    def event(self, event: str, data: str, position: str) -> None:
        """Take a frame."""
        self._cursor = position
        found = json.loads(data)
        if found["type"] == "message":
            self.took(found["channel"], found["data"], found["id"])
        elif found["type"] == "subscribed":
            self.begins(found["channel"], found["id"], found["recovered"])


class Poll(Http):
    """Long polls of one channel."""

    kind = "poll"
    _cursor = ""

    def ask(self) -> None:
        """Poll."""
        self._size = -1
        self._asked = bool(self._cursor)
        self.get(self.target(after=self._cursor, wait="2" if self._cursor else ""))

    def take(self) -> None:
        """Read a response, and poll again."""
        if self._size < 0:
            head = self.head()
            if not head:
                return
            self._size = int(head.partition("content-length:")[2].partition("\r\n")[0])
        if len(self.data) < self._size:
            return
        answer = json.loads(self.data[: self._size])
        del self.data[: self._size]
        for name, reader in self.readers.items():
            if not self._cursor:
                self.begins(name, answer["id"] if len(self.readers) == 1 else ":0", recovered=True)
            elif not answer["recovered"]:
                reader.missed()
        self._cursor = answer["id"]
        for message in answer["messages"]:
            self.took(message["channel"], message["data"], message["id"])
        self.ask()


class ManyPolls(Poll):
    """Long polls of three channels, which resume from a cursor."""

    kind = "poll of three"

    def choose(self, names: list[str], number: int) -> list[str]:
        """Return three channels."""
        return [names[(number + each) % len(names)] for each in range(3)]


KINDS: dict[str, type[Subscriber]] = {each.kind: each for each in (Json, Raw, Events, ManyEvents, Poll, ManyPolls)}


async def _main(words: dict[str, Any]) -> None:
    owner = Subscribers(words)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    commands: dict[str, Any] = {
        name: getattr(owner, name) for name in ("begin", "cut", "leave", "vanish", "away", "back", "pause", "read", "rest")
    }
    while line := (await reader.readline()).decode().strip():
        name, *arguments = line.split("\t")
        print(json.dumps(await commands[name](*arguments)), flush=True)


def main() -> None:
    """Run the commands on standard input."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
