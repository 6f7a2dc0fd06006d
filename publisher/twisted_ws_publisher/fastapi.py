"""Publish from FastAPI or Starlette: a publisher for the life of the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted_ws_publisher.aio import AsyncPublisher


class Push:
    """A dependency, and a lifespan: ``push = Push(url)``, ``FastAPI(lifespan=push.lifespan)``, ``Depends(push)``.

    Args:
        options: as for `AsyncPublisher`; without any, those of the environment.

    Raises:
        ConfigurationError: one is wrong.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.publisher = (
            AsyncPublisher(*args, **options) if args or "url" in options else AsyncPublisher.from_environment(**options)
        )

    async def __call__(self) -> AsyncPublisher:
        """Return the publisher."""
        return self.publisher

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Close the connections when the application ends."""
        try:
            yield
        finally:
            await self.publisher.close()
