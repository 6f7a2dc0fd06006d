"""``{% load twisted_ws %}``: a ticket of the user who looks at the page, and the token of a name in a channel's name."""

from __future__ import annotations

from typing import Any

from django import template

from twisted_ws_publisher.django.tickets import make_ticket
from twisted_ws_publisher.tokens import channel_token

register = template.Library()


@register.simple_tag(takes_context=True)
def push_ticket(context: Any, **more: Any) -> str:
    """``{% push_ticket %}``: a ticket for ``request.user``."""
    return make_ticket(context["request"].user, **more)


@register.filter(name="channel_token")
def channel_token_filter(user: Any) -> str:
    """``{{ user.pk|channel_token }}``: as part of a channel's name."""
    return channel_token(str(user))
