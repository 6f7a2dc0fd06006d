"""Many who are sent the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Crowd", "Group", "Run"]

# Members of one group at most: what a change to one costs, and about what one call sends to.
GROUP = 512

# Some members in order, their senders (`twisted_ws.wire.speedups.Sender`), and how many of both count: more may have come since.
Run = tuple[Sequence[Any], Sequence[Any], int]


class Group:
    """Some of a `Crowd`, with the lists that `sendMany` takes.

    Members that come are put to the end of the lists. When one leaves, the lists are made anew: who goes through the former ones
    in parts is not disturbed.
    """

    __slots__ = ("into", "members", "senders")

    def __init__(self) -> None:
        self.members: list[Any] = []
        self.senders: list[Any] = []
        self.into: Group | None = None  # the group that has its members now


class Crowd:
    """Many who are sent the same bytes, in the order they came: their sockets lie in the kernel's memory in much the same order.

    A member is anything with a `sender`. Nothing here costs more for the others than a group of them does.
    """

    __slots__ = ("_count", "_groups")

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return (member for members, _, size in self.runs() for member in members[:size])

    def runs(self) -> list[Run]:
        """Return the members of now, to be gone through at leisure."""
        return [(group.members, group.senders, len(group.members)) for group in self._groups]

    def add(self, member: Any) -> Group:
        """Add one who came; return what `remove` takes."""
        if not self._groups or len(self._groups[-1].members) >= GROUP:
            self._groups.append(Group())
        group = self._groups[-1]
        group.members.append(member)
        group.senders.append(member.sender)
        self._count += 1
        return group

    def remove(self, member: Any, group: Group) -> None:
        """Take one away who leaves."""
        while group.into is not None:
            group = group.into
        at = group.members.index(member)
        group.members = group.members[:at] + group.members[at + 1 :]
        group.senders = group.senders[:at] + group.senders[at + 1 :]
        self._count -= 1
        if len(group.members) < GROUP // 4:
            self._join(group)

    def _join(self, group: Group) -> None:
        """Put a group that has become small together with one beside it."""
        groups = self._groups
        at = groups.index(group)
        if not group.members:
            del groups[at]
            return
        for first in (at - 1, at):
            if 0 <= first < len(groups) - 1:
                one, other = groups[first : first + 2]
                if len(one.members) + len(other.members) <= GROUP // 2:
                    one.members = one.members + other.members
                    one.senders = one.senders + other.senders
                    other.into, other.members, other.senders = one, [], []
                    del groups[first + 1]
                    return
