"""Many who are sent the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Crowd", "Group", "Run"]

# Members of one group at most: what a change to one costs, and about what one call sends to.
GROUP = 512

# Some members in order, their senders (`twisted_ws.wire.speedups.Sender`), and how many they are.
Run = tuple[Sequence[Any], Sequence[Any], int]


class Group:
    """Some of a `Crowd`, with the lists that `sendMany` takes.

    The lists are never changed, but made anew: who goes through the former ones in parts is not disturbed.
    """

    __slots__ = ("into", "members", "senders")

    def __init__(self) -> None:
        self.members: list[Any] = []
        self.senders: list[Any] = []
        self.into: Group | None = None  # the group that has its members now


class Crowd:
    """Many who are sent the same bytes, in the order they came: their sockets lie in the kernel's memory in much the same order.

    A member is anything with a `sender`. Nothing here costs more for the others than a group of them does.

    To make a list may run the garbage collector, and with it a finaliser that adds or removes others; or there is no memory for
    it. So all that a change needs is made first, and put in place by statements that call nothing, if what it was made of is
    still there.

    Attributes:
        groups: all of them; none is empty for long. A list that is never changed, but made anew.
    """

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def __len__(self) -> int:
        return sum([len(group.members) for group in self.groups])

    def __iter__(self) -> Iterator[Any]:
        return (member for members, _, size in self.runs() for member in members[:size])

    def runs(self) -> list[Run]:
        """Return the members of now, to be gone through at leisure."""
        while True:
            groups = self.groups
            runs: list[Run] = [(members := group.members, group.senders, len(members)) for group in groups]
            if self.groups is groups:
                return runs

    def add(self, member: Any) -> Group:
        """Add one who came; return what `remove` takes."""
        sender = member.sender
        while True:
            groups = self.groups
            if groups and len(groups[-1].members) < GROUP:
                group, more = groups[-1], groups
            else:
                group = Group()
                more = [*groups, group]
            members = group.members
            moreMembers, moreSenders = [*members, member], [*group.senders, sender]
            if self.groups is groups and group.members is members:
                self.groups, group.members, group.senders = more, moreMembers, moreSenders
                return group

    def remove(self, member: Any, group: Group) -> None:
        """Take one away who leaves."""
        while True:
            while group.into is not None:
                group = group.into
            members, senders = group.members, group.senders
            at = members.index(member)
            fewerMembers, fewerSenders = members[:at] + members[at + 1 :], senders[:at] + senders[at + 1 :]
            if group.members is members:
                group.members, group.senders = fewerMembers, fewerSenders
                break
        if len(fewerMembers) < GROUP // 4:
            self._join(group)

    def _join(self, group: Group) -> None:
        """Put a group that has become small together with one beside it, unless something else changes meanwhile."""
        groups = self.groups
        if group not in groups:
            return
        at = groups.index(group)
        if not group.members:
            fewer = groups[:at] + groups[at + 1 :]
            if self.groups is groups and not group.members:
                self.groups = fewer
            return
        for first in (at - 1, at):
            if 0 <= first < len(groups) - 1:
                one, other = groups[first], groups[first + 1]
                ones, others = one.members, other.members
                if len(ones) + len(others) <= GROUP // 2:
                    fewer = groups[: first + 1] + groups[first + 2 :]
                    members, senders = ones + others, one.senders + other.senders
                    empty = Group()
                    if self.groups is groups and one.members is ones and other.members is others:
                        self.groups, one.members, one.senders = fewer, members, senders
                        other.into, other.members, other.senders = one, empty.members, empty.senders
                    return
