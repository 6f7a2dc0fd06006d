"""Whether the supervisor is alive while a worker starts, when no reactor can tell: imports and services may take long."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

# Milliseconds after which a thread that waits looks whether it is still wanted.
_LOOK = 200


class Lifeline:
    """Ends this process when the other end of a stream is closed, until it is let go.

    A worker that starts for a supervisor that was killed would hold the ports that it has inherited.

    Args:
        descriptor: the stream; nothing is read from it.
        end: called from a thread when the other end is closed; it must not return to a worker that goes on.
    """

    def __init__(self, descriptor: int, end: Callable[[], None] = lambda: os._exit(1)) -> None:
        self._descriptor = os.dup(descriptor)  # the worker closes its own
        self._end = end
        self._isHeld = True
        self._poll = select.poll()
        self._poll.register(self._descriptor, 0)  # only hang-ups and errors
        self._thread = threading.Thread(target=self._wait, name="lifeline", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while self._isHeld:
            if self._poll.poll(_LOOK) and self._isHeld:
                self._end()
                break
        os.close(self._descriptor)

    def letGo(self) -> None:
        """Watch no longer: the reactor does."""
        self._isHeld = False

    def join(self) -> None:
        """Wait until nothing is watched: after `letGo`, or when the other end was closed."""
        self._thread.join()
