from __future__ import annotations

import pytest
from wsproto.frame_protocol import FrameProtocol

from twisted_ws import frames
from twisted_ws.frames import FIN, RSV1, OutgoingMessage, frame, maskedFrame


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_lengths(size, head):
    """The length is encoded in the fewest bytes, and an independent parser reads the same payload."""
    made = frame(2, b"x" * size)
    assert made == head + b"x" * size
    parser = FrameProtocol(client=True, extensions=[])
    parser.receive_bytes(made)
    (read,) = parser.received_frames()
    assert (bytes(read.payload), read.frame_finished) == (b"x" * size, True)


@pytest.mark.parametrize(("opcode", "first"), [(1, 0x81), (2, 0x82), (8, 0x88), (9, 0x89), (10, 0x8A)])
def test_opcodes(opcode, first):
    """Every frame is final, and never masked."""
    assert frame(opcode, b"x") == bytes([first, 1]) + b"x"


def test_compressed():
    """RSV1 marks a compressed message."""
    assert frame(1, b"x", FIN | RSV1) == b"\xc1\x01x"
    assert maskedFrame(1, b"x", FIN | RSV1)[:2] == b"\xc1\x81"


def test_masked():
    """A client's frame is masked as in the example of RFC 6455 section 5.7, and each time with another mask."""
    assert maskedFrame(1, b"Hello", mask=b"\x37\xfa\x21\x3d") == bytes.fromhex("818537fa213d7f9f4d5158")
    assert len({maskedFrame(1, b"Hello") for _ in range(10)}) == 10


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 65535, 65536])
def test_maskedLengths(size):
    """An independent parser reads what was masked."""
    parser = FrameProtocol(client=False, extensions=[])
    payload = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    parser.receive_bytes(maskedFrame(2, payload))
    read = b"".join([bytes(each.payload) for each in parser.received_frames()])
    assert read == payload


def test_outgoingMessage(monkeypatch):
    """A message for many is framed once, when the first asks for the frame."""
    made = []
    monkeypatch.setattr(frames, "frame", lambda *arguments: made.append(arguments) or frame(*arguments))
    message = OutgoingMessage(1, b"x")
    assert (message.opcode, message.payload, made) == (1, b"x", [])
    assert message.plain is message.plain
    assert (message.plain, made) == (b"\x81\x01x", [(1, b"x")])
    assert message.deflated is message.deflated
    assert message.deflated == {}
    assert not hasattr(message, "other")
