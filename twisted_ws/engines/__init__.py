"""Engines: what numbers, keeps and passes on the messages of channels, in this process or elsewhere."""
