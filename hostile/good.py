"""The good clients: a process that follows every rule, exchanges numbered messages, and counts what does not arrive.

It reads commands from standard input, and answers each with a line of JSON on standard output. A quarter of its clients each use
ws, wss, event streams and long polls, half of the last two with TLS. They get the messages of a channel; the WebSocket clients
also get every broadcast, and send texts that are echoed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from hostile.peer import frames, unverified, upgrade

__all__ = ["Stream", "main"]

CHANNEL = "good"
# Per second: broadcasts, channel messages, and texts of each client.
BROADCASTS, PUBLICATIONS, ECHOES = 10, 10, 2
# Seconds for messages in flight to arrive, after sending has stopped.
PATIENCE = 45.0


@dataclass
class Stream:
    """The numbered messages that one client expects.

    Attributes:
        expected: the number of the next message.
        missing: the numbers that were skipped.
        doubled: the number of messages that came twice.
        disordered: the number of messages that came after a later one.
        waits: the seconds that each message took.
    """

    expected: int = 0
    missing: set[int] = field(default_factory=set)
    doubled: int = 0
    disordered: int = 0
    waits: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Reset the counts, except for messages that are already lost."""
        self.doubled = self.disordered = 0
        self.waits = []

    def took(self, number: int, sent: float) -> None:
        """Count a message that was sent at this time of the monotonic clock."""
        self.waits.append(time.monotonic() - sent)
        if number >= self.expected:
            self.missing.update(range(self.expected, number))
            self.expected = number + 1
        elif number in self.missing:
            self.missing.discard(number)
            self.disordered += 1
        else:
            self.doubled += 1

    def lost(self, sent: int, unsure: set[int]) -> int:
        """Return how many messages below `sent` never came, not counting the `unsure` ones, which may not have been sent."""
        return len((self.missing | set(range(self.expected, sent))) - unsure)


class Crowd:
    """All good clients, and the publishers."""

    def __init__(self, ports: dict[str, int], count: int) -> None:
        self.ports = ports
        self.tls = unverified()
        self.clients: list[Client] = []
        for index in range(count):
            secure = bool(index % 2)
            self.clients += [WebSocket(self, False), WebSocket(self, True), EventStream(self, secure), Poll(self, secure)]
        self.publishers = {"broadcast": Publisher(self, "broadcast"), "channel": Publisher(self, "channel")}
        self.lag = 0.0
        self.strange: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> dict[str, Any]:
        """Connect all clients and publishers."""
        for client in self.clients:
            await client.connect()
        await asyncio.wait_for(asyncio.gather(*(client.ready for client in self.clients)), 60)
        return {"connected": len(self.clients)}

    async def talk(self) -> dict[str, Any]:
        """Start sending, with new counts."""
        self.lag = 0.0
        self.strange.clear()
        for publisher in self.publishers.values():
            publisher.begin()
        for stream in self._streams():
            stream.begin()
        rates = {"broadcast": BROADCASTS, "channel": PUBLICATIONS}
        steps = [
            *((1 / rates[kind], publisher.send) for kind, publisher in self.publishers.items()),
            *((1 / ECHOES, client.ask) for client in self.clients if isinstance(client, WebSocket)),
            (0.05, None),
        ]
        self._tasks = [asyncio.create_task(self._again(seconds, step)) for seconds, step in steps]
        return {}

    def _streams(self) -> list[Stream]:
        return [stream for client in self.clients for stream in client.streams.values()]

    async def _again(self, seconds: float, step: Any) -> None:
        """Call `step` this often; without it, measure how late this process itself runs."""
        while True:
            due = time.monotonic() + seconds
            await asyncio.sleep(seconds)
            if step is None:
                self.lag = max(self.lag, time.monotonic() - due)
            else:
                await step()

    async def rest(self) -> dict[str, Any]:
        """Stop sending, wait for messages in flight, and return the counts."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        end = time.monotonic() + PATIENCE
        for publisher in self.publishers.values():
            await publisher.settle(end)
        while time.monotonic() < end and any(client.isOpen and client.owed() for client in self.clients):
            await asyncio.sleep(0.02)
        streams = self._streams()
        waits = sorted(wait for stream in streams for wait in stream.waits)
        return {
            "clients": len(self.clients),
            "delivered": len(waits),
            "lost": sum(sum(client.owed().values()) for client in self.clients),
            "doubled": sum(stream.doubled for stream in streams),
            "disordered": sum(stream.disordered for stream in streams),
            "closed": [f"{type(client).__name__}: {client.why}" for client in self.clients if not client.isOpen],
            "refused": [each for publisher in self.publishers.values() for each in publisher.refused],
            "strange": self.strange[:10],
            "longest": waits[-1] if waits else 0.0,
            "p99": waits[len(waits) * 99 // 100] if waits else 0.0,
            "lag": self.lag,
        }


class Publisher:
    """Publish one kind of message over one connection, each when the previous one was answered."""

    def __init__(self, crowd: Crowd, kind: str) -> None:
        self.crowd = crowd
        self.kind = kind
        self.sent = 0
        self.unsure: set[int] = set()
        self.refused: list[str] = []
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self._under: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Reset the counts, and connect again: the server may have closed an idle connection."""
        self.refused = []
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(self) -> None:
        """Start publishing the next message, unless one is in flight."""
        if not self._lock.locked():
            task = asyncio.create_task(self._publish())
            self._under.add(task)
            task.add_done_callback(self._under.discard)
            await asyncio.sleep(0)

    async def settle(self, end: float) -> None:
        """Wait for the message in flight, until this time of the monotonic clock."""
        if self._under:
            _, late = await asyncio.wait(self._under, timeout=max(end - time.monotonic(), 0))
            for task in late:
                task.cancel()
                self.refused.append(f"{self.kind} {self.sent - 1}: no answer")

    async def _publish(self) -> None:
        async with self._lock:
            number, self.sent = self.sent, self.sent + 1
            self.unsure.add(number)
            try:
                status = await self._post(number)
            except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
                self._streams = None
                self.refused.append(f"{self.kind} {number}: {error!r}")
                return
            if status == 200:
                self.unsure.discard(number)
            else:
                self.refused.append(f"{self.kind} {number}: {status}")

    async def _post(self, number: int) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.crowd.ports["http"])
        reader, writer = self._streams
        path = "/broadcaster/broadcast" if self.kind == "broadcast" else f"/channels/{CHANNEL}"
        body = f"{self.kind} {number} {time.monotonic():.6f}"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = int(head.partition("content-length:")[2].partition("\r\n")[0])
        await reader.readexactly(size)
        if "connection: close" in head:
            self._streams = None
        return int(head[9:12])


class Client(asyncio.Protocol):
    """One good client: the messages that it must get, and how it reads its transport."""

    def __init__(self, crowd: Crowd, secure: bool) -> None:
        self.crowd = crowd
        self.secure = secure
        self.isOpen = False
        self.why = "never open"
        self.streams = {"channel": Stream()}
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None
        self.data = bytearray()

    async def connect(self) -> None:
        """Connect, and send the request."""
        ports = self.crowd.ports
        tls: ssl.SSLContext | None = self.crowd.tls if self.secure else None
        where = ("127.0.0.1", ports["tls" if self.secure else "ws"])
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, *where, ssl=tls, server_hostname="localhost" if tls else None)

    def connectionMade(self) -> None:
        """Return a name for logs."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport, self.isOpen = transport, True
        self.connectionMade()

    def data_received(self, data: bytes) -> None:
        """Read what can be read."""
        self.data += data
        self.read()

    def connection_lost(self, error: Exception | None) -> None:
        """Record an unexpected end."""
        self.isOpen = False
        self.why = f"{self.said()} {error or ''}".strip()

    def said(self) -> str:
        """Return what the server said when it closed."""
        return "the end"

    def read(self) -> None:
        """Read the content of `data`."""
        raise NotImplementedError

    def took(self, text: str) -> None:
        """Take a message."""
        kind, _, rest = text.partition(" ")
        if kind == "attack":
            return  # an attacker's broadcast reaches everybody
        number, _, sent = rest.partition(" ")
        try:
            self.streams[kind].took(int(number), float(sent))
        except (KeyError, ValueError):
            self.crowd.strange.append(text[:80])

    def owed(self) -> dict[str, int]:
        """Return the number of messages still expected, by kind; empty if none are."""
        found = {
            kind: stream.lost(self.crowd.publishers[kind].sent, self.crowd.publishers[kind].unsure)
            for kind, stream in self.streams.items()
            if kind in self.crowd.publishers
        }
        return {kind: count for kind, count in found.items() if count}


class WebSocket(Client):
    """A client with a WebSocket."""

    def __init__(self, crowd: Crowd, secure: bool) -> None:
        super().__init__(crowd, secure)
        self.streams |= {"broadcast": Stream(), "echo": Stream()}
        self.asked = 0
        self.code = ""
        self._upgraded = False

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self.transport.write(upgrade("/good"))

    def said(self) -> str:
        """Return the server's Close."""
        return self.code or "no Close"

    async def ask(self) -> None:
        """Send a text that must be echoed."""
        if self.isOpen:
            text = f"echo {self.asked} {time.monotonic():.6f}".encode()
            self.asked += 1
            self.transport.write(struct.pack("!BB", 0x81, 0x80 | len(text)) + bytes(4) + text)

    def owed(self) -> dict[str, int]:
        """Return the number of messages still expected, including echoes."""
        echoes = self.streams["echo"].lost(self.asked, set())
        return super().owed() | ({"echo": echoes} if echoes else {})

    def read(self) -> None:
        """Read frames."""
        if not self._upgraded:
            _, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            self._upgraded, self.data = True, bytearray(rest)
        for opcode, payload in frames(self.data):
            if opcode == 1:
                if payload == b"ready":
                    self.ready.set_result(None)
                else:
                    self.took(payload.decode())
            elif opcode == 9:
                self.transport.write(struct.pack("!BB", 0x8A, 0x80 | len(payload)) + bytes(4) + payload)
            elif opcode == 8:
                self.code = f"close {int.from_bytes(payload[:2])}"
                self.transport.close()


class EventStream(Client):
    """A client with an event stream."""

    def __init__(self, crowd: Crowd, secure: bool) -> None:
        super().__init__(crowd, secure)
        self._head = ""
        self._text = bytearray()
        self._named = False

    def connectionMade(self) -> None:
        """Ask for the stream."""
        self.transport.write(f"GET /channels/{CHANNEL} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())

    def read(self) -> None:
        """Read lines, chunked or not."""
        if not self._head:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self.data = head.decode("latin-1").lower(), bytearray(rest)
        if "transfer-encoding: chunked" in self._head:
            self._chunks()
        else:
            self._text += self.data
            self.data.clear()
        *lines, rest = self._text.split(b"\n")
        self._text = bytearray(rest)
        for line in lines:
            self._line(line.decode())

    def _chunks(self) -> None:
        while (end := self.data.find(b"\r\n")) >= 0:
            size = int(self.data[:end].partition(b";")[0], 16)
            if len(self.data) < end + 2 + size + 2:
                return
            self._text += self.data[end + 2 : end + 2 + size]
            del self.data[: end + 2 + size + 2]

    def _line(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "event":
            self._named = True
            if value == "subscribed":
                self.ready.set_result(None)
        elif name == "data" and not self._named:
            self.took(value)
        elif not name:
            self._named = False


class Poll(Client):
    """A client that polls."""

    def connectionMade(self) -> None:
        """Request the channel's position."""
        self._ask("")

    def _ask(self, query: str) -> None:
        self.transport.write(f"GET /channels/{CHANNEL}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def read(self) -> None:
        """Read a response, and poll again."""
        head, end, _ = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").lower()
        size = int(lines.partition("content-length:")[2].partition("\r\n")[0])
        begin = len(head) + 4
        if len(self.data) < begin + size:
            return
        body = bytes(self.data[begin : begin + size])
        del self.data[: begin + size]
        if not lines.startswith("http/1.1 200"):
            self.why = lines[:40]
            self.transport.close()
            return
        answer = json.loads(body)
        for message in answer["messages"]:
            self.took(message["data"])
        self._ask(f"?after={answer['id']}&wait=30")
        if not self.ready.done():
            self.ready.set_result(None)


async def _serve(crowd: Crowd) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    commands = {"connect": crowd.connect, "talk": crowd.talk, "rest": crowd.rest}
    while line := (await reader.readline()).decode().strip():
        print(json.dumps(await commands[line]()), flush=True)


async def _main(arguments: dict[str, Any]) -> None:
    await _serve(Crowd(arguments["ports"], arguments["count"]))


def main() -> None:
    """Run the commands on standard input, with the ports and the number of clients of each kind from the command line."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
