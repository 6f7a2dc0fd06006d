"""Channels: names with subscribers, history and presence, for every transport."""
