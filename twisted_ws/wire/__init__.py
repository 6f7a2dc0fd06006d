"""Bytes to events and back: the only place that knows Autobahn, sockets and OpenSSL."""
