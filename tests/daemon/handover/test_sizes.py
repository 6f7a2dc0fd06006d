from __future__ import annotations

from twisted_ws.daemon.handover.giving import BATCH, BATCH_BYTES, _Batch
from twisted_ws.daemon.handover.stream import DESCRIPTORS, LARGEST
from twisted_ws.limits import Limits


def test_batches() -> None:
    """A batch goes when it has as many connections as may go at once, or as many bytes; any fits into a frame of the stream."""
    batch = _Batch("callers")
    for number in range(BATCH):
        assert not batch.isFull
        batch.add(b"state", number)
    assert batch.isFull
    batch = _Batch("callers")
    batch.add(b"x" * BATCH_BYTES, 1)
    assert batch.isFull
    assert BATCH <= DESCRIPTORS
    assert BATCH_BYTES + 2 * Limits().maxSendBuffer < LARGEST
