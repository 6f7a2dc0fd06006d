"""Tickets for pages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from twisted_ws_publisher.django.conf import ticket_file
from twisted_ws_publisher.django.publishing import get_publisher
from twisted_ws_publisher.tickets import TicketMaker


@lru_cache(maxsize=1)
def get_maker() -> TicketMaker | None:
    """Return what makes tickets; None without ``TICKET_FILE``.

    Raises:
        ConfigurationError: the file is wrong.
    """
    path = ticket_file()
    return None if path is None else TicketMaker(path)


def make_ticket(user: Any, **more: Any) -> str:
    """Return a ticket for a user, named by the primary key; "" for one who has not logged in.

    It is made here with ``TICKET_FILE``, and otherwise asked of the server, which takes a request.

    Args:
        user: of Django.
        more: as for `TicketMaker.make`.

    Raises:
        PublishError: the server gives none.
    """
    if not user.is_authenticated:
        return ""
    maker = get_maker()
    return (get_publisher().ticket if maker is None else maker.make)(str(user.pk), **more)
