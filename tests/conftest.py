from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.memory import Behind
from tests.moments import holdCode

# A promise is not about time: an example may take longer on a busy machine.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# Who runs the tests may have turned a signal off (nohup, & in a script), and the programs that they start would inherit that. A
# handler is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)


@pytest.fixture
def behind() -> Iterator[Behind]:
    """A TCP connection whose peer is behind with reading."""
    found = Behind()
    yield found
    found.end()


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """Spare the collector of cycles all that is loaded by now, and stays: some tests have it run hundreds of times."""
    gc.collect()
    holdCode()
    gc.freeze()
