"""Channels over HTTP: event streams, polling and publishing."""
