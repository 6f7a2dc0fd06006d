"""What waits for one slow subscriber, and what is dropped when there is too much. Pure.

Each call takes a bounded number of steps, however much waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import Enum

from twisted_ws.engines.replay import HeldReplay, HistoryReplay, Replay
from twisted_ws.message import Position, Publication

# What is charged for a message that waits, on top of its payload and key, and for a notice, on top of its bytes: about what
# their Python objects take. The history may forget a message that waits here, so it is charged as if nobody else had it.
CHARGE = 352
NOTICE_CHARGE = 128

# How many items one `take` looks at, and how many old ones one `add` drops, at most.
STEPS = 256
DROPS = 4


class Policy(Enum):
    """What happens to a subscriber that takes messages more slowly than they are published; an option of mounts and channels."""

    CLOSE = "close"  # it comes back and resumes from history
    DROP_OLDEST = "drop-oldest"  # drops the oldest when over the cap, and whatever is too old; never the newest
    LATEST = "latest"  # of a channel and key, only the newest waits; if there are too many bytes, the oldest of these go


class Mailbox:
    """The messages and notices that wait for one subscriber.

    The messages of a channel stay in order, and so do notices (the subprotocol's JSON about channels) among published messages.
    A replay takes turns with what is published meanwhile. Its messages stay in the history (see `HistoryReplay`), and what is
    published to its channel joins it, unless only the newest is wanted.

    Where channels have policies of their own, that of the message that has waited longest decides when there is too much.

    Args:
        policy: see `Policy`.
        cap: bytes above which it acts.
        lag: seconds that a message may wait until it acts.
        policyOf: returns the policy of a channel; None: all have `policy`.
        dropped: called with each message that the policy drops, or that a newer one replaces, and the policy.

    Attributes:
        size: bytes that are held here.
        notices: bytes of these that are notices.
        isLost: whether the history has forgotten what was still to be sent, if the policy allows no gaps.
        wanted: returns whether a message of a channel is still wanted; None: all are.
    """

    __slots__ = (
        "_behind",
        "_cap",
        "_dropped",
        "_due",
        "_held",
        "_lag",
        "_messages",
        "_places",
        "_policies",
        "_policy",
        "_policyOf",
        "_replays",
        "_turn",
        "isLost",
        "notices",
        "size",
        "wanted",
    )

    def __init__(
        self,
        policy: Policy,
        cap: int,
        lag: float,
        policyOf: Callable[[str], Policy] | None = None,
        dropped: Callable[[Publication, Policy], object] = lambda publication, policy: None,
    ) -> None:
        self._dropped = dropped
        self._policy = policy
        self._policyOf = policyOf
        # Of the channels of which something waits: until nothing does, a policy stays as it was.
        self._policies: dict[str, Policy] = {}
        self._cap = cap
        self._lag = lag
        # Each with the notices that came after it.
        self._messages: OrderedDict[Publication, list[bytes] | None] = OrderedDict()
        self._places: dict[str, dict[Hashable, Publication]] = {}  # the same by channel; with LATEST, by key
        self._due: deque[bytes] = deque()  # the notices before all messages
        self._replays: dict[str, Replay] = {}
        self._behind: dict[str, list[bytes]] = {}  # by channel, the notices that come after its replay
        self._held = 0  # bytes of `_replays`, which do not count towards the cap: they are paced
        self._turn = False  # whether it is a replay's turn
        self.size = 0
        self.notices = 0
        self.isLost = False
        self.wanted: Callable[[str], bool] | None = None

    @property
    def since(self) -> float | None:
        """When the message was published that has waited longest; None if none waits."""
        return next(iter(self._messages)).at if self._messages else None

    def __bool__(self) -> bool:
        return bool(self._due or self._messages or self._replays)

    def resume(
        self, channel: str, publications: Replay | Iterable[Publication], notices: Sequence[bytes], now: float, beside: int = 0
    ) -> bool:
        """Add a replay, behind notices that announce it; see `add`.

        A replay is sent at the subscriber's pace and does not count towards the cap, however long it is.
        """
        replay = publications if isinstance(publications, HistoryReplay) else HeldReplay(channel, publications)
        if isinstance(replay, HistoryReplay):
            replay.conflating = self._of(channel) is Policy.LATEST
        self._replays[channel] = replay
        self._hold(replay.size)
        for notice in notices:
            self._due.append(notice)
            self._count(notice, 1)
        return self.judge(now, beside)

    def add(self, publication: Publication, now: float, beside: int = 0) -> bool:
        """Add a message that was published.

        Args:
            publication: the message.
            now: the present time.
            beside: bytes that wait for the subscriber elsewhere, and count towards its cap, too.

        Returns:
            Whether the subscriber may stay; False if too much waits.
        """
        replay = self._replays.get(publication.channel)
        if replay is not None and replay.follow(publication):
            return not self._isLost(replay)
        places = self._places.get(publication.channel)
        if places is None:
            places = self._places[publication.channel] = {}
        policy = self._of(publication.channel)
        place: Hashable = publication.key if policy is Policy.LATEST else publication
        older = places.get(place)
        if older is not None:
            self._remove(older)  # moved to the end: the order of a channel stays that of its offsets
            if policy is Policy.LATEST:
                self._dropped(older, policy)
            self._places[publication.channel] = places
            if self._policyOf is not None:
                self._policies[publication.channel] = policy
        places[place] = publication
        self._messages[publication] = None
        self.size += CHARGE + publication.size
        return self.judge(now, beside)

    def addNotice(self, notice: bytes, now: float, beside: int = 0, channel: str = "") -> bool:
        """Add a notice, which is never dropped, behind all messages, and behind the replay of a `channel`; see `add`."""
        if channel in self._replays and channel not in self._places:
            self._behind[channel] = [*self._behind.get(channel, ()), notice]
        elif self._messages:
            last = next(reversed(self._messages))
            after = self._messages[last]
            if after is None:
                self._messages[last] = [notice]
            else:
                after.append(notice)
        else:
            self._due.append(notice)
        self._count(notice, 1)
        return self.judge(now, beside)

    def begin(self, notices: Sequence[bytes], now: float, beside: int = 0) -> bool:
        """Add notices before everything else; see `add`."""
        self._due.extendleft(reversed(notices))
        for notice in notices:
            self._count(notice, 1)
        return self.judge(now, beside)

    def begins(self) -> dict[str, Position] | None:
        """Return the position before what waits of each channel; None if notices wait, or if something is lost already."""
        if self.notices or self.isLost:
            return None
        found: dict[str, Position] = {}
        waiting = [*self._messages, *[next(iter(replay), None) for replay in self._replays.values()]]
        for each in waiting:
            if each is not None and (each.channel not in found or each.offset <= found[each.channel].offset):
                found[each.channel] = Position(each.epoch, each.offset - 1)
        return None if any(replay.isLost for replay in self._replays.values()) else found

    def take(self, room: int, now: float, alone: bool) -> list[Publication | bytes]:
        """Take the next items.

        Args:
            room: bytes that they may have together.
            now: the present time.
            alone: whether one that is larger may be taken by itself.

        Returns:
            The items, in order; no item if the next one does not fit, or if finding it took too long: then there may be more.
        """
        items: list[Publication | bytes] = []
        steps = STEPS - self._dropOld(now, STEPS)
        while steps and self:
            steps -= 1
            replay = None if self._due else self._nextReplay()
            item: Publication | bytes | None
            if self._due:
                item = self._due[0]
            elif replay is not None:
                if self._isLost(replay):
                    break
                before = replay.size
                item = replay.first()
                self._hold(replay.size - before)
            else:
                item = next(iter(self._messages))
            if isinstance(item, Publication) and not self._isWanted(item, replay):
                item = None
            if item is not None:
                size = len(item if isinstance(item, bytes) else item.payload)
                if size > room and (items or not alone):
                    break
                room -= size
                items.append(item)
            if replay is not None:
                self._pass(replay)
            elif isinstance(item, bytes):
                self._count(self._due.popleft(), -1)
            else:
                self._remove(next(iter(self._messages)))
            self._turn = replay is None
        return items

    def drop(self, channel: str, whole: bool = True) -> None:
        """Drop the messages of a channel; unless `whole`, only those published before the subscription."""
        replay = self._replays.get(channel)
        if replay is not None:
            before = replay.size
            replay.forget()
            if whole or not len(replay):
                self._end(replay)
                self._hold(-before)
            else:
                self._hold(replay.size - before)
        if whole:
            for publication in tuple(self._places.get(channel, {}).values()):
                self._remove(publication)

    def judge(self, now: float, beside: int) -> bool:
        """Drop what the policy drops; see `add`."""
        beside -= self._held
        messages = self._messages
        self._dropOld(now, DROPS)
        while messages and self.size + beside > self._cap:
            oldest = next(iter(messages))
            if self._of(oldest.channel) is Policy.CLOSE:
                if self.wanted is None or self.wanted(oldest.channel):
                    return False
            elif len(messages) == 1:
                # The last message is not dropped, or nobody would know that there was one; notices alone must be within the cap.
                return self.size + beside - CHARGE - oldest.size <= self._cap
            else:
                self._dropped(oldest, self._of(oldest.channel))
            self._remove(oldest)
        isLate = messages and self._of(next(iter(messages)).channel) is Policy.CLOSE and self._isOld(now)
        return self.size + beside <= self._cap and not isLate

    def _of(self, channel: str) -> Policy:
        """Return the policy of a channel of which something waits."""
        if self._policyOf is None:
            return self._policy
        policy = self._policies.get(channel)
        if policy is None:
            policy = self._policies[channel] = self._policyOf(channel)
        return policy

    def _isLost(self, replay: Replay) -> bool:
        self.isLost = self.isLost or (replay.isLost and self._of(replay.channel) is Policy.CLOSE)
        return self.isLost

    def _isOld(self, now: float) -> bool:
        return next(iter(self._messages)).at < now - self._lag

    def _dropOld(self, now: float, most: int) -> int:
        """Drop at most `most` messages that have waited too long, but never the newest; return how many."""
        count = 0
        while count < most and len(self._messages) > 1 and self._isOld(now):
            oldest = next(iter(self._messages))
            if self._of(oldest.channel) is not Policy.DROP_OLDEST:
                break  # with LATEST, what waits is the current state, however old
            self._dropped(oldest, Policy.DROP_OLDEST)
            self._remove(oldest)
            count += 1
        return count

    def _nextReplay(self) -> Replay | None:
        """Return a replay if it is its turn, or if the next message comes after it."""
        if not self._replays or not (self._turn or not self._messages or next(iter(self._messages)).channel in self._replays):
            return None
        return next(iter(self._replays.values()))

    def _isWanted(self, publication: Publication, replay: Replay | None) -> bool:
        if replay is not None and self._of(publication.channel) is Policy.LATEST:
            return publication.key not in self._places.get(publication.channel, ())
        return replay is not None or self.wanted is None or self.wanted(publication.channel)

    def _pass(self, replay: Replay) -> None:
        before = replay.size
        replay.goOn()
        if len(replay):
            self._hold(replay.size - before)
        else:
            self._end(replay)
            self._hold(-before)

    def _end(self, replay: Replay) -> None:
        del self._replays[replay.channel]
        self._due.extend(self._behind.pop(replay.channel, ()))
        if replay.channel not in self._places:
            self._policies.pop(replay.channel, None)

    def _hold(self, size: int) -> None:
        self._held += size
        self.size += size

    def _count(self, notice: bytes, sign: int) -> None:
        size = sign * (NOTICE_CHARGE + len(notice))
        self.notices += size
        self.size += size

    def _remove(self, publication: Publication) -> None:
        after = self._messages.pop(publication)
        places = self._places[publication.channel]
        del places[publication.key if self._of(publication.channel) is Policy.LATEST else publication]
        if not places:
            del self._places[publication.channel]
            if publication.channel not in self._replays:
                self._policies.pop(publication.channel, None)
        self.size -= CHARGE + publication.size
        if after is not None:
            self._due.extend(after)
