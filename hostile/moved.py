"""Clients that must notice nothing while their connections move from one process of the server to another.

Each has one connection all the time: it never reconnects. Those of channels and patterns get numbered messages; those of a
service ask it for a counter that the service keeps with the connection.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from hostile.peer import frame, frames, upgrade

__all__ = ["KINDS", "Client", "Crowd", "Publications", "Tally", "versions"]

# Seconds that the last messages may take.
PATIENCE = 60.0
# Connections that are opened at once.
TOGETHER = 64

# By kind: path, with the number of a channel, and more lines of the handshake's head.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "raw": ("/channels/moved.{}.all", ()),
    "json": ("/channels?channel=moved.{}.all", ("Sec-WebSocket-Protocol: twisted-ws.v1",)),
    "pattern": ("/patterns?channel=moved.*", ("Sec-WebSocket-Protocol: twisted-ws.v1",)),
    "deflate": (
        "/channels/moved.{}.all",
        ("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover",),
    ),
    "counter": ("/counter", ()),
    "listener": ("/listen", ()),
    "stream": ("/channels/moved.{}.all", ()),
    "stream of a pattern": ("/patterns?channel=moved.*", ()),
    # The same of one channel each, of which there can be thousands: each gets what a subscriber of a channel gets.
    "narrow pattern": ("/patterns?channel=moved.{}.*", ("Sec-WebSocket-Protocol: twisted-ws.v1",)),
    "stream of a narrow pattern": ("/patterns?channel=moved.{}.*", ()),
}
# How the text of a broadcast begins.
BROADCAST = "broadcast"
_STREAM = "GET {} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


class Client:
    """One connection.

    Attributes:
        kind: see `KINDS`.
        channels: the numbers of the channels of which it gets all messages; that of broadcasts is one more than the last.
        closed: how it was closed; "" while it is open.
        gaps: messages that never came before a later one, doubled, disordered: counts.
        got: how many messages came; of a counter, answers.
        asked: how often it has asked.
        longest: seconds from publication to arrival, at most; of a counter, from question to answer.
        said: what else an answer of the counter says, the last time.
    """

    def __init__(self, kind: str, number: int, channels: int) -> None:
        self.kind = kind
        path, lines = KINDS[kind]
        self.isStream = kind.startswith("stream")
        path = path.format(number % channels)
        self.head = _STREAM.format(path).encode() if self.isStream else upgrade(path, *lines)
        self.channels = [*range(channels)] if kind in ("pattern", "stream of a pattern") else [number % channels]
        if kind in ("counter", "listener"):
            self.channels = [channels] if kind == "listener" else []
        self.closed = ""
        self.gaps = self.doubled = self.disordered = self.got = self.asked = 0
        self.said = ""
        self.longest = 0.0
        self.last: dict[str, int] = {}
        self.isReady = False
        self._askedAt = 0.0
        self._data = bytearray()
        self.socket = socket.socket()

    def came(self, data: bytes) -> None:
        """Take what has come."""
        if not data:
            self.closed = self.closed or "1006"
            return
        self._data += data
        if not self.isReady:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200 " if self.isStream else b"HTTP/1.1 101 "):
                self.closed = head[:40].decode("latin-1")
                return
            self.isReady = True
            self._data = rest
        if self.isStream:
            self._chunks()
            return
        for opcode, payload in frames(self._data):
            if opcode & 0xF == 8:
                self.closed = str(int.from_bytes(payload[:2], "big"))
            elif opcode & 0xF == 9:
                self.socket.sendall(frame(10, payload))
            elif opcode & 0xF == 1:
                self._message(payload)

    def _chunks(self) -> None:
        while b"\r\n" in self._data:
            size, _, rest = self._data.partition(b"\r\n")
            count = int(size, 16)
            if len(rest) < count + 2:
                return
            if not count:
                self.closed = "ended"
                return
            for event in bytes(rest[:count]).decode().split("\n\n"):
                lines = [line.removeprefix("data: ") for line in event.split("\n") if line.startswith("data: ")]
                if lines and "event: " not in event:
                    self._message(lines[0].encode())
            self._data = rest[count + 2 :]

    def _message(self, payload: bytes) -> None:
        if self.kind == "deflate" and not payload.startswith(b"moved."):
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        text = payload.decode()
        if text.startswith("{"):
            found = json.loads(text)
            if found["type"] not in ("message", "broadcast"):
                return
            text = found["data"]
        if self.kind == "counter" and not text.startswith(BROADCAST):
            number, _, self.said = text.partition(" ")
            self.longest = max(self.longest, time.monotonic() - self._askedAt)
            self._count("counter", int(number))
        else:
            name, _, rest = text.partition(" ")
            number, at = rest.rstrip("x").split(" ")
            self.longest = max(self.longest, time.monotonic() - float(at))
            self._count(name, int(number))

    def _count(self, name: str, number: int) -> None:
        self.got += self.kind != "counter" or name == "counter"
        last = self.last.get(name, 0 if name == "counter" else -1)
        if number == last + 1:
            self.last[name] = number
        elif number > last:
            self.gaps += number - last - 1
            self.last[name] = number
        elif number == last:
            self.doubled += 1
        else:
            self.disordered += 1

    def ask(self) -> None:
        """Ask for the counter."""
        self.asked += 1
        self._askedAt = time.monotonic()
        self.socket.sendall(frame(1, b"next"))


@dataclass
class Tally:
    """What all clients of a kind have noticed; all but the first two must be 0.

    Attributes:
        clients, got: how many, and how many messages they got.
        closed, lost, doubled, disordered: what must not have happened.
        how: the codes of the closes.
    """

    clients: int = 0
    got: int = 0
    closed: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    how: set[str] = field(default_factory=set)

    @property
    def isWhole(self) -> bool:
        """Whether nobody has noticed anything."""
        return not (self.closed or self.lost or self.doubled or self.disordered)


class Publications:
    """Publishes numbered messages to the channels in turn, at a rate, until it is stopped.

    Args:
        port: of the broadcast site.
        channels: how many channels there are.
        rate: messages a second.
        size: characters of each.
        broadcasts: whether one in each turn is a broadcast.

    Attributes:
        counts: how many each channel has got, by its name.
        wrong: what went wrong.
    """

    def __init__(self, port: int, channels: int, rate: float, size: int = 0, broadcasts: bool = False) -> None:
        self.counts = {f"moved.{number}.all": 0 for number in range(channels)}
        if broadcasts:
            self.counts[BROADCAST] = 0
        self.wrong = ""
        self._port = port
        self._rate = rate
        self._more = "x" * size
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Publications:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Publish no more."""
        self._stops.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        names, at, due = [*self.counts], 0, time.monotonic()
        try:
            while not self._stops.is_set():
                name = names[at % len(names)]
                at += 1
                path = "/broadcaster/broadcast" if name == BROADCAST else f"/channels/{name}"
                connection.request("POST", path, f"{name} {self.counts[name]} {time.monotonic()}{self._more}")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise HTTPException(f"status {response.status}")
                self.counts[name] += 1
                due += 1 / self._rate
                self._stops.wait(max(due - time.monotonic(), 0))
        except (OSError, HTTPException) as error:
            self.wrong = f"{type(error).__name__}: {error}"
        finally:
            connection.close()


class Crowd:
    """Many clients, served by one thread.

    Args:
        port: of the server.
        counts: how many clients of each kind.
        channels: how many channels there are.
        interval: seconds between two questions of each counter.
    """

    def __init__(self, port: int, counts: dict[str, int], channels: int, interval: float = 0.5) -> None:
        self.clients = [Client(kind, number, channels) for kind, count in counts.items() for number in range(count)]
        self._port = port
        self._interval = interval
        self._selector = selectors.DefaultSelector()
        self._ends = False
        self._asks = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Crowd:
        for at in range(0, len(self.clients), TOGETHER):
            some = self.clients[at : at + TOGETHER]
            for each in some:
                each.socket.connect(("127.0.0.1", self._port))
                each.socket.sendall(each.head)
            for each in some:
                while not each.isReady and not each.closed:
                    each.came(each.socket.recv(65536))
                self._selector.register(each.socket, selectors.EVENT_READ, each)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends = True
        self._thread.join(PATIENCE)
        for each in self.clients:
            each.socket.close()
        self._selector.close()

    def _run(self) -> None:
        counters = [each for each in self.clients if each.kind == "counter"]
        due, step = time.monotonic(), 0
        while not self._ends:
            for key, _ in self._selector.select(0.02):
                client: Client = key.data
                try:
                    data = client.socket.recv(65536)
                except OSError:
                    data = b""
                client.came(data)
                if client.closed:
                    self._selector.unregister(client.socket)
            # Some of the counters each hundredth of a second, so that there are always answers on their way.
            while self._asks and counters and time.monotonic() >= due:
                due += self._interval / len(counters)
                client = counters[step % len(counters)]
                step += 1
                if not client.closed and client.asked == client.got:
                    client.ask()

    def takeLongest(self) -> float:
        """Return the longest time from publication to arrival, or from question to answer, and begin anew."""
        longest = max(each.longest for each in self.clients)
        for each in self.clients:
            each.longest = 0.0
        return longest

    def askAll(self) -> None:
        """Return when all counters have answered again, each to a question that it asked from now on."""
        counters = [each for each in self.clients if each.kind == "counter"]
        before = {id(each): each.asked for each in counters}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and any(not each.closed and each.got <= before[id(each)] for each in counters):
            time.sleep(0.02)

    def rest(self, published: dict[str, int]) -> dict[str, Tally]:
        """Wait until everything has come that was published, and return what the clients have noticed, by kind."""
        self._asks = False
        names = [*published]
        end = time.monotonic() + PATIENCE

        def missing(client: Client) -> int:
            if client.kind == "counter":
                return client.asked - client.got
            return sum(published[names[each]] - 1 - client.last.get(names[each], -1) for each in client.channels)

        while time.monotonic() < end and any(missing(each) for each in self.clients if not each.closed):
            time.sleep(0.02)
        tallies: dict[str, Tally] = {}
        for client in self.clients:
            tally = tallies.setdefault(client.kind, Tally())
            tally.clients += 1
            tally.got += client.got
            tally.closed += bool(client.closed)
            tally.lost += client.gaps + (0 if client.closed else missing(client))
            tally.doubled += client.doubled
            tally.disordered += client.disordered
            if client.closed:
                tally.how.add(client.closed)
        return tallies


def versions(clients: Sequence[Client]) -> set[str]:
    """Return what the service of the counters has said it is, the last time."""
    return {each.said for each in clients if each.kind == "counter"}
