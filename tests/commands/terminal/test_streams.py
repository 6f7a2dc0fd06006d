from __future__ import annotations

import errno
import os
import pty
import select
import subprocess
import sys
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.live.support import PATIENCE
from twisted_ws.commands.terminal.streams import LONGEST_LINE, WAITING, Input, Lines, Output
from twisted_ws.errors import ConfigurationError


@pytest.mark.parametrize(
    ("blocks", "lines"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"b\nc", b"\n"], [b"ab", b"c"]),
        ([b"a\n\nb"], [b"a", b"", b"b"]),
        ([b"a\r\nb\r", b"\n", b"c\rd"], [b"a", b"b", b"c\rd"]),
        ([], []),
        ([b"\n"], [b""]),
    ],
    ids=repr,
)
def test_lines(blocks: list[bytes], lines: list[bytes]) -> None:
    """Lines are the same however they are cut into blocks; the last one need have no end."""
    cut = Lines()
    found = [line for block in [*blocks, b""] for line in cut.feed(block)]
    assert found == lines
    whole = Lines()
    assert [line for byte in b"".join(blocks) for line in whole.feed(bytes([byte]))] + whole.feed(b"") == lines


def test_longLine() -> None:
    """A line that never ends is not collected forever."""
    lines = Lines()
    lines.feed(b"x" * LONGEST_LINE)
    with pytest.raises(ConfigurationError, match="use --binary to send blocks"):
        lines.feed(b"x")


def test_occupy() -> None:
    """Closed standard streams are replaced, so that no socket gets their numbers; writing to closed output fails."""
    code = "import os\nfor n in (0, 1): os.close(n)\nfrom twisted_ws.commands.terminal.streams import occupy\noccupy()\n"
    code += "os.write(2, os.ttyname(0).encode() if os.isatty(0) else os.readlink('/proc/self/fd/0').encode())\n"
    code += "try: os.write(1, b'lost')\nexcept OSError: assert os.read(0, 1) == b''\nelse: raise SystemExit('it went somewhere')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=True)
    assert (done.stdout, done.stderr) == (b"", b"/dev/null")


class InputTest(TestCase):
    timeout = 30

    async def test_pipe(self) -> None:
        """Blocks come as they are written, then b"", and nothing is read before it is asked for."""
        end, begin = os.pipe()
        self.addCleanup(os.close, end)
        asked, early = 0, []
        read = os.read

        def watched(descriptor: int, size: int) -> bytes:
            nonlocal asked
            if descriptor == end:  # the reactor reads others
                asked -= 1
                if asked < 0:
                    early.append(size)
            return read(descriptor, size)

        self.patch(os, "read", watched)  # type: ignore[no-untyped-call]
        source = Input(reactor, end)
        os.write(begin, b"one")
        asked = 1
        assert await source.read() == b"one"
        os.write(begin, b"two")
        os.close(begin)
        asked += 1
        assert await source.read() == b"two"
        asked += 1
        assert await source.read() == b""
        assert not early

    async def test_nonBlocking(self) -> None:
        """A non-blocking stream that has nothing now is not at its end."""
        end, begin = os.pipe()
        self.addCleanup(os.close, end)
        os.set_blocking(end, False)
        empty: Deferred[None] = Deferred()
        wait = select.select

        def told(readers: Any, *others: Any) -> Any:
            if end in readers:
                reactor.callFromThread(empty.callback, None)
            return wait(readers, *others)

        self.patch(select, "select", told)  # type: ignore[no-untyped-call]
        block = Input(reactor, end).read()
        await empty
        os.write(begin, b"one")
        os.close(begin)
        assert await block == b"one"

    async def test_hungUp(self) -> None:
        """A terminal that is gone, or a stream that cannot be read, is at its end."""
        master, slave = pty.openpty()
        os.close(slave)
        self.addCleanup(os.close, master)
        assert await Input(reactor, master).read() == b""  # Linux says EIO

    async def test_cancelled(self) -> None:
        """A reader that no longer waits is not called."""
        end, begin = os.pipe()
        self.addCleanup(os.close, end)
        source = Input(reactor, end)
        waiting = source.read()
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        os.write(begin, b"one")
        os.close(begin)
        assert await source.read() in (b"one", b"")


class OutputTest(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.end, self.begin = os.pipe()
        self.open = {self.end, self.begin}
        self.addCleanup(lambda: [os.close(each) for each in self.open])

    def close(self, descriptor: int) -> None:
        self.open.remove(descriptor)
        os.close(descriptor)

    async def test_order(self) -> None:
        """What is written comes out in order, and `drained` says when it is all out."""
        output = Output(reactor, self.begin)
        await output.drained()
        for piece in (b"one", b"", b"two"):
            output.write(piece)
        await output.drained()
        output.write(b"three")
        await output.drained()
        assert os.read(self.end, 100) == b"onetwothree"

    async def test_full(self) -> None:
        """Without a reader, the stream gets full; once there is one, there is room, and what waited comes out."""
        output = Output(reactor, self.begin)
        for _ in range(16):
            output.write(b"x" * (WAITING // 8))
        assert output.isFull
        room = output.room()
        cancelled = output.room()
        cancelled.addErrback(lambda failure: None)
        cancelled.cancel()
        assert not room.called
        rest, source = 2 * WAITING, Input(reactor, self.end)
        while not room.called:
            rest -= len(await source.read())
        await room
        assert not output.isFull
        while rest:
            rest -= len(await source.read())
        await output.drained()

    async def test_broken(self) -> None:
        """When the reader is gone, the stream says so once, nothing waits any more, and what is written is dropped."""
        output = Output(reactor, self.begin)
        output.write(b"x" * WAITING)
        drained = output.drained()
        self.close(self.end)
        assert isinstance(await output.broken, BrokenPipeError)
        await drained
        output.write(b"more")
        await output.drained()
        assert not output.isFull

    async def test_nonBlocking(self) -> None:
        """A descriptor that another process made non-blocking is waited for."""
        os.set_blocking(self.begin, False)
        output = Output(reactor, self.begin)
        output.write(b"x" * WAITING)
        rest, source = WAITING, Input(reactor, self.end)
        while rest:
            rest -= len(await source.read())
        await output.drained()


class FullDiskTest(TestCase):
    timeout = 30

    async def test_error(self) -> None:
        """What the system reports is passed on."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        output = Output(reactor, full)
        output.write(b"x")
        broken: Deferred[Any] = output.broken
        assert (await broken).errno == errno.ENOSPC

    async def test_known(self) -> None:
        """An error is reported before `drained` fires, even if nothing waited any more when it happened."""
        for _ in range(20):
            full = os.open("/dev/full", os.O_WRONLY)
            self.addCleanup(os.close, full)
            output = Output(reactor, full)
            output.write(b"x" * WAITING)
            while output.isFull:  # the reactor does not turn: nobody has been told
                pass
            await output.drained()
            assert output.broken.called
