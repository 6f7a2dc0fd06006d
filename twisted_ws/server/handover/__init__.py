"""Callers that move to another process of the server: what leaves with one, and how it goes on there."""
