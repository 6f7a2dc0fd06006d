"""Many recipients of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# Most members of one group: they bound what one change costs, and are about as many as one call sends to.
GROUP = 512

# Some members in order, their senders (`twisted_ws.wire.speedups.Sender`), and how many there are: any others in the lists came
# later.
Run = tuple[Sequence[Any], Sequence[Any], int]


class Group:
    """Some of a `Crowd`.

    Attributes:
        members: in order. New ones are appended, but to remove one, the list is replaced.
        run: the members at some earlier time, with the lists that `sendMany` takes; None if one of them has left since.
        into: the group that has its members now, or one that is in no crowd.
    """

    __slots__ = ("into", "members", "run")

    def __init__(self) -> None:
        self.members: list[Any] = []
        self.run: Run | None = None
        self.into: Group | None = None


_GONE = Group()


class Crowd:
    """Many recipients of the same bytes, oldest first: in the kernel's memory, their sockets are in much the same order.

    A member is anything with a `sender`. No change costs more than handling one group.

    Building a list may run the garbage collector, and with it a finaliser that adds or removes others; or there may be no memory.
    So everything that a change needs is built first, and put in place by statements that call nothing, provided that what it was
    built from is still current.

    Attributes:
        groups: all of them; none is empty for long. The list is never changed, but replaced.
    """

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def __len__(self) -> int:
        return sum([len(group.members) for group in self.groups])

    def __iter__(self) -> Iterator[Any]:
        return (member for members, _, size in self.runs() for member in members[:size])

    def runs(self) -> list[Run]:
        """Return the current members, to be gone through in any number of turns."""
        while True:
            groups = self.groups
            runs = [self._run(group) for group in groups]
            if self.groups is groups:
                return runs

    def _run(self, group: Group) -> Run:
        run, members = group.run, group.members
        if run is None or run[0] is not members or run[2] != len(members):
            size = len(members)
            run = group.run = members, [member.sender for member in members[:size]], size
            if group.members is not members:
                group.run = None  # or it would keep a member that has left
        return run

    def add(self, member: Any) -> Group:
        """Add a member; return the group that `remove` takes."""
        while True:
            groups = self.groups
            if groups and len(groups[-1].members) < GROUP:
                group = groups[-1]
            else:
                group = Group()
                more = [*groups, group]
                if self.groups is not groups:
                    continue
                self.groups = more
            group.members.append(member)
            if group.into is None:  # else the group was dropped meanwhile
                return group

    def remove(self, member: Any, group: Group) -> None:
        """Remove a member."""
        while True:
            while group.into is not None:
                group = group.into
            members = group.members
            at = members.index(member)
            before, behind = members[:at], members[at + 1 :]
            before += behind
            if group.members is members and len(members) == len(before) + 1:
                group.members, group.run = before, None
                break
        if len(before) < GROUP // 4 and (not before or len(self.groups) > 1):
            self._join(group)

    def _join(self, group: Group) -> None:
        """Merge a group that has become small with a neighbour, unless something else changes meanwhile."""
        groups = self.groups
        if group not in groups:
            return
        at = groups.index(group)
        if not group.members:
            fewer = groups[:at] + groups[at + 1 :]
            if self.groups is groups and not group.members:
                self.groups, group.into = fewer, _GONE
            return
        for first in (at - 1, at):
            if 0 <= first < len(groups) - 1:
                one, other = groups[first], groups[first + 1]
                ones, others = one.members, other.members
                if len(ones) + len(others) <= GROUP // 2:
                    fewer = groups[: first + 1] + groups[first + 2 :]
                    both = ones + others
                    empty: list[Any] = []
                    if (
                        self.groups is groups
                        and one.members is ones
                        and other.members is others
                        and len(both) == len(ones) + len(others)
                    ):
                        self.groups, one.members, one.run = fewer, both, None
                        other.into, other.members, other.run = one, empty, None
                    return
