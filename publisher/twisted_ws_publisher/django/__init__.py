"""Publish from Django: ``INSTALLED_APPS += ["twisted_ws_publisher.django"]``, and ``TWISTED_WS`` in the settings."""

from __future__ import annotations

from twisted_ws_publisher.django.publishing import broadcast, get_publisher, publish, publish_failed, publish_on_commit
from twisted_ws_publisher.django.testing import capture
from twisted_ws_publisher.django.tickets import make_ticket

__all__ = ["broadcast", "capture", "get_publisher", "make_ticket", "publish", "publish_failed", "publish_on_commit"]
