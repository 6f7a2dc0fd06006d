"""Bytes to events and back: sockets, TLS, Autobahn."""
