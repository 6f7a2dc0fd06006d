"""What the operator says of channels by their names, besides who may: how much is kept, slow subscribers, who has left. Pure."""

from __future__ import annotations

from functools import lru_cache

from twisted_ws.access.namespaces import Namespaces
from twisted_ws.channels.subscribers.mailbox import Policy
from twisted_ws.engines.contract import HistoryLimits
from twisted_ws.limits import Limits

# Channels whose tables are remembered: those that are published to again and again.
REMEMBERED = 1024


class ChannelOptions:
    """The options of channels.

    Args:
        namespaces: what the configuration says.
        limits: what holds where it says nothing.
    """

    def __init__(self, namespaces: Namespaces, limits: Limits) -> None:
        self._namespaces = namespaces
        self._limits = limits
        self._find = lru_cache(REMEMBERED)(namespaces.find)
        self._keepsHistory = namespaces.says("history-messages", "history-age")
        self._hasDelays = namespaces.says("presence-delay")
        self.hasPolicies = namespaces.says("policy")
        # One object for all channels that have the same: engines keep it with each of them, and compare it with each message.
        self._histories: dict[tuple[int, float], HistoryLimits] = {}

    def namespace(self, channel: str) -> str:
        """Return the pattern of the table that stands for a channel, as it is written; "" if none does."""
        return self._find(channel).pattern if self._namespaces else ""

    def history(self, channel: str) -> HistoryLimits | None:
        """Return how much of a channel is kept; None for what `Limits` says."""
        if not self._keepsHistory:
            return None
        values = self._find(channel).values
        if "history-messages" not in values and "history-age" not in values:
            return None
        limits = self._limits
        kept = values.get("history-messages", limits.historyMessages), values.get("history-age", limits.historyAge)
        found = self._histories.get(kept)
        if found is None:
            found = self._histories[kept] = HistoryLimits(*kept, limits.historyBytes)
        return found

    def presenceDelay(self, channel: str) -> float | None:
        """Return the seconds after which a leave is told; None for what `Limits` says."""
        return self._find(channel).values.get("presence-delay") if self._hasDelays else None

    def policy(self, channel: str) -> Policy | None:
        """Return what happens to slow subscribers of a channel; None for what their service says."""
        said = self._find(channel).values.get("policy") if self.hasPolicies else None
        return None if said is None else Policy(said)
