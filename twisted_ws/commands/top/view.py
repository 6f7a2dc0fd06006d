"""What ``twisted-ws top`` shows, line by line. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from twisted_ws.commands.terminal.display import oneLine

# Seconds of a sparkline.
PAST = 60
_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-~=+*#"
# Lines of callers that are kept at least, and of channels at most.
CALLERS, CHANNELS = 5, 8


class Mode(Enum):
    """What a key means.

    - SHOWING: a command.
    - FILTERING: a character of the filter.
    - ASKING: an answer whether to disconnect.
    """

    SHOWING = "showing"
    FILTERING = "filtering"
    ASKING = "asking"


class Act(Enum):
    """What a key has asked for."""

    NOTHING = "nothing"
    QUIT = "quit"
    FETCH = "fetch"  # other callers are wanted
    DISCONNECT = "disconnect"  # the one that is `chosen`


class View:
    """The state of the screen.

    Args:
        url: of the site.
        isUTF8: whether the terminal shows more than ASCII.

    Attributes:
        mode: what keys mean.
        filter: how the users begin that are shown.
        callers, channels: the lists, as the API answers them.
        note: what is said in the last line.
    """

    def __init__(self, url: str, isUTF8: bool = True) -> None:
        self.mode = Mode.SHOWING
        self.filter = ""
        self.callers: list[dict[str, Any]] = []
        self.channels: list[dict[str, Any]] = []
        self.total = 0
        self.note = ""
        self._url = url
        self._isUTF8 = isUTF8
        self._figures: dict[str, Any] | None = None
        self._past: dict[str, deque[float]] = {name: deque(maxlen=PAST) for name in ("published", "delivered")}
        self._row = 0
        self._wanted: str | None = None

    def take(self, figures: dict[str, Any]) -> None:
        """Take the figures of a second."""
        self._figures = figures
        for name, past in self._past.items():
            past.append(float(figures["total"][name]))

    def takeLists(self, callers: list[dict[str, Any]], total: int, channels: list[dict[str, Any]]) -> None:
        """Take the lists; the same caller stays chosen, wherever it is now."""
        chosen = self.chosen
        self.callers, self.total, self.channels = callers, total, channels
        ids = [each["id"] for each in callers]
        self._row = ids.index(chosen) if chosen in ids else min(self._row, max(len(ids) - 1, 0))

    @property
    def chosen(self) -> str | None:
        """The id of the caller in the chosen row; while there is a question, of the one that it is about."""
        if self.mode is Mode.ASKING:
            return self._wanted
        return self.callers[self._row]["id"] if self._row < len(self.callers) else None

    @property
    def asked(self) -> str | None:
        """The id of the caller that the last question was about."""
        return self._wanted

    def key(self, key: str) -> Act:
        """Take a key: a character, or ``up`` and ``down``."""
        if self.mode is Mode.FILTERING:
            return self._edit(key)
        if self.mode is Mode.ASKING:
            self.mode = Mode.SHOWING
            self.note = ""
            return Act.DISCONNECT if key in ("y", "Y") else Act.NOTHING
        self.note = ""
        if key in ("q", "Q", "\x03"):
            return Act.QUIT
        if key == "/":
            self.mode, self.filter = Mode.FILTERING, ""
        elif key in ("down", "j"):
            self._row = min(self._row + 1, max(len(self.callers) - 1, 0))
        elif key == "up":
            self._row = max(self._row - 1, 0)
        elif key == "k" and self.chosen is not None:
            self._wanted, self.mode = self.chosen, Mode.ASKING
        return Act.NOTHING

    def _edit(self, key: str) -> Act:
        if key in ("\r", "\n", "\x1b"):
            self.mode = Mode.SHOWING
            if key == "\x1b":
                self.filter = ""
        elif key in ("\x7f", "\x08"):
            self.filter = self.filter[:-1]
        elif key.isprintable() and len(key) == 1 and len(self.filter) < 64:
            self.filter += key
        return Act.FETCH

    def lines(self, width: int, height: int) -> list[str]:
        """Return what the screen shows: at most `height` lines of at most `width` characters."""
        made = [*self._head(width), *self._servers(width)]
        rest = height - len(made) - 1
        channels = self._channelLines(min(CHANNELS, max(rest - CALLERS - 4, 0)))
        made += [*self._callerLines(max(rest - len(channels), 0)), *channels]
        # Each whole line is escaped, since what should be a number may be anything.
        return [cut(oneLine(line), width) for line in (*made[: height - 1], self._last())]

    def _head(self, width: int) -> list[str]:
        figures = self._figures
        if figures is None:
            return [f"twisted-ws top {oneLine(self._url)}: waiting for the first figures"]
        total = figures["total"]
        when = datetime.fromtimestamp(figures["time"])
        connected = total["websocket"] + total["sse"] + total["poll"]
        lines = [
            f"twisted-ws top {oneLine(self._url)}  {when:%H:%M:%S}",
            (
                f"callers {connected} (WebSocket {total['websocket']}, streams {total['sse']}, polls {total['poll']})"
                f"  of {total['limit'] or 'no limit'}   channels {total['channels']}   slow {total['slow']}"
            ),
            f"published {total['published']:g}/s {self._spark('published', width)}",
            f"delivered {total['delivered']:g}/s {self._spark('delivered', width)}",
            (
                f"received {total['received']:g}/s   delivery {_times(total['delivery'])}   reactor late {_times(total['lag'])}"
                f"   waiting {size(total['queue'])}   CPU {100 * total['cpu']:.0f} %   memory {size(total['memory'])}"
            ),
        ]
        return lines + [f"! {oneLine(each['text'])}" for each in figures["problems"]]

    def _servers(self, width: int) -> list[str]:
        if self._figures is None or len(self._figures["nodes"]) < 2:
            return []
        lines = ["", "server  worker  callers  published/s  late p99 ms   CPU    memory"]
        for each in self._figures["nodes"]:
            late = "-" if each["lag"] is None else f"{each['lag'][1]:g}"
            callers = each["websocket"] + each["sse"] + each["poll"]
            worker = "-" if each.get("worker") is None else each["worker"]
            lines.append(
                f"{oneLine(each['id']):<8}{worker:>6}{callers:>9}{each['published']:>13g}{late:>13}"
                f"{100 * each['cpu']:>5.0f} %{size(each['memory']):>10}"
            )
        return lines

    def _callerLines(self, room: int) -> list[str]:
        if room < 3:
            return []
        said = f" whose user begins with {self.filter!r}" if self.filter or self.mode is Mode.FILTERING else ""
        lines = [
            "",
            f"  {'connection':<16}{'user':<20}{'transport':<11}{'address':<24}{'channels':>8}{'waiting':>10}{'in':>9}{'out':>9}",
        ]
        first = max(self._row - (room - 3), 0)
        for number, each in enumerate(self.callers[first : first + room - 2], first):
            mark, waiting = ">" if number == self._row else " ", size(each["waiting"])
            lines.append(
                f"{mark} {short(each['id'], 15):<16}{short(each['user'] or '-', 19):<20}{each['transport']:<11}"
                f"{short(each['peer'] or '-', 23):<24}{each['subscriptions']:>8}{waiting:>10}"
                f"{_amount(each.get('bytesReceived')):>9}{_amount(each.get('bytesSent')):>9}"
            )
        if not self.callers:
            lines.append(f"  no callers{said}")
        return lines

    def _channelLines(self, room: int) -> list[str]:
        if room < 3 or not self.channels:
            return []
        lines = ["", f"  {'channel':<48}{'subscribers':>12}{'kept':>8}"]
        return lines + [
            f"  {short(each['channel'], 47):<48}{each['subscribers']:>12}{each['messages']:>8}"
            for each in self.channels[: room - 2]
        ]

    def _last(self) -> str:
        if self.mode is Mode.FILTERING:
            return f"users that begin with: {self.filter}_"
        if self.mode is Mode.ASKING:
            return f"disconnect {oneLine(str(self._wanted))}? y or n"
        return oneLine(self.note) if self.note else "q quit   / users   up, down choose   k disconnect"

    def _spark(self, name: str, width: int) -> str:
        values = [*self._past[name]][-max(min(PAST, width - 30), 0) :]
        return spark(values, _BARS if self._isUTF8 else _PLAIN_BARS)


def spark(values: Sequence[float], bars: str = _BARS) -> str:
    """Return values as a line of bars, the largest as the highest."""
    most = max(values, default=0)
    return "".join(bars[0] if most <= 0 else bars[min(int(value / most * len(bars)), len(bars) - 1)] for value in values)


def _times(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:g}/{pair[1]:g} ms"


def size(count: float) -> str:
    """Return bytes for a person."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _amount(count: float | None) -> str:
    return "-" if count is None else size(count)


def short(text: str, width: int) -> str:
    """Return a text that fits into a column, and cannot control the terminal."""
    return cut(oneLine(str(text)), width)


def cut(text: str, width: int) -> str:
    """Return at most `width` characters."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
