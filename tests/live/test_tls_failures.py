"""What the log says of clients that TLS keeps out: whoever runs the server can see why they do not come."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator

import pytest
import trustme

from tests.live.support import PATIENCE, Running, running, unverified

MODES = {"lane": {}, "no lane": {"TWISTED_WS_LANE": "0"}, "Python": {"TWISTED_WS_SPEEDUPS": "0"}}
PORTS = ("wss", "https")


@pytest.fixture(scope="module", params=MODES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server that asks its clients for certificates, on both kinds of port."""
    directory = tmp_path_factory.mktemp("server")
    authority = directory / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    tls = ("--tls-port", "0", "--broadcast-tls-port", "0", "--client-ca", str(authority))
    with running(directory, *tls, more=MODES[request.param]) as server:
        yield server


def _comes(server: Running, scheme: str, context: ssl.SSLContext) -> None:
    """Connect, and read what there is until the server ends it."""
    with socket.create_connection(("127.0.0.1", server.port(scheme)), PATIENCE) as sock:
        try:
            with context.wrap_socket(sock, server_hostname="localhost") as client:
                client.recv(1)
        except OSError:  # as ssl.SSLError is
            pass


def _contexts(name: str) -> tuple[ssl.SSLContext, str]:
    context = unverified()
    if name == "no certificate":
        return context, "peer did not return a certificate"
    if name == "another authority":
        trustme.CA().issue_cert("somebody").configure_cert(context)
        return context, "certificate verify failed"
    if name == "only HTTP/2":
        context.set_alpn_protocols(["h2"])
        return context, "no application protocol"
    return ssl.create_default_context(), "tlsv1 alert unknown ca: the client does not accept the certificate of this server"


@pytest.mark.parametrize("scheme", PORTS)
@pytest.mark.parametrize("name", ["no certificate", "another authority", "only HTTP/2", "does not trust us"])
def test_reason(server: Running, scheme: str, name: str) -> None:
    """A handshake that fails is a line with the client's address, OpenSSL's reason, and whose it is."""
    context, what = _contexts(name)
    line = f"127.0.0.1: TLS failed: {what}"
    before = server.output.count(line)
    _comes(server, scheme, context)
    server.waitFor(line, before + 1)


@pytest.mark.parametrize("scheme", PORTS)
def test_others(server: Running, scheme: str) -> None:
    """Plain HTTP is called that; a load balancer's check, which connects and leaves, with a reset or without, is no line."""
    for reset in (False, True):
        with socket.create_connection(("127.0.0.1", server.port(scheme)), PATIENCE) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line = "127.0.0.1: TLS failed: the client spoke plain HTTP: use https:// or wss:// there"
    before, failures = server.output.count(line), server.output.count("TLS failed")
    with socket.create_connection(("127.0.0.1", server.port(scheme)), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
    server.waitFor(line, before + 1)
    assert server.output.count("TLS failed") == failures + 1
