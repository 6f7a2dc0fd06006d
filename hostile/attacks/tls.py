"""Attacks on TLS, during its handshake and after it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import time
import warnings

from OpenSSL import SSL

from hostile.attack import HASTY, Succeeded, Target, attack
from hostile.compiling import program
from hostile.peer import HANDSHAKE, Peer, ends, frame, tally, unverified

_ENDED = r"(?:[0-9,]+ x )?(?:reset|dropped)(?:, [0-9,]+ x (?:reset|dropped))?"


def _hello() -> bytes:
    """Return the ClientHello of an ordinary client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = unverified().wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


@attack("garbage on the TLS port", _ENDED)
def garbage(target: Target) -> str:
    """200 connections send random bytes, records of random bytes, and hellos with a flipped bit."""
    hello = _hello()
    peers = []
    for number in range(target.times(200)):
        peer = target.tls()
        turned = bytearray(hello)
        turned[5 + number % (len(hello) - 5)] ^= 1 << number % 8
        record = b"\x16\x03\x01" + struct.pack("!H", 500) + os.urandom(500)
        peer.send((os.urandom(500), record, bytes(turned) + os.urandom(50))[number % 3])
        peers.append(peer)
    # Some of the turned bits do not matter, and then the server waits for the client's next flight.
    return tally("dropped" if (how := peer.end(1)) == "open" else how for peer in peers)


@attack("half handshakes", _ENDED, variant=HASTY)
def half(target: Target) -> str:
    """300 clients send a hello, then nothing; 100 more send their hello byte by byte."""
    hello = _hello()
    peers = [target.tls() for _ in range(target.times(400))]
    slow = peers[: len(peers) // 4]
    for peer in peers[len(slow) :]:
        peer.send(hello)
    for byte in hello[:15]:
        for peer in slow:
            peer.send(bytes([byte]))
        time.sleep(0.25)
    return ends(peers)


@attack("plain HTTP on the TLS port", "(?:HTTP 400|reset|dropped)")
def plain(target: Target) -> str:
    """100 clients speak plain HTTP to the TLS port."""
    peers = [target.tls() for _ in range(target.times(100))]
    for peer in peers:
        peer.send(HANDSHAKE)
    return ends(peers)


@attack("invalid records", _ENDED)
def wrongRecords(target: Target) -> str:
    """100 WebSockets send records made with other keys, records that are too long, and plain frames."""
    wrong = (b"\x17\x03\x03\0\x40" + os.urandom(64), b"\x17\x03\x03\xff\xff" + bytes(1000), frame(1, b"plain"))
    peers = []
    for number in range(target.times(100)):
        peer = target.wss().upgrade()
        peer.raw = socket.socket(fileno=os.dup(peer.socket.fileno()))
        peer.raw.sendall(wrong[number % 3])
        peers.append(peer)
    return tally(_rawEnd(peer) for peer in peers)


def _rawEnd(peer: Peer) -> str:
    """Read the bytes below TLS until the end."""
    peer.raw.settimeout(20)
    try:
        while peer.raw.recv(1 << 16):
            pass
        how = "dropped"
    except TimeoutError:
        how = "open"
    except OSError:
        how = "reset"
    peer.raw.close()
    peer.cut()
    return how


@attack("renegotiation", "refused")
def renegotiation(target: Target) -> str:
    """A TLS 1.2 client requests new keys again and again."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    raw = socket.create_connection(("127.0.0.1", target.daemon.tls), 10)
    raw.setblocking(True)
    client = SSL.Connection(context, raw)
    client.set_connect_state()
    client.do_handshake()
    done = 0
    try:
        for _ in range(100):
            client.renegotiate()
            client.do_handshake()
            done += 1
    except SSL.Error:
        pass
    finally:
        client.close()
    if done:
        raise Succeeded(f"{done} times")
    return "refused"


@attack("old versions of TLS", "refused")
def oldVersions(target: Target) -> str:
    """Clients speak TLS 1.0 and 1.1 only."""
    done = []
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = unverified()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")
        try:
            with socket.create_connection(("127.0.0.1", target.daemon.tls), 10) as raw, context.wrap_socket(raw) as tls:
                done.append(tls.version())
        except (ssl.SSLError, ConnectionError):
            pass
    if done:
        raise Succeeded(f"{done} were spoken")
    return "refused"


@attack("floods of handshakes", r"[\d,]+ handshakes")
def handshakes(target: Target) -> str:
    """A client makes 1,000 TLS handshakes one after another, and cuts each connection."""
    count = target.times(1000)
    for _ in range(count):
        target.wss().cut()
    return f"{count:,} handshakes"


@attack("KeyUpdate", r".* were accepted")
def keyUpdate(target: Target) -> str:
    """4 TLS 1.3 clients send 60,000 KeyUpdate records of 27 bytes each, as fast as they can."""
    command = [program("keyupdate"), str(target.daemon.tls), str(target.times(60_000))]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    found = [client.communicate()[0].strip() for client in clients]
    return f"{found[0]} bytes were accepted"


@attack("one-byte records", r"open, [\d,]+ echoes")
def tinyRecords(target: Target) -> str:
    """4 clients send 100 messages each, with every byte in its own record."""
    content = frame(1, b"x" * 100)
    peers = [target.wss().upgrade() for _ in range(4)]
    echoes = 0
    for _ in range(target.times(100)):
        for peer in peers:
            for byte in content:
                peer.socket.send(bytes([byte]))
    for peer in peers:
        for _ in range(target.times(100)):
            echoes += peer.read(b"x" * 100).endswith(b"x" * 100)
    return f"open, {echoes:,} echoes"


@attack("cut inside a record")
def cut(target: Target) -> str:
    """1,000 connections end in the middle of the handshake or of a record, with and without a reset."""
    hello = _hello()
    for number in range(target.times(1000)):
        if number % 4:
            peer = target.tls()
            peer.send(hello[: 1 + number % len(hello)])
        else:
            peer = target.wss().upgrade()
            peer.raw = socket.socket(fileno=os.dup(peer.socket.fileno()))
            peer.raw.sendall(b"\x17\x03\x03\0\x40" + bytes(number % 64))
            peer.raw.close()
        peer.cut(bool(number % 2))
    return "nothing"
