"""Publish from a Celery worker, so that a web process never waits for the server."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from celery import shared_task

from twisted_ws_publisher.errors import PublishError
from twisted_ws_publisher.publisher import Publisher

# Seconds between the attempts of a task, doubled each time, and how many there are: about an hour.
_PAUSE = 1
_LONGEST_PAUSE = 300
_RETRIES = 20


@lru_cache(maxsize=1)
def get_publisher() -> Publisher:
    """Return the worker's publisher: of Django's settings if ``DJANGO_SETTINGS_MODULE`` is set, or of the environment."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        from twisted_ws_publisher.django.publishing import get_publisher as of_django

        return of_django()
    return Publisher.from_environment()


@shared_task(bind=True, name="twisted_ws_publisher.publish", acks_late=True, ignore_result=True, max_retries=_RETRIES)
def publish_task(self: Any, channel: str, data: Any, key: str | None = None) -> None:
    """Publish; a message whose worker was killed is taken by another, and published once: the key is the task's id."""
    try:
        get_publisher().publish(channel, data, key=key, idempotency_key=self.request.id)
    except PublishError as error:
        if error.final:
            raise
        raise self.retry(exc=error, countdown=min(_PAUSE * 2**self.request.retries, _LONGEST_PAUSE)) from None
