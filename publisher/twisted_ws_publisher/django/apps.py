"""The application: it has no models, only a check and a template tag."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Error, register
from django.core.signals import setting_changed

from twisted_ws_publisher.errors import ConfigurationError


class TwistedWSConfig(AppConfig):
    """The application ``twisted_ws_publisher.django``."""

    name = "twisted_ws_publisher.django"
    label = "twisted_ws_publisher"
    verbose_name = "Twisted WebSocket publisher"

    def ready(self) -> None:
        """Check the settings when Django checks."""
        register(check_settings)
        setting_changed.connect(_forget)


def check_settings(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Report settings that no publisher can be made of (``twisted_ws.E001``) and secrets that no ticket can (``E002``)."""
    from twisted_ws_publisher.django import conf
    from twisted_ws_publisher.publisher import Publisher
    from twisted_ws_publisher.tickets import TicketMaker

    errors = []
    try:
        Publisher(**conf.publisher_options())
    except ConfigurationError as error:
        errors.append(Error(str(error), hint='TWISTED_WS = {"URL": "http://127.0.0.1:8081"}', id="twisted_ws.E001"))
    try:
        path = conf.ticket_file()
        if path is not None:
            TicketMaker(path)
    except ConfigurationError as error:
        errors.append(Error(str(error), id="twisted_ws.E002"))
    return errors


def _forget(setting: str, **kwargs: Any) -> None:
    if setting == "TWISTED_WS":
        from twisted_ws_publisher.django import publishing, tickets

        publishing.get_publisher.cache_clear()
        tickets.get_maker.cache_clear()
