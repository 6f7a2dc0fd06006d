"""How long the garbage collector stops a process."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

from twisted_ws.telemetry.counts import BucketTable

# By generation: "0", "1" and "2".
PAUSES = BucketTable(1)


class _Watch:
    def __init__(self) -> None:
        self._begun = 0.0

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        else:
            PAUSES.of(str(info["generation"])).add(time.perf_counter() - self._begun)


_watch = _Watch()


def watchGarbage(on: bool = True) -> None:
    """Count the pauses of this process from now on, or no longer."""
    if on and _watch not in gc.callbacks:
        gc.callbacks.append(_watch)
    elif not on and _watch in gc.callbacks:
        gc.callbacks.remove(_watch)
