"""Publishers and a real server: what arrives, and what becomes of it when the server restarts, hangs or asks for another key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from twisted_ws_publisher import AsyncPublisher, Publisher, PublishError

from tests.live.support import PATIENCE, running
from tests.ports import freePort

KEYS = "shop: 0123456789abcdef0123456789abcdef publish:* broadcast disconnect read:* tickets\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without credentials."""
    with running(tmp_path_factory.mktemp("server")) as found:
        yield found


def url(server):
    """Return the URL of its broadcast port."""
    return f"http://127.0.0.1:{server.port('http')}"


def heard(client, count):
    """Return as many messages as a subscriber gets."""
    return [json.loads(client.recv(PATIENCE))["data"] for _ in range(count)]


def subscribed(server, channel):
    """Return a subscriber."""
    return server.client(f"/channels/{channel}", subprotocols=["twisted-ws.v1"])


def begin(client):
    """Read until the subscription stands."""
    while json.loads(client.recv(PATIENCE))["type"] != "subscribed":
        pass


def test_arrives(server):
    """Each kind of message arrives as it was given, one by one and in a batch, in order."""
    with subscribed(server, "all") as client, Publisher(url(server)) as push:
        begin(client)
        assert push.publish("all", {"state": "paid", "ü": None}).recipients == 1
        push.publish("all", "text")
        with push.batch() as batch:
            for number in range(1100):
                batch.publish("all", number)
        assert heard(client, 1102) == [{"state": "paid", "ü": None}, "text", *range(1100)]
        push.publish("all", b"\x00\xff")
        assert json.loads(client.recv(PATIENCE))["base64"] == "AP8="
    assert [receipt.id.partition(":")[2] for receipt in batch.receipts] == [str(number) for number in range(3, 1103)]


def test_asyncio(server):
    """A coroutine publishes the same way; many at once share a few connections."""

    async def publish():
        async with AsyncPublisher(url(server)) as push:
            await push.publish("tasks", {"first": True})
            await asyncio.gather(*[push.publish("tasks", number) for number in range(100)])
            async with push.batch() as batch:
                batch.publish("tasks", "last")
            page = await push.history("tasks", limit=1)
            assert page["messages"][0]["data"] == {"first": True}
            return batch.receipts[0].id

    with subscribed(server, "tasks") as client:
        begin(client)
        last = asyncio.run(publish())
        data = heard(client, 102)
    assert (data[0], sorted(data[1:-1]), data[-1]) == ({"first": True}, list(range(100)), "last")
    assert last.endswith(":102")


def test_loops(server):
    """A publisher that was not closed at the end of its event loop works in the next."""
    program = f"""
import asyncio
from twisted_ws_publisher import AsyncPublisher
push = AsyncPublisher("{url(server)}")
print(*[asyncio.run(push.publish("loops", number)).id.partition(":")[2] for number in range(3)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "1 2 3\n"


def test_operations(server):
    """What the server can tell and do, the publisher can ask for."""
    with subscribed(server, "seen") as client, Publisher(url(server)) as push:
        begin(client)
        push.publish("seen", 1, key="k", idempotency_key="once")
        push.publish("seen", 1, key="k", idempotency_key="once")
        assert [each["data"] for each in push.history("seen")["messages"]] == [1]
        newest = push.history("seen", last=1)["messages"][0]
        assert (newest["data"], push.history("seen", before=newest["id"])["messages"]) == (1, [])
        assert push.channels("seen")["channels"][0]["subscribers"] == 1
        assert push.presence("seen")["count"] == 1
        assert push.disconnect(user="nobody") == push.unsubscribe("seen", user="nobody") == 0
        assert push.delete_history("seen") == 1
        with pytest.raises(PublishError, match="404") as caught:
            push.ticket("ann")
        assert caught.value.final


def test_threads(server):
    """Threads share a publisher."""
    with Publisher(url(server)) as push, ThreadPoolExecutor(16) as threads:
        receipts = list(threads.map(lambda number: push.publish("threads", number), range(200)))
    assert len({receipt.id for receipt in receipts}) == 200


def test_fork(server):
    """A child process makes its own connections, and the parent keeps its own."""
    with Publisher(url(server)) as push:
        push.publish("fork", "parent")
        child = os.fork()
        if not child:  # nothing but this, and no test's end, happens in the child
            status = 1
            try:
                for _ in range(20):
                    push.publish("fork", "child")
                status = 0
            finally:
                os._exit(status)
        for _ in range(20):
            push.publish("fork", "parent")
        assert os.waitpid(child, 0)[1] == 0
        said = [each["data"] for each in push.history("fork")["messages"]]
    assert (said.count("parent"), said.count("child")) == (21, 20)


def test_restart(tmp_path):
    """While the server restarts, publishers wait; every message is published, and none twice."""
    port = freePort()
    ports = ("--port", "0", "--broadcast-port", str(port), "--history-file", "history")
    seen: list[int] = []
    going = threading.Event()
    enough = threading.Event()

    def publish(push: Publisher) -> None:
        while not enough.is_set():
            push.publish("numbers", len(seen))
            seen.append(len(seen))
            going.set()

    with Publisher(f"http://127.0.0.1:{port}", timeout=PATIENCE, attempts=1000) as push:
        with running(tmp_path, ports=ports):
            thread = threading.Thread(target=publish, args=(push,))
            thread.start()
            assert going.wait(PATIENCE)
        going.clear()
        with running(tmp_path, ports=ports):
            assert going.wait(PATIENCE)
            enough.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            page = push.history("numbers", limit=1000)
    kept = [each["data"] for each in page["messages"]]
    assert kept == seen[-len(kept) :]
    assert len(kept) > 1


def test_key(tmp_path):
    """A key stands in a file, and may be replaced while the publisher runs; what it may not do is refused for good."""
    (tmp_path / "keys").write_text(KEYS)
    (tmp_path / "keys").chmod(0o600)
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    with running(tmp_path, "--api-key-file", "keys") as server, Publisher(url(server), tmp_path / "key") as push:
        push.publish("orders.42", "a")
        with pytest.raises(PublishError, match="403") as caught:
            push.revoke(user="ann")
        assert caught.value.final
        (tmp_path / "keys").write_text(KEYS.replace("0123456789abcdef", "fedcba9876543210"))
        server.signal(signal.SIGHUP)
        server.waitFor("reloaded")
        with pytest.raises(PublishError, match="401"):
            push.publish("orders.42", "b")
        (tmp_path / "key").write_text("fedcba9876543210fedcba9876543210\n")
        push.publish("orders.42", "c")

        async def asynchronous():
            async with AsyncPublisher(url(server), tmp_path / "key") as other:
                await other.publish("orders.42", "d")

        asyncio.run(asynchronous())
        assert [each["data"] for each in push.history("orders.42")["messages"]] == ["a", "c", "d"]


def test_unixSocket(tmp_path):
    """A server on a Unix socket is reached by its path."""
    with running(tmp_path, ports=("--port", "0", "--broadcast-port", "unix:push.sock")) as server:
        del server
        path = tmp_path / "push.sock"
        link = f"/tmp/push-{os.getpid()}.sock"  # short, as the path of a Unix socket must be
        os.symlink(path, link)
        try:
            with Publisher(f"unix:{link}") as push:
                assert push.publish("a", 1).channel == "a"
        finally:
            os.unlink(link)


def test_tls(tmp_path):
    """TLS is verified, by the certificates that the publisher is given."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "server.pem").chmod(0o600)
    options = ("--certificate", "server.pem", "--private-key", "server.pem")
    ports = ("--port", "0", "--broadcast-port", "off", "--broadcast-tls-port", "0")
    with running(tmp_path, *options, ports=ports) as server:
        where = f"https://localhost:{server.port('https')}"
        with Publisher(where, ca_file=tmp_path / "ca.pem") as push:
            assert push.publish("a", 1).channel == "a"
            assert push.publish("a", 2).id.endswith(":2")
        with Publisher(where, attempts=1) as push, pytest.raises(PublishError, match="certificate verify failed"):
            push.publish("a", 1)

        async def asynchronous():
            async with AsyncPublisher(where, ca_file=tmp_path / "ca.pem") as other:
                return await other.publish("a", 3)

        assert asyncio.run(asynchronous()).id.endswith(":3")


@pytest.fixture
def silent():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def test_silence(silent):
    """A server that says nothing is given up when the time is up."""
    where = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with Publisher(where, timeout=0.2) as push, pytest.raises(PublishError) as caught:
        push.publish("a", 1)
    assert (caught.value.code, caught.value.may_be_done) == ("no-answer", True)

    async def asynchronous():
        async with AsyncPublisher(where, timeout=0.2) as other:
            await other.publish("a", 1)

    with pytest.raises(PublishError) as caught:
        asyncio.run(asynchronous())
    assert (caught.value.code, caught.value.may_be_done) == ("no-answer", True)


def test_nobody():
    """Where nobody listens, nothing is done, and the error says so."""
    with Publisher(f"http://127.0.0.1:{freePort()}", timeout=0.5) as push, pytest.raises(PublishError, match="refused") as caught:
        push.publish("a", 1)
    assert (caught.value.code, caught.value.may_be_done) == ("no-answer", False)


@pytest.mark.parametrize("isAsync", [False, True])
def test_idleConnectionClosed(isAsync):
    """A connection that the server has closed meanwhile costs nothing, and no attempt."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n{"channel":"a","id":"e:1","recipients":0}'
    with socket.create_server(("127.0.0.1", 0)) as port:

        def serve():
            for _ in range(3):
                connection, _ = port.accept()
                with connection:
                    data = b""
                    while not data.endswith(b"}"):
                        data += connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        where = f"http://127.0.0.1:{port.getsockname()[1]}"
        if isAsync:

            async def publish():
                async with AsyncPublisher(where, attempts=1) as push:
                    for _ in range(3):
                        await push.publish("a", 1)

            asyncio.run(publish())
        else:
            with Publisher(where, attempts=1) as push:
                for _ in range(3):
                    push.publish("a", 1)
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("isAsync", [False, True])
def test_serverGoneMeanwhile(isAsync):
    """What was sent on a kept connection may be done, even if nobody listens when it is to be sent again."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n{"channel":"a","id":"e:1","recipients":0}'
    with socket.create_server(("127.0.0.1", 0)) as port:

        def serve():
            connection, _ = port.accept()
            port.close()
            with connection:
                for reply in (answer, b""):
                    data = b""
                    while not data.endswith(b"}"):
                        data += connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        where = f"http://127.0.0.1:{port.getsockname()[1]}"

        async def publish():
            async with AsyncPublisher(where, attempts=1) as push:
                await push.publish("a", 1)
                await push.publish("a", 2)

        def publishTwice():
            with Publisher(where, attempts=1) as push:
                push.publish("a", 1)
                push.publish("a", 2)

        with pytest.raises(PublishError) as caught:
            asyncio.run(publish()) if isAsync else publishTwice()
        thread.join(PATIENCE)
    assert (caught.value.code, caught.value.may_be_done) == ("no-answer", True)
