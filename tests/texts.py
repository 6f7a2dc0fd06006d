"""Texts of which a test can tell how often they are compared, and whether anything still holds them."""

from __future__ import annotations

from typing import Any
from weakref import ref


class Text(str):
    """A text that can be referred to weakly, and counts comparisons by order.

    Attributes:
        compared: comparisons of all texts.
    """

    compared = 0

    def __lt__(self, other: Any) -> bool:
        Text.compared += 1
        return super().__lt__(other)

    def __gt__(self, other: Any) -> bool:
        Text.compared += 1
        return super().__gt__(other)


class Held:
    """Makes texts, and counts how many of them still exist."""

    def __init__(self) -> None:
        self._made: list[ref[Text]] = []

    def text(self, text: str) -> Text:
        """Return a text that this does not hold."""
        made = Text(text)
        self._made.append(ref(made))
        return made

    def __len__(self) -> int:
        return sum(each() is not None for each in self._made)
