"""What can go wrong, and what is known of the message then."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_ws_publisher.messages import Receipt


class ConfigurationError(Exception):
    """The URL, an option or a key file is wrong: trying again does not help until somebody has mended it."""


class PublishError(Exception):
    """The server has not said that it did what was asked.

    Attributes:
        code: the server's word for it, such as ``forbidden`` or ``unavailable``; ``no-answer`` if there was none.
        status: the HTTP status of the last answer; None if there was none.
        may_be_done: whether it may have been done all the same, because the answer was lost. Calling again with the same
            idempotency key never does it twice.
    """

    def __init__(self, message: str, code: str, status: int | None = None, may_be_done: bool = False) -> None:
        super().__init__(message, code, status, may_be_done)
        self.code = code
        self.status = status
        self.may_be_done = may_be_done

    @property
    def final(self) -> bool:
        """Whether the same call would fail again, because it was refused."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in TRANSIENT

    def __str__(self) -> str:
        status = f"{self.status} " if self.status is not None else ""
        return f"{self.args[0]} ({status}{self.code})"


class BatchError(PublishError):
    """Some messages of a batch are not published; the others are.

    Attributes:
        results: for each message, in order, its receipt or its error.
        errors: those errors; `code` and `status` are the first one's.
    """

    def __init__(self, results: Sequence[Receipt | PublishError]) -> None:
        self.results = list(results)
        self.errors = [each for each in results if isinstance(each, PublishError)]
        first = self.errors[0]
        super().__init__(first.args[0], first.code, first.status, any(each.may_be_done for each in self.errors))
        self.args = (self.results,)

    @property
    def final(self) -> bool:
        """Whether all that is not published was refused."""
        return all(each.final for each in self.errors)

    def __str__(self) -> str:
        return f"{len(self.errors)} of {len(self.results)} messages are not published; the first: {self.errors[0]}"


# Statuses after which the same request may succeed in a moment (RFC 9110 section 15, RFC 8470 for 425).
TRANSIENT = frozenset((408, 425, 429, 502, 503, 504))
