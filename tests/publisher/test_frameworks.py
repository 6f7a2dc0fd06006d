"""Publishing from Flask, FastAPI and Celery, to a real server."""

from __future__ import annotations

import asyncio
import logging

import flask
import httpx
import pytest
from twisted_ws_publisher import AsyncPublisher, Publisher
from twisted_ws_publisher.flask import Push

from tests.live.support import running

# FastAPI and Celery take half a second to load, which those that only collect these tests are spared.


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The broadcast port of a server without credentials."""
    with running(tmp_path_factory.mktemp("server")) as found:
        yield f"http://127.0.0.1:{found.port('http')}"


def said(url, channel):
    """Return what was published."""
    with Publisher(url) as push:
        return [each["data"] for each in push.history(channel)["messages"]]


def shop(url, **config):
    """Return an application."""
    app = flask.Flask(__name__)
    app.config.update(TWISTED_WS_URL=url, **config)
    push = Push(app)

    @app.post("/pay/<int:order>")
    def pay(order):
        push.publish("orders", {"order": order})
        push.publish("orders", "and more")
        if order == 13:
            raise KeyError
        return "thanks", 200 if order < 500 else order

    return app, push


def test_flask(url):
    """What a view publishes is published when it has answered, and not when it has failed."""
    app, push = shop(url)
    client = app.test_client()
    assert client.post("/pay/1").text == "thanks"
    assert client.post("/pay/404").status_code == 200
    assert client.post("/pay/13").status_code == 500
    assert client.post("/pay/503").status_code == 503
    assert said(url, "orders") == [{"order": 1}, "and more", {"order": 404}, "and more"]
    with app.app_context():
        push.publish("orders", "outside")
        assert push.publisher.presence("orders")["count"] == 0
        push.publisher.close()
    assert said(url, "orders")[-1] == "outside"


def test_flaskWithoutServer(caplog):
    """A server that is away is a line in the log, and the answer is the view's."""
    app, _ = shop("http://127.0.0.1:9", TWISTED_WS_TIMEOUT=0.2)
    with caplog.at_level(logging.ERROR):
        assert app.test_client().post("/pay/1").text == "thanks"
    assert "2 messages of a view" in caplog.text


def test_fastAPI(url):
    """An endpoint has the publisher as a dependency; its connections end with the application."""
    from fastapi import Depends, FastAPI
    from twisted_ws_publisher.fastapi import Push as AsyncPush

    push = AsyncPush(url)
    app = FastAPI(lifespan=push.lifespan)

    @app.post("/pay/{order}")
    async def pay(order: int, publisher: AsyncPublisher = Depends(push)) -> str:  # noqa: B008
        return (await publisher.publish("paid", {"order": order})).channel

    async def clients() -> list[object]:
        async with push.lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            return [(await client.post(f"/pay/{order}")).json() for order in (1, 2)]

    assert asyncio.run(clients()) == ["paid", "paid"]
    assert said(url, "paid") == [{"order": 1}, {"order": 2}]


def test_celery(url, monkeypatch):
    """A worker publishes what a task was given, once however often the task is done."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker
    from twisted_ws_publisher import celery

    monkeypatch.setenv("TWISTED_WS_URL", url)
    celery.get_publisher.cache_clear()
    app = Celery("shop", broker="memory://", backend="cache+memory://")
    app.set_default()
    with start_worker(app, perform_ping_check=False):
        results = [
            celery.publish_task.apply_async(("tasks", {"order": 1}), task_id="the-same", ignore_result=False) for _ in range(2)
        ]
        for each in results:
            each.get(timeout=60)
    assert said(url, "tasks") == [{"order": 1}]
    celery.get_publisher().close()
