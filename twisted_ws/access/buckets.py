"""Token buckets: how often something may happen, in total or per key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable


class TokenBucket:
    """A token bucket: `burst` at once, and `rate` more in each second.

    Args:
        rate: tokens a second, more than 0.
        burst: the capacity; the bucket starts full.
        clock: returns the seconds of a monotonic clock.
    """

    __slots__ = ("_burst", "_clock", "_rate", "_seen", "_tokens")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._clock = clock
        self._seen = clock()

    def left(self) -> float:
        """Return how many tokens there are now."""
        now = self._clock()
        grown = min(self._burst, self._tokens + max(now - self._seen, 0) * self._rate)
        if grown > self._tokens:  # there may be more than fit, for an excuse
            self._tokens = grown
        self._seen = now
        return self._tokens

    def take(self) -> bool:
        """Take one token; return False if there is none."""
        if self.left() < 1:
            return False
        self._tokens -= 1
        return True

    def charge(self) -> None:
        """Take one token for something that has happened already; if there is none, it is owed."""
        self._tokens = self.left() - 1

    def wait(self) -> float:
        """Return the seconds until `take` succeeds; 0 if it would now."""
        return max(1 - self.left(), 0) / self._rate


class TokenBuckets:
    """A `TokenBucket` for each key, for at most `most` keys: the least recently used are forgotten.

    A forgotten key starts again with a full bucket; forcing that takes `most` other keys.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float], most: int = 10_000) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._most = most
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable) -> bool:
        """Take one token of `key`; return False if there is none."""
        return self._bucket(key).take()

    def charge(self, key: Hashable) -> None:
        """Take one token of `key` in any case (see `TokenBucket.charge`)."""
        self._bucket(key).charge()

    def wait(self, key: Hashable) -> float:
        """Return the seconds until `take` of `key` succeeds; 0 if it would now."""
        bucket = self._buckets.get(key)
        return 0 if bucket is None else bucket.wait()

    def _bucket(self, key: Hashable) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, self._clock)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
