from __future__ import annotations

import errno
import os
import random
import resource
import stat
from hashlib import blake2b

import pytest
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.logger import capturedLogs, formatEvent

from tests.memory import SteadyClock
from twisted_ws import ChannelError, Limits
from twisted_ws.engines.contract import HistoryLimits, Revocation
from twisted_ws.engines.historyfile import BLOCK, RECORDS, HistoryFile, Unreadable, blocksOf, recordsOf
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.engines.snapshot import Channel, Claim, Head, Kept, Receipt
from twisted_ws.errors import ConfigurationError
from twisted_ws.message import START, Kind, Message, Position
from twisted_ws.testing.engines import RecordingNode
from twisted_ws.wire.loop.wheel import Wheel

UNIX = 1_700_000_000.0


class Process:
    """One process with an engine, from its start to its stop.

    Attributes:
        unix: the wall clock when it started; its own clock starts at another time each time.
        inThread: see `HistoryFile`.
    """

    started = 0

    def __init__(self, path, unix=UNIX, epoch=None, inThread=maybeDeferred, **limits):
        Process.started += 1
        self.clock = SteadyClock()
        self.clock.advance(1000 * Process.started)
        self.ahead = unix - self.clock.seconds()
        wheel = self.wheel = Wheel(self.clock)
        self.engine = MemoryEngine(Limits(**limits), wheel, wheel.seconds, epoch, self.unixTime)
        self.node = RecordingNode()
        self.engine.start(self.node)
        self.file = HistoryFile(str(path), self.clock, inThread)
        with capturedLogs() as events:
            try:
                self.file.load(self.engine)
                self.file.begin()
            except ConfigurationError:
                self.file.close()
                raise
        self.log = [formatEvent(event) for event in events]

    def unixTime(self):
        return self.clock.seconds() + self.ahead

    def publish(self, channel, *texts, **options):
        return [self.engine.publish(channel, Message.of(text), **options) for text in texts]

    def since(self, channel, after=START):
        history = self.engine.since(channel, after)
        return str(history.position), history.recovered, [each.payload.decode() for each in history.publications]

    def stop(self):
        """Stop; return the wall clock."""
        self.engine.stop()
        with capturedLogs() as events:
            self.save()
        self.log = [formatEvent(event) for event in events]
        self.file.close()
        return self.unixTime()

    def save(self):
        results = []
        Deferred.fromCoroutine(self.file.save(self.engine)).addBoth(results.append)
        assert results == [None]

    def kill(self):
        """End without a stop."""
        self.file.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history"


def test_goesOn(path):
    """After a stop and a start, every subscriber resumes where it was, and every channel's numbering goes on, in one epoch."""
    before = Process(path)
    epoch = before.engine.epoch
    before.publish("a", "1", "2", "3")
    before.publish("b", "1")
    before.engine.watch("silent")
    before.engine.unwatch("silent")
    unix = before.stop()
    after = Process(path, unix + 5)
    assert after.engine.epoch == epoch
    assert after.since("a", Position(epoch, 1)) == (f"{epoch}:1", True, ["2", "3"])
    assert after.since("a", Position(epoch, 3)) == (f"{epoch}:3", True, [])
    assert after.since("silent", Position(epoch, 0)) == (f"{epoch}:0", True, [])
    assert after.publish("a", "4")[0].id == f"{epoch}:4"
    assert after.publish("b", "2")[0].id == f"{epoch}:2"
    assert [each.channel for each in after.engine.list("", "", 10)] == ["a", "b", "silent"]
    assert after.engine.bytes == sum([each.bytes for each in after.engine.list("", "", 10)])
    after.stop()


def test_asItWas(path):
    """Each message comes back with its kind, its bytes and its key."""
    messages = [
        (Kind.TEXT, "\N{SNOWMAN}\r\n\0".encode(), None),
        (Kind.JSON, b'{"a": 1}', "a key"),
        (Kind.BINARY, bytes(range(256)) * 5000, "kéy"),
        (Kind.BINARY, b"", ""),
    ]
    before = Process(path)
    for kind, payload, key in messages:
        before.engine.publish("a", Message(kind, payload), key, limits=HistoryLimits(10, 300, 10 << 20))
    after = Process(path, before.stop())
    assert [(each.kind, each.payload, each.key) for each in after.engine.since("a", START).publications] == messages
    after.stop()


def test_expiredMeanwhile(path):
    """The time between stop and start counts: what has expired by then is gone, and what has not expires when it is due."""
    before = Process(path, historyAge=100, idempotencyAge=100)
    before.publish("old", "1", "2", "3", idempotencyKey="k")
    before.clock.advance(50)
    before.publish("both", "1")
    before.publish("new", "1", idempotencyKey="k")
    unix = before.stop()
    after = Process(path, unix + 60, historyAge=100, idempotencyAge=100)
    epoch = after.engine.epoch
    assert "old" not in after.engine
    assert after.since("old", Position(epoch, 0))[1] is False
    assert after.since("new") == (f"{epoch}:0", True, ["1"])
    # Above all that was forgotten, so that no id comes twice.
    assert after.publish("old", "4", idempotencyKey="k")[0].id == f"{epoch}:2"
    assert after.publish("new", "1", idempotencyKey="k")[0].id == f"{epoch}:1"
    after.clock.advance(39)
    assert after.since("new")[2] == ["1"]
    after.clock.advance(1)
    assert after.since("new")[2] == []
    assert after.publish("new", "2", idempotencyKey="k")[0].id == f"{epoch}:2"
    after.stop()


def test_floor(path):
    """No id of a channel that was forgotten comes again after a restart."""
    before = Process(path, historyAge=10)
    before.publish("a", *"12345")
    before.clock.advance(30)
    before.publish("b", "1")
    after = Process(path, before.stop(), historyAge=10)
    assert after.publish("a", "6")[0].id == f"{after.engine.epoch}:6"
    after.stop()


def test_clockSetBack(path):
    """If the wall clock was set back meanwhile, nothing comes from the future: messages are kept for their age from now on."""
    before = Process(path, historyAge=100)
    before.publish("a", "1")
    after = Process(path, before.stop() - 5000, historyAge=100)
    after.clock.advance(99)
    assert after.since("a")[2] == ["1"]
    after.clock.advance(1.5)
    assert after.since("a")[2] == []
    assert "a" not in after.engine
    assert len(after.wheel) == 0
    after.stop()


def test_receipts(path):
    """A publisher that tries again after the restart has the same answer; another message under its key is refused."""
    before = Process(path)
    before.engine.watch("a")
    before.node.counts["a"] = 7
    (published,) = before.publish("a", "1", idempotencyKey="k", fingerprint=b"1")
    after = Process(path, before.stop() + 10)
    assert after.publish("a", "1", idempotencyKey="k", fingerprint=b"1") == [published]
    with pytest.raises(ChannelError) as caught:
        after.publish("a", "2", idempotencyKey="k", fingerprint=b"2")
    assert caught.value.code == "key-reused"
    after.stop()


def test_answerUnknown(path):
    """A message whose subscribers were still being served at the stop is published once all the same."""
    before = Process(path)
    before.engine.watch("a")
    before.node.recipients = Deferred()
    before.publish("a", "1", idempotencyKey="k")
    before.engine.stop()
    after = Process(path, before.stop())
    assert after.publish("a", "1", idempotencyKey="k") == [("a", f"{after.engine.epoch}:1", 0)]
    after.stop()


def test_limitsOfChannel(path):
    """A channel that had limits of its own has them after the restart, until the next message says otherwise."""
    before = Process(path, historyAge=100)
    own = HistoryLimits(2, 1000, 1 << 20)
    before.publish("a", "1", "2", limits=own)
    unix = before.stop()
    after = Process(path, unix + 200, historyAge=100)
    assert after.since("a")[2] == ["1", "2"]
    after.publish("a", "3", limits=own)
    assert after.since("a")[2] == ["2", "3"]
    after.stop()


def test_lowerLimits(path):
    """Limits that are lower after the restart hold for what was kept before; keys and claims are all still known."""
    before = Process(path)
    for channel in "ab":
        before.publish(channel, *"12345", idempotencyKey=None)
    before.publish("a", "6", idempotencyKey="k")
    before.publish("a", "7", idempotencyKey="l")
    for key in "kl":
        before.engine.claim(key, UNIX + 1000)
    after = Process(path, before.stop(), historyMessages=3, idempotencyKeys=1, claims=1, channels=1)
    assert after.since("a")[2] == ["5", "6", "7"]
    assert after.since("b")[2] == ["3", "4", "5"]
    for key, offset in (("k", 6), ("l", 7)):
        assert after.publish("a", "?", idempotencyKey=key)[0].id == f"{after.engine.epoch}:{offset}"
        assert not after.engine.claim(key, UNIX + 1000)
    after.stop()


def test_lowerTotal(path):
    """A lower limit for all channels together holds after the restart, too."""
    before = Process(path)
    for channel in "abc":
        before.publish(channel, "x" * 744)
    after = Process(path, before.stop(), historyTotal=2000)
    assert after.engine.bytes == 2000
    after.stop()


def test_claimsAndRevocations(path):
    """What was claimed stays claimed, and what was revoked is told to the server, each for as long as it counts."""
    before = Process(path)
    before.engine.claim("brief", UNIX + 10)
    before.engine.claim("long", UNIX + 1000)
    brief, long = Revocation("t", None, 0, UNIX + 10), Revocation(None, "ann", UNIX, UNIX + 1000)
    for each in (brief, long):
        before.engine.revoke(each)
    before.stop()
    after = Process(path, UNIX + 20)
    assert not after.engine.claim("long", UNIX + 1000)
    assert after.engine.claim("brief", UNIX + 1000)
    assert after.node.revocations == [long]
    after.stop()
    third = Process(path, UNIX + 2000)
    assert third.node.revocations == []
    third.stop()


def test_said(path):
    """The log says what was written, and what was read."""
    first = Process(path)
    assert first.log == []
    first.publish("a", "1", "2")
    first.publish("b", "1")
    first.stop()
    assert first.log == [f"{path}: written for the next start; messages: 3, in channels: 2"]
    second = Process(path)
    assert second.log == [f"{path}: the numbering goes on; messages restored: 3, in channels: 2"]
    second.stop()


def test_killed(path):
    """After a process that did not stop, a new epoch begins, and the log says why; what it had read is not read again."""
    first = Process(path)
    first.publish("a", "1")
    first.stop()
    second = Process(path)
    epoch = second.engine.epoch
    second.publish("a", "2")
    second.kill()
    third = Process(path)
    assert third.engine.epoch != epoch
    assert third.since("a") == (f"{third.engine.epoch}:0", True, [])
    assert len(third.log) == 1
    assert f"process {os.getpid()} ended without writing the history" in third.log[0]
    third.stop()


def test_notBegun(path):
    """A process that fails before it begins leaves what it has read to the next one."""
    first = Process(path)
    first.publish("a", "1")
    first.stop()
    wheel = Wheel(SteadyClock())
    unlucky = HistoryFile(str(path), None)
    unlucky.load(MemoryEngine(Limits(), wheel, wheel.seconds))
    unlucky.close()
    third = Process(path)
    assert third.since("a")[2] == ["1"]
    third.stop()


def test_oneProcess(path):
    """Two processes do not work with one file: they would give the same ids to different messages."""
    first = Process(path)
    with pytest.raises(ConfigurationError, match=r"^The history file .* is used by another process: give each its own\.$"):
        Process(path)
    first.stop()
    Process(path).stop()


@pytest.mark.parametrize("seed", range(50))
def test_asIfItHadNotStopped(tmp_path, seed):
    """After a restart every question has the answer that it would have had without it, now and later."""
    chance = random.Random(seed)
    limits = {"historyAge": 20, "historyMessages": 4, "idempotencyAge": 15}
    stays, stops = [Process(tmp_path / name, epoch="e", **limits) for name in ("stays", "stops")]

    def both(do):
        assert do(stays) == do(stops)

    def act():
        channel, key, size = chance.choice("abcdef"), chance.choice([None, "k", "l"]), chance.randrange(600)
        own = chance.choice([None, None, HistoryLimits(2, 7, 2000), HistoryLimits(9, 31, 1 << 20)])
        match chance.randrange(5):
            case 0:
                seconds = chance.randrange(6)
                both(lambda process: process.clock.advance(seconds))
            case 1:
                both(lambda process: process.engine.watch(channel))
            case 2:
                both(lambda process: process.engine.unwatch(channel))
            case _:
                both(lambda process: process.publish(channel, "x" * size, idempotencyKey=key, limits=own))

    def compare():
        for channel in "abcdef":
            for offset in range(-1, 40):
                after = START if offset < 0 else Position("e", offset)
                both(lambda process, channel=channel, after=after: process.since(channel, after))
        both(lambda process: [each[:5] for each in process.engine.list("", "", 10)])

    for _ in range(60):
        act()
    for channel in "abcdef":
        both(lambda process, channel=channel: process.engine.unwatch(channel))
    both(lambda process: process.clock.advance(0.5))  # nothing is due just now, when the two wheels may differ
    stops = Process(tmp_path / "stops", stops.stop(), **limits)
    compare()
    for _ in range(20):
        act()
        both(lambda process: process.clock.advance(2))
        compare()
    stays.kill()
    stops.kill()


# What cannot be read.


def written(*records):
    return b"".join([bytes(block) for block in blocksOf(records)])


GOOD = written(
    Head("e", 5, UNIX),
    Channel("a", 3, 2, UNIX, None),
    Kept("text", b"1", None, UNIX),
    Kept("text", b"2", "k", UNIX),
    Claim("k", 2e9),
)


def sealed(body):
    """Return a file with a right checksum, whatever is in it."""
    data = b"twisted-ws history 1\n" + body
    return data + blake2b(data, digest_size=32).digest()


BROKEN = {
    "empty": b"",
    "text": b"root:x:0:0::/root:/bin/sh\n",
    "binary": os.urandom(1000),
    "short": b"twisted-ws history 1\n",
    "newer": GOOD.replace(b"history 1\n", b"history 2\n"),
    "endless": b"twisted-ws history " + b"1" * 1000,
    "more": GOOD + b"\0",
    "nothing": sealed(b""),
    "noHead": written(Claim("k", 2e9)),
    "twoHeads": written(Head("e", 5, UNIX), Head("e", 5, UNIX)),
    "missing": written(Head("e", 5, UNIX), Channel("a", 3, 2, UNIX, None), Kept("text", b"1", None, UNIX)),
    "misplaced": written(Head("e", 5, UNIX), Kept("text", b"1", None, UNIX)),
    "unknownKind": written(Head("e", 5, UNIX), Channel("a", 3, 1, UNIX, None), Kept("image", b"1", None, UNIX)),
    "unknownRecord": sealed(b"\0\0\0\2\x91\x55"),
    "noRecord": sealed(b"\0\0\0\1\xc0"),
    "long": sealed(b"\xff\xff\xff\xff\x91"),
    "halfLength": sealed(b"\0\0"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken(path, data):
    """A file that cannot be read is set aside and said in one line, and a new epoch begins with nothing in it."""
    path.write_bytes(data)
    process = Process(path)
    assert (len(process.engine), process.engine.bytes, process.engine.epoch != "e", len(process.wheel)) == (0, 0, True, 0)
    assert process.engine.claim("k", UNIX + 1000)
    (line,) = process.log
    assert "\n" not in line
    assert line.startswith(f"The history file {path} cannot be read: ")
    assert line.endswith(f". It was renamed to {path}.broken; a new epoch begins.")
    assert (path.parent / "history.broken").read_bytes() == data
    process.stop()


@pytest.mark.exhaustive
def test_everyByte(tmp_path):
    """Whichever byte of a file is another or missing, that is seen before anything of it is used."""
    path = tmp_path / "file"

    def read(data):
        path.write_bytes(data)
        with open(path, "rb") as file:
            return [*recordsOf(file)]

    assert len(read(GOOD)) == 5
    for place in range(len(GOOD)):
        for data in (GOOD[:place], GOOD[:place] + bytes([GOOD[place] ^ 0x10]) + GOOD[place + 1 :]):
            with pytest.raises(Unreadable):
                read(data)


def test_newer(path):
    """A file of a later version is not guessed at; the log names both versions."""
    path.write_bytes(BROKEN["newer"])
    process = Process(path)
    assert "it is of version 2, and this is version 1." in process.log[0]
    process.stop()


@pytest.mark.parametrize("kind", ["directory", "fifo", "elsewhere", "fileAbove", "lockFifo", "lockLink", "lockHardLink"])
def test_noPlace(path, kind):
    """Where no file can be, the error is one line that names it, at the start."""
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "elsewhere":
        path = path / "nowhere" / "history"
    elif kind == "lockFifo":
        os.mkfifo(f"{path}.lock")
    elif kind in ("lockLink", "lockHardLink"):
        other = path.parent / "other"
        other.write_text("precious")
        (os.symlink if kind == "lockLink" else os.link)(other, f"{path}.lock")
    else:
        path.write_text("")
        path = path / "history"
    with pytest.raises(ConfigurationError) as caught:
        Process(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mayNotRead(path, monkeypatch):
    """A file that this user may not read stays where it is, for the operator can mend that."""
    path.write_bytes(GOOD)

    opened = os.open

    def refuse(name, flags, *mode):
        if name == str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"^The history file .* cannot be read: Permission denied\.$"):
        Process(path)
    assert path.read_bytes() == GOOD


# Writing.


def test_private(path):
    """The file is its owner's alone, whatever was there before, and a link in its way is not followed."""
    other = path.parent / "other"
    other.write_text("precious")
    path.write_text("")
    path.chmod(0o666)
    (path.parent / "history.new").symlink_to(other)
    process = Process(path)
    process.publish("a", "secret")
    process.stop()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == os.geteuid()
    assert other.read_text() == "precious"
    assert sorted(each.name for each in path.parent.iterdir()) == ["history", "history.broken", "history.lock", "other"]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_diskFull(path, calls):
    """If it cannot be written, the log says so in one line, nothing half-written is left, and the next start says so."""
    left = [calls]

    def inThread(call, *arguments):
        left[0] -= 1
        return fail(OSError(errno.ENOSPC, "No space left on device")) if left[0] < 0 else maybeDeferred(call, *arguments)

    process = Process(path, inThread=inThread)
    for _ in range(3):
        process.publish("a", "x" * BLOCK, limits=HistoryLimits(10, 100, 10 << 20))
    process.stop()
    assert process.log == [f"The history is lost: The history file {path} cannot be written: No space left on device."]
    assert sorted(each.name for each in path.parent.iterdir()) == ["history", "history.lock"]
    after = Process(path)
    assert "ended without writing the history, which is lost" in after.log[0]
    after.stop()


def test_diskFullAtTheEnd(path):
    """The same if the last bytes find no place, and still find none when the file is closed."""
    process = Process(path)
    for number in range(20):
        process.publish(f"c{number}", "x" * 200)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        process.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert process.log == [f"The history is lost: The history file {path} cannot be written: File too large."]
    assert sorted(each.name for each in path.parent.iterdir()) == ["history", "history.lock"]


def test_endsInTheMiddle(path):
    """A process that is killed while it writes leaves no half of a history, and the next one writes over its rest."""
    never = []
    process = Process(path, inThread=lambda call, *arguments: never.append((call, arguments)) or Deferred())
    process.publish("a", *["x" * 1000] * 600)
    process.engine.stop()
    unfinished = Deferred.fromCoroutine(process.file.save(process.engine))
    process.kill()
    after = Process(path)
    assert "ended without writing the history" in after.log[0]
    after.publish("a", "1")
    after.stop()
    third = Process(path)
    assert third.since("a")[2] == ["1"]
    third.stop()
    unfinished.addErrback(lambda failure: None).cancel()


def test_slices():
    """What is encoded in one turn of the reactor is bounded, in records and in bytes; and so is what is held."""
    many = [*blocksOf(Claim(str(number), 2e9) for number in range(10 * RECORDS))]
    assert len(many) == 11
    assert max(map(len, many)) < BLOCK
    size, taken = 100_000, []

    def large():
        for number in range(20):
            taken.append(number)
            yield Kept("binary", bytes(size), None, UNIX)

    for count, block in enumerate(blocksOf(large())):
        assert len(block) < BLOCK + size + 100
        assert len(taken) == min((count + 1) * 3, 20)


def test_readInSteps(path):
    """A file is read a record at a time, however large it is."""

    class Watched:
        def __init__(self, file):
            self.file, self.sizes = file, []
            self.fileno, self.tell, self.seek, self.readline = file.fileno, file.tell, file.seek, file.readline

        def read(self, size=-1):
            data = self.file.read(size)
            self.sizes.append(len(data))
            return data

    path.write_bytes(written(Head("e", 0, UNIX), *[Kept("binary", bytes(10_000), None, UNIX) for _ in range(500)]))
    with open(path, "rb") as file:
        watched = Watched(file)
        records = recordsOf(watched)
        next(records)
        assert max(watched.sizes) <= 1 << 20
        checked = len(watched.sizes)
        for _ in range(5):
            next(records)
        assert len(watched.sizes) == checked + 10
        assert max(watched.sizes[checked:]) < 10_100


def test_frozen(path):
    """What is kept when the server has stopped is written, though it would expire while it is."""
    process = Process(path, historyAge=1, idempotencyAge=1)
    process.publish("a", "1", idempotencyKey="k")
    process.publish("b", "1")
    process.engine.claim("c", UNIX + 1)
    process.engine.stop()
    records = process.engine.records()
    found = [next(records)]
    process.clock.advance(10)
    found += records
    assert [type(each) for each in found] == [Head, Channel, Kept, Channel, Kept, Receipt, Claim]
    process.kill()
