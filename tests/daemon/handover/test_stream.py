from __future__ import annotations

import os
import resource
import select
import socket

import pytest

from twisted_ws.daemon.handover.stream import HandStream


class Loop:
    """Polls like a reactor, as often as it is told."""

    def __init__(self):
        self.readers, self.writers = {}, {}

    def addReader(self, each):
        self.readers[each] = None

    def removeReader(self, each):
        self.readers.pop(each, None)

    def addWriter(self, each):
        self.writers[each] = None

    def removeWriter(self, each):
        self.writers.pop(each, None)

    def turn(self):
        """Do what can be done; return whether there was anything."""
        ready = select.select([*self.readers], [*self.writers], [], 0)
        for each in ready[0]:
            each.doRead()
        for each in ready[1]:
            if each in self.writers:
                each.doWrite()
        return bool(ready[0] or ready[1])

    def settle(self):
        """Do all."""
        while self.turn():
            pass


class End(HandStream):
    """One end, with all that came."""

    def __init__(self, connection, loop):
        super().__init__(connection, loop)
        self.frames, self.hasEnded = [], 0
        self.received = lambda frame, descriptors: self.frames.append((frame, descriptors))
        self.ended = self.end

    def end(self):
        """Note the end."""
        self.hasEnded += 1


@pytest.fixture
def loop():
    """A loop."""
    return Loop()


@pytest.fixture
def ends(loop):
    """Both ends of a stream."""
    pair = [End(each, loop) for each in socket.socketpair()]
    yield pair
    for each in pair:
        each._hasGone()
        each.close()


def isSame(one, other):
    """Return whether two descriptors are of one file."""
    return os.path.sameopenfile(one, other)


def test_descriptors(loop, ends):
    """Each frame comes whole and in order, with copies of its own descriptors, however much is in it."""
    one, other = ends
    files = [os.memfd_create(f"{number}") for number in range(6)]
    sent = []
    one.send("a", b"x" * 3_000_000, descriptors=files[:2], sent=lambda: sent.append("a"))
    one.send("b", 1)
    one.send("c", {"d": None}, descriptors=files[2:], sent=lambda: sent.append("c"))
    assert sent == []  # the kernel has room for less
    loop.settle()
    assert [frame for frame, _ in other.frames] == [["a", b"x" * 3_000_000], ["b", 1], ["c", {"d": None}]]
    assert [len(found) for _, found in other.frames] == [2, 0, 4]
    came = [each for _, found in other.frames for each in found]
    assert all(isSame(mine, its) for mine, its in zip(files, came, strict=True))
    assert not any(map(os.get_inheritable, came))
    assert sent == ["a", "c"]
    for each in (*files, *came):
        os.close(each)


def test_afterTheEnd(loop, ends):
    """What was written before a process ended still comes, with its descriptors; then the end is told, once."""
    one, other = ends
    file = os.memfd_create("x")
    one.send("last", descriptors=[file])
    one.close()
    os.close(file)
    loop.settle()
    ((frame, (came,)),) = other.frames
    assert (frame, other.hasEnded) == (["last"], 1)
    assert os.fstat(came)
    os.close(came)


def test_halfOpen(loop, ends):
    """An end that sends nothing more still hears the other, which has heard that."""
    one, other = ends
    one.send("x")
    one.finish()
    loop.settle()
    assert other.hasEnded == 1
    other.send("y")
    loop.settle()
    assert [frame for frame, _ in one.frames] == [["y"]]


def test_nobodyReads(loop, ends):
    """Whoever waits until a frame is sent is told when nobody will read it any more."""
    one, other = ends
    sent = []
    one.send("x" * 3_000_000, sent=lambda: sent.append(1))
    other.close()
    loop.settle()
    assert sent == [1]
    one.send("y", sent=lambda: sent.append(2))
    assert sent == [1, 2]


def test_cutOff(loop, ends):
    """Descriptors of a frame that did not come whole are closed with the stream."""
    one, other = ends
    read, write = os.pipe()
    socket.send_fds(one._socket, [b"\0\0\0\x09\x01abc"], [write])
    os.close(write)
    loop.settle()
    one._socket.shutdown(socket.SHUT_WR)
    loop.settle()
    assert (other.frames, other.hasEnded) == ([], 1)
    other.close()
    assert os.read(read, 1) == b""  # the end of the pipe: nobody has its other side
    os.close(read)


def test_tooFewDescriptors(loop, ends):
    """If this process may not open as many files as come, the stream ends, and those that it has got are closed."""
    one, other = ends
    read, write = os.pipe()
    one.send("x", descriptors=[write] * 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(write)
    os.close(free)
    os.close(write)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        loop.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (other.frames, other.hasEnded) == ([], 1)
    other.close()
    assert os.read(read, 1) == b""  # the end of the pipe: nobody has its other side
    os.close(read)


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 100, b"\0\0\0\1\0\xc1", b"\0\0\0\1\2\xc0"],
    ids=["too large", "cannot be decoded", "without its descriptors"],
)
def test_garbage(loop, ends, data):
    """Garbage ends the stream, and is not a frame."""
    one, other = ends
    one._socket.send(data)
    loop.settle()
    assert (other.frames, other.hasEnded) == ([], 1)
