"""How fast callers are asked to leave at a stop: if all were asked at once, all would be back at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from math import ceil
from typing import Any, TypeVar

from twisted.internet.task import deferLater

_T = TypeVar("_T")

# Seconds between two slices, on average.
SLICE = 0.1


def sliceSize(count: int, rate: float, within: float) -> int:
    """Return how many are asked in one slice.

    Args:
        count: how many there are.
        rate: how many in a second (`Limits.drainRate`).
        within: seconds that the whole stop may take. All are asked in half of that, so the last ones have time to answer.
    """
    if within <= 0:
        return max(count, 1)
    return ceil(max(rate, 2 * count / within) * SLICE)


async def paced(items: AsyncIterator[_T], size: int, reactor: Any) -> AsyncIterator[_T]:
    """Yield items, with a pause of random length after each `size` of them."""
    number = 0
    async for each in items:
        if number == size:
            number = 0
            await deferLater(reactor, SLICE * random.uniform(0.5, 1.5))
        number += 1
        yield each
